"""Manifests whose file names lead elsewhere, and weights that are not there."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, drop, put
from .edits import rename

FILES: dict[str, Callable[[Json], object]] = {
    "a weights path outside the bundle": rename("weights.safetensors", "../weights.safetensors"),
    "a program path outside the bundle": rename("step-00.onnx", "../../step-00.onnx"),
    "an absolute path": rename("tables.safetensors", "/etc/passwd"),
    "a path in a subfolder": rename("conditioning.onnx", "sub/conditioning.onnx"),
    "a backslash path": rename("conditioning.onnx", "..\\conditioning.onnx"),
    "a drive letter": rename("conditioning.onnx", "C:conditioning.onnx"),
    "two dots inside a name": rename("conditioning.onnx", "prepare..onnx"),
    "a hidden name": rename("conditioning.onnx", ".conditioning.onnx"),
    "a NUL in a name": rename("conditioning.onnx", "conditioning.onnx\0"),
    "a newline in a name": rename("conditioning.onnx", "conditioning.onnx\n"),
    "a letter beyond ASCII in a name": rename("conditioning.onnx", "cönditioning.onnx"),
    "a lone surrogate in a name": rename("conditioning.onnx", "\ud800.onnx"),
    "an empty name": rename("conditioning.onnx", ""),
    "a name of 5000 letters": rename("conditioning.onnx", "p" * 5000),
    "an unused file outside the bundle": put("files", "../x", value={"bytes": 1, "sha256": "0" * 64}),
    "weights that are not listed": lambda m: m["files"].pop("weights.safetensors"),
    "a program that is not listed": lambda m: m["files"].pop("step-03.onnx"),
    "a negative file size": put("files", "plan.json", "bytes", value=-1),
    "a hash of 63 digits": put("files", "plan.json", "sha256", value="0" * 63),
    "a hash in capitals": put("files", "plan.json", "sha256", value="A" * 64),
    "two programs of one file": put("programs", 1, "file", value="step-00.onnx"),
    "a prepare program that is also a step's": put("prepare", 0, "file", value="step-00.onnx"),
    "engines built ahead of time without their index": put("backend", value="trt"),
    "engines of the other kind without their index": put("backend", value="trt_rtx"),
    "weights that are also the tables": put("weights", value=["tables.safetensors"]),
    "weights listed twice": put("weights", value=["weights.safetensors"] * 2),
    "weights that are a program": put("weights", value=["weights.safetensors", "step-00.onnx"]),
    "second weights that are not listed": put("weights", value=["weights.safetensors", "more.safetensors"]),
    "second weights outside the bundle": put("weights", value=["weights.safetensors", "../more.safetensors"]),
    "a step's weights that are no weights file": put("programs", 0, "weights", value="tables.safetensors"),
    "a step's weights that are not there": put("programs", 0, "weights", value="more.safetensors"),
    "a step's weights outside the bundle": put("programs", 0, "weights", value="../weights.safetensors"),
    "a prepare program's weights that are not there": put("prepare", 0, "weights", value="more.safetensors"),
    "a program that names no weights": drop("programs", 0, "weights"),
    "weights named in a string": put("weights", value="weights.safetensors"),
}  # fmt: skip

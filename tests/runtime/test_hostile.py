"""A manifest that lies is refused in one line, with the file and a remedy, before anything is allocated."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, EngineError
from soda_runtime.backends.host import HostMemory
from soda_runtime.checks import open_manifest
from soda_runtime.manifest import MAX_MANIFEST_BYTES
from soda_runtime.request import example_request
from soda_runtime.versions import parse_manifest

from .bundles import GOLDEN, GOLDENS, TOKENS, Json, both, copy_golden, current_manifest, drop, edit_manifest, put

Refuses = Callable[[Path, str], None]
MANIFEST_TEXT = json.dumps(current_manifest(GOLDEN), indent=2).encode()


def rename(old: str, new: str) -> Callable[[Json], None]:
    """Rename a file wherever the manifest speaks of it, so that only the name itself is wrong."""

    def change(manifest: Json) -> None:
        text = json.dumps(manifest).replace(json.dumps(old), json.dumps(new))
        manifest.clear()
        manifest.update(json.loads(text))

    return change


def _program(reads: list[str], writes: list[str]) -> Json:
    return {"file": "step-00.onnx", "weights": "", "inputs": [], "reads": reads, "writes": writes, "flops": 1}


def _image(file: str, shape: list[int]) -> Json:
    return {"file": file, "weights": "", "kind": "image", "shape": shape}


def _video(shape: list[int], rate: float = 16.0, latents: int = 1, **keys: object) -> Callable[[Json], None]:
    """Make it a bundle of so many frames of latents, whose decoder makes a video of them in one call."""
    finish = {"file": "plan.json", "weights": "", "kind": "video", "shape": shape, "frames_per_second": rate}
    finish |= {"latent_frames": latents, "frames": shape[0], "first": [], "carry": []} | keys
    model = both(put("model", "latent_shape", value=[1, latents, 8, 8]), put("model", "output", value="latents"))
    return both(model, put("finish", value=[finish]))


_CARRY = {"name": "up.0.conv", "dtype": "float16", "shape": [2, 8, 8]}
_FIRST = {"file": "programs.json", "latent_frames": 1, "frames": 1}


def _chunked(**keys: object) -> Callable[[Json], None]:
    """One frame of the first of 5 latent frames, then 4 of every two."""
    whole: Json = {"latent_frames": 2, "frames": 4, "first": [_FIRST], "carry": [_CARRY]}
    return _video([9, 3, 8, 8], latents=5, **(whole | keys))


def _audio(shape: list[int], rate: float = 44100) -> Json:
    return {"file": "plan.json", "weights": "", "kind": "audio", "shape": shape, "sample_rate": rate}


def _prepare(file: str, inputs: list[str], outputs: list[str]) -> Json:
    return {"file": file, "weights": "", "inputs": inputs, "tables": [], "outputs": outputs}


def _step(program: int, read_offsets: list[int], write_offsets: list[int]) -> Json:
    return {"program": program, "read_offsets": read_offsets, "write_offsets": write_offsets}


def play(programs: list[Json], steps: list[Json]) -> Callable[[Json], None]:
    """Replace programs and steps; steps are filled up with the golden baseline."""

    def change(manifest: Json) -> None:
        baseline = manifest["programs"][manifest["baseline_program"]]
        manifest["programs"] = [*({**p, "file": f"step-0{i}.onnx"} for i, p in enumerate(programs)), baseline]
        manifest["baseline_program"] = len(programs)
        manifest["steps"] = steps + [_step(len(programs), [], [])] * (8 - len(steps))

    return change


def unaligned(manifest: Json) -> None:
    """Slots packed 2049 bytes apart: consistent in every other respect."""
    manifest["arena"].update(bytes=6 * 2049)
    for step in manifest["steps"]:
        for key in ("read_offsets", "write_offsets"):
            step[key] = [offset // 2048 * 2049 for offset in step[key]]


RESERVED = (
    "labels", "state", "state_out", "coefficients", "baseline_coefficients", "guidance", "noise", "latents", "image",
    "video", "audio",
)  # fmt: skip
UNPLAIN = ("", "cache.0.attn", "Conditioning", "0x", "_x", "a b", "tensör", "a" * 65, "x\n")


def name_tensor(name: str) -> Callable[[Json], None]:
    """Call the conditioning `name`, everywhere."""
    return both(
        put("tensors", 0, "name", value=name), put("prepare", 0, "outputs", value=[name]),
        lambda m: [program.update(inputs=[name]) for program in m["programs"]],
    )  # fmt: skip


def add_request_tensor(early: bool) -> Callable[[Json], None]:
    """A second prepare program, whose tensor `gain` the first one takes: before that or, wrongly, after it."""

    def change(manifest: Json) -> None:
        manifest["tensors"].append({"name": "gain", "dtype": "float16", "rows": True, "per_step": False, "shape": [1]})
        gain = _prepare("plan.json", ["labels"], ["gain"])
        manifest["prepare"][0]["inputs"] = ["labels", "gain"]
        manifest["prepare"].insert(0 if early else 1, gain)

    return change


def _name_slot(name: str) -> Callable[[Json], None]:
    """Call the first slot `name`, everywhere."""
    return rename("0.attn", name)


WRITE_WRITE_READ = [_program([], ["0.attn"]), _program([], ["0.ff"]), _program(["0.attn"], [])]
SIX = [0, 2048, 4096, 6144, 8192, 10240]

def scalar(name: str, **changes: object) -> Json:
    """A port of a number."""
    port = {"name": name, "dtype": "float32", "shape": [], "kind": "scalar", "default": 0.5, "least": 0.0, "most": 1.0}
    return port | changes


def embedding(name: str, shape: list[int]) -> Json:
    """A port of an embedding."""
    return {"name": name, "dtype": "float32", "shape": shape, "kind": "embedding"}


def _add_port(port: Json) -> Callable[[Json], None]:
    return lambda manifest: manifest["ports"].append(port)


LIES: dict[str, Callable[[Json], object]] = {
    # schema
    "an unknown key at the top": put("surplus", value=1),
    "an unknown key in a step": put("steps", 0, "surplus", value=1),
    "a missing key": lambda m: m.pop("arena"),
    "a missing key in a program": lambda m: m["programs"][0].pop("flops"),
    "another format": put("format", value="zip"),
    "no format": lambda m: m.pop("format"),
    "a newer version": put("version", value=6),
    "an older version": put("version", value=0),
    "a version that is a boolean": put("version", value=True),
    "a version that is a fraction": put("version", value=1.0),
    **{f"version {version} of a version 5 manifest": put("version", value=version) for version in (1, 2, 3, 4)},
    "a version that is a string": put("version", value="5"),
    "a version that is a nested list": put("version", value=[[[[1]]]]),
    "a version of 4000 digits": put("version", value=10**4000),
    "an unknown precision": put("precision", value="fp64"),
    "a boolean for a count": put("sampler", "steps", value=True),
    "a number for a flag": put("sampler", "stochastic", value=1),
    "a sampler that does not say whether it is fitted": drop("sampler", "fitted"),
    "a number for a correction": put("sampler", "fitted", value=0),
    "null for a correction": put("sampler", "fitted", value=None),
    "a correction at the top": put("fitted", value=False),
    "a string for a number": put("guidance", value="1.5"),
    "null for a number": put("model", "sites", value=None),
    "a fraction for a count": put("arena", "bytes", value=12288.0),
    "pixels of two sides": put("model", "latent_shape", value=[8, 8]),
    # what is printed must not steer a terminal
    "an escape sequence in a name": put("model", "name", value="\x1b]0;title\x07"),
    "a line break in the builder": put("builder", value="soda-export\nplain"),
    "a NUL in a family": put("model", "family", value="dit\0"),
    "a control character beyond ASCII": put("sampler", "name", value="ddim\x9b2J"),
    "a change of direction": put("model", "name", value="\u202egnp.exe"),
    "a line separator": put("model", "hash", value="0\u2028"),
    # sizes
    "a negative number of steps": put("sampler", "steps", value=-1),
    "ten million steps": put("sampler", "steps", value=10_000_000),
    "fewer timesteps than steps": put("sampler", "timesteps", value=[1]),
    "fewer steps than the sampler has": lambda m: m["steps"].pop(),
    "no steps at all": both(
        put("sampler", "steps", value=0), put("sampler", "timesteps", value=[]), put("steps", value=[]),
    ),
    "a negative number of sites": put("model", "sites", value=-1),
    "latents of no sides": put("model", "latent_shape", value=[]),
    "latents of five sides": both(put("model", "latent_shape", value=[1] * 5), put("model", "output", value="latents")),
    "latents of 2**36 elements": both(
        put("model", "latent_shape", value=[1 << 18, 1 << 18]), put("model", "output", value="latents"),
    ),
    "a latent side of zero": put("model", "latent_shape", value=[1, 0, 8]),
    "a negative latent side": put("model", "latent_shape", value=[1, 8, -8]),
    "a latent side of 2**62": put("model", "latent_shape", value=[1, 8, 1 << 62]),
    "a slot 2**62 wide": put("slots", 0, "shape", 1, value=1 << 62),
    "a slot of 2**36 elements": put("slots", 0, "shape", value=[1 << 18, 1 << 18]),
    "a slot of a negative side": put("slots", 0, "shape", 0, value=-16),
    "a slot of two negative sides": put("slots", 0, "shape", value=[-16, -16]),
    "a slot of no axes": put("slots", 0, "shape", value=[]),
    "a slot of seven axes": put("slots", 0, "shape", value=[1] * 7),
    "a slot of whole numbers": put("slots", 0, "dtype", value="int64"),
    "a slot without a type": drop("slots", 0, "dtype"),
    "16385 slots": lambda m: m["slots"].extend({**m["slots"][0], "name": f"more.{i}"} for i in range(16385)),
    "two slots of one name": lambda m: m["slots"].append(m["slots"][0]),
    **{f"a slot named {name!r:.20}": _name_slot(name) for name in (
        "", ".attn", "Attn", "0.attn#0", "0.attn#10", "0.attn#", "0.attn@1", "0 attn", "0.attn\n", "a" * 97, "ä", "#1",
    )},
    "a negative class": put("ports", 0, "null_class", value=-1),
    "no classes": put("ports", 0, "num_classes", value=0),
    "2**25 classes": put("ports", 0, "num_classes", value=1 << 25),
    "a state of 2**40 tensors": put("sampler", "state_size", value=1 << 40),
    "three rows a sample": put("rows_per_sample", value=3),
    "a tensor of 2**50 entries": put("tensors", 0, "shape", 1, value=1 << 50),
    "a tensor of 2**40 elements": put("tensors", 0, "shape", value=[1 << 20, 1 << 20]),
    "a tensor of 2**36 elements in six axes": put("tensors", 0, "shape", value=[64] * 6),
    "a tensor of a negative count": put("tensors", 0, "shape", 0, value=-20),
    "a tensor of two negative counts": put("tensors", 0, "shape", value=[-20, -16]),
    "a tensor of no elements": put("tensors", 0, "shape", 0, value=0),
    "a tensor of no axes": put("tensors", 0, "shape", value=[]),
    "a tensor of seven axes": put("tensors", 0, "shape", value=[1] * 7),
    "10**6 axes": put("tensors", 0, "shape", value=[9] * 1_000_000),
    "no tensors": put("tensors", value=[]),
    "5000 tensors": lambda m: m["tensors"].extend({**m["tensors"][0], "name": f"t{i}"} for i in range(5000)),
    "no prepare programs": put("prepare", value=[]),
    "65 prepare programs": lambda m: m["prepare"].extend(m["prepare"] * 64),
    "no weights": put("weights", value=[]),
    "17 weights": put("weights", value=["weights.safetensors"] * 17),
    "an image of 2**20 rows": put("finish", value=[_image("plan.json", [3, 1 << 20, 8])]),
    "an image without columns": put("finish", value=[_image("plan.json", [3, 8, 0])]),
    "an image of two sides": put("finish", value=[_image("plan.json", [8, 8])]),
    "two finish programs": put(
        "finish", value=[_image(name, [3, 8, 8]) for name in ("plan.json", "programs.json")]
    ),
    "an image of 2**36 values": put("finish", value=[_image("plan.json", [1 << 12] * 3)]),
    "a finish program of an unknown kind": put("finish", value=[{**_image("plan.json", [3, 8, 8]), "kind": "text"}]),
    "a finish program without a kind": put("finish", value=[{"file": "plan.json", "weights": "", "shape": [3, 8, 8]}]),
    "a video without a rate": both(_video([2, 3, 8, 8]), drop("finish", 0, "frames_per_second")),
    "an image with a rate": put("finish", value=[{**_image("plan.json", [3, 8, 8]), "frames_per_second": 16.0}]),
    "a video of three sides": _video([3, 8, 8]),
    "a video of no frames a second": _video([2, 3, 8, 8], rate=0.0),
    "a video of a million frames a second": _video([2, 3, 8, 8], rate=1e6),
    "a video of 2**40 values": _video([1 << 16, 4, 1 << 11, 1 << 11]),
    "a video of latents without frames": both(_video([2, 3, 8, 8]), put("model", "latent_shape", value=[1, 8, 8])),
    "a video that does not say what a call takes": both(_chunked(), drop("finish", 0, "latent_frames")),
    "a video that does not say what a call makes": both(_chunked(), drop("finish", 0, "frames")),
    "a video without first": both(_chunked(), drop("finish", 0, "first")),
    "a video without carry": both(_chunked(), drop("finish", 0, "carry")),
    "an image with carry": put("finish", value=[{**_image("plan.json", [3, 8, 8]), "carry": []}]),
    "calls of no latent frames": _chunked(latent_frames=0),
    "calls of negative latent frames": _chunked(latent_frames=-2, frames=-4),
    "calls of 2**62 latent frames": _chunked(latent_frames=1 << 62),
    "calls of half a latent frame": _chunked(latent_frames=0.5),
    "calls of no frames": _chunked(frames=0),
    "calls of 2**17 frames": _chunked(frames=1 << 17),
    "calls that leave a latent frame over": _chunked(latent_frames=3),
    "calls that make too few frames": _chunked(frames=3),
    "calls that make too many frames": _chunked(frames=8),
    "calls that make the frames of more latent frames than there are": _chunked(latent_frames=4),
    "a first call that takes everything": _chunked(first=[{**_FIRST, "latent_frames": 5, "frames": 9}]),
    "a first call that takes more than there is": _chunked(first=[{**_FIRST, "latent_frames": 7, "frames": 13}]),
    "a first call that makes as much as the others": _chunked(first=[{**_FIRST, "frames": 4}]),
    "a first call of no latent frames": _chunked(first=[{**_FIRST, "latent_frames": 0}]),
    "a first call of 2**62 frames": _chunked(first=[{**_FIRST, "frames": 1 << 62}]),
    "a first call of negative frames": _chunked(first=[{**_FIRST, "frames": -3}]),
    "two first calls": _chunked(first=[_FIRST, {**_FIRST, "file": "step-00.onnx"}]),
    "a first call without a file": _chunked(first=[{"latent_frames": 1, "frames": 1}]),
    "a first call with weights": _chunked(first=[{**_FIRST, "weights": ""}]),
    "first that is no array": _chunked(first=_FIRST),
    "65 carried tensors": _chunked(carry=[{**_CARRY, "name": f"c{i}"} for i in range(65)]),
    "a carried tensor without axes": _chunked(carry=[{**_CARRY, "shape": []}]),
    "a carried tensor of seven axes": _chunked(carry=[{**_CARRY, "shape": [1] * 7}]),
    "a carried tensor of no values": _chunked(carry=[{**_CARRY, "shape": [2, 0]}]),
    "a carried tensor of 2**35 values": _chunked(carry=[{**_CARRY, "shape": [1 << 20, 1 << 15]}]),
    "a carried tensor of 2**21 rows": _chunked(carry=[{**_CARRY, "shape": [1 << 21]}]),
    "a carried tensor of ints": _chunked(carry=[{**_CARRY, "dtype": "int64"}]),
    "a carried tensor with rows": _chunked(carry=[{**_CARRY, "rows": True}]),
    "a carried tensor without a name": _chunked(carry=[{**_CARRY, "name": ""}]),
    "a carried tensor of an odd name": _chunked(carry=[{**_CARRY, "name": "up/0"}]),
    "a carried tensor of a long name": _chunked(carry=[{**_CARRY, "name": "a" * 97}]),
    "two carried tensors of one name": _chunked(carry=[_CARRY, _CARRY]),
    "sound of three sides": put("finish", value=[_audio([2, 8, 8])]),
    "sound of a rate of zero": put("finish", value=[_audio([2, 8], rate=0)]),
    "sound of a fractional rate": put("finish", value=[_audio([2, 8], rate=44100.5)]),
    "sound of 2**31 samples": put("finish", value=[_audio([1, 1 << 31])]),
    "sound of 2**17 channels": put("finish", value=[_audio([1 << 17, 8])]),
    "a negative timestep": put("sampler", "timesteps", 0, value=-1),
    "a number too large for a float": put("guidance", value=10**400),
    "guidance beyond float32": put("guidance", value=1e39),
    "a scale beyond float32": put("sampler", "initial_scale", value=-1e39),
    "a null class beyond the classes": put("ports", 0, "null_class", value=11),
    "flops of 2**63": put("programs", 0, "flops", value=1 << 63),
    "negative flops": put("programs", 0, "flops", value=-1),
    "an arena of 2**62 bytes": put("arena", "bytes", value=1 << 62),
    "a negative arena": put("arena", "bytes", value=-1),
    "an arena of a byte more than three values of every slot": put("arena", "bytes", value=7 * 3 * 2048 + 1),
    "slots of one size for all, as in version 4": put("arena", "slot_bytes", value=2048),
    # file names
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
    # tensors and the programs that make them
    **{f"a tensor named {name!r:.20}": name_tensor(name) for name in (*RESERVED, *UNPLAIN)},
    "two tensors of one name": lambda m: m["tensors"].append({**m["tensors"][0], "rows": False}),
    "a tensor named as a table": name_tensor("time_embedding"),
    "a tensor of an unknown type": put("tensors", 0, "dtype", value="float64"),
    "a tensor of whole numbers": put("tensors", 0, "dtype", value="int64"),
    "a tensor that no program makes": lambda m: m["tensors"].append({**m["tensors"][0], "name": "more"}),
    "a tensor that is made but not there": put("prepare", 0, "outputs", value=["conditioning", "more"]),
    "a tensor made twice by one program": put("prepare", 0, "outputs", value=["conditioning"] * 2),
    "a tensor made by two programs": both(
        lambda m: m["prepare"].append({**m["prepare"][0], "file": "plan.json", "tables": ["more"]}),
    ),
    "a tensor of steps made by a program of the request": put("prepare", 0, "tables", value=[]),
    "a tensor of the request made by a program of steps": put("tensors", 0, "per_step", value=False),
    "a program that makes nothing": lambda m: m["prepare"].append(
        _prepare("plan.json", ["labels"], [])
    ),
    "a program that takes the labels twice": put("prepare", 0, "inputs", value=["labels", "labels"]),
    "a program that takes what it makes": put("prepare", 0, "inputs", value=["labels", "conditioning"]),
    "a program that takes what nothing gives": put("prepare", 0, "inputs", value=["gain"]),
    "a program that takes a table as an input": put("prepare", 0, "inputs", value=["time_embedding"]),
    "a program of labels that takes token ids": put("prepare", 0, "inputs", value=["input_ids"]),
    "a program of labels that takes embeddings": put("prepare", 0, "inputs", value=["embeds"]),
    "a program of labels that makes embeddings": lambda m: m["prepare"].append(
        _prepare("plan.json", ["labels"], ["embeds"])
    ),
    "a program that takes the state": put("prepare", 0, "inputs", value=["state"]),
    "a program that takes what a later one makes": add_request_tensor(early=False),
    "a program that takes a tensor of steps": both(
        add_request_tensor(early=False), put("prepare", 0, "inputs", value=["labels"]),
        put("prepare", 1, "inputs", value=["conditioning"]),
    ),
    "a table listed twice": put("prepare", 0, "tables", value=["time_embedding", "time_embedding"]),
    "a table of two programs": both(
        add_request_tensor(early=True), put("tensors", 1, "per_step", value=True),
        put("prepare", 0, "tables", value=["time_embedding"]), put("prepare", 1, "inputs", value=["labels"]),
    ),
    "a table listed that holds the coefficients": put("prepare", 0, "tables", value=["time_embedding", "coefficients"]),
    "a table listed that holds the sampler's own coefficients": put(
        "prepare", 0, "tables", value=["time_embedding", "baseline_coefficients"]
    ),
    "a table named as the labels": put("prepare", 0, "tables", value=["labels"]),
    "a table of a name that is not plain": put("prepare", 0, "tables", value=["Time"]),
    "a step that takes a tensor twice": put("programs", 0, "inputs", value=["conditioning"] * 2),
    "a step that takes a tensor that is not there": put("programs", 0, "inputs", value=["conditioning", "more"]),
    "a step that takes the labels twice": put("programs", 0, "inputs", value=["labels", "labels"]),
    "a step that takes the state as a tensor": put("programs", 0, "inputs", value=["state"]),
    # ports
    "a condition, as in version 4": put(
        "model", "condition", value={"kind": "label", "num_classes": 10, "null_class": 10}
    ),
    "a port of an unknown kind": put("ports", 0, "kind", value="picture"),
    "a port without a kind": drop("ports", 0, "kind"),
    "a kind that is a list": put("ports", 0, "kind", value=["label"]),
    "a kind that is null": put("ports", 0, "kind", value=None),
    "a port that is a string": put("ports", 0, value="label"),
    "a port of labels called a scalar": put("ports", 0, "kind", value="scalar"),
    "a port of labels with a tokenizer": put("ports", 0, "tokenizer", value=0),
    "labels of float32": put("ports", 0, "dtype", value="float32"),
    "labels of an axis": put("ports", 0, "shape", value=[1]),
    "65 ports": put("ports", value=[scalar(f"s{i}") for i in range(65)]),
    "two ports of one name": lambda m: m["ports"].append(m["ports"][0]),
    "a port named as a tensor": lambda m: m["ports"].append(scalar("conditioning")),
    "a port named as a table": lambda m: m["ports"].append(scalar("time_embedding")),
    **{f"a port named {name!r:.20}": _add_port(scalar(name)) for name in (*RESERVED, *UNPLAIN)},
    "a scalar of whole numbers": _add_port(scalar("more", dtype="int64")),
    "a scalar of an axis": _add_port(scalar("more", shape=[1])),
    "a default below the least": _add_port(scalar("more", least=1.0)),
    "a default above the most": _add_port(scalar("more", most=0.25)),
    "a default that is not a number": _add_port(scalar("more", default="0")),
    "a default beyond float32": _add_port(scalar("more", default=1e39, most=3e38)),
    "a mask of no axes": _add_port({"name": "more", "dtype": "int64", "shape": [], "kind": "mask"}),
    "a mask of float32": _add_port({"name": "more", "dtype": "float32", "shape": [8], "kind": "mask"}),
    "an embedding of no axes": _add_port({"name": "more", "dtype": "float32", "shape": [], "kind": "embedding"}),
    "an embedding of whole numbers": _add_port({"name": "more", "dtype": "int64", "shape": [8], "kind": "embedding"}),
    "an embedding of float16": _add_port({"name": "more", "dtype": "float16", "shape": [8], "kind": "embedding"}),
    "an embedding of seven axes": _add_port(embedding("more", [1] * 7)),
    "an embedding of 2**36 values": _add_port(embedding("more", [1 << 18, 1 << 18])),
    "an embedding of a negative side": _add_port(embedding("more", [-8])),
    "token ids without a tokenizer": _add_port(
        {"name": "more", "dtype": "int64", "shape": [8], "kind": "token_ids", "tokenizer": 0}
    ),
    "a tokenizer without token ids": lambda m: m["tokenizers"].append(
        {"file": "plan.json", "max_tokens": 8, "clean": "none", "pad_id": 0}
    ),
    "labels that a program makes": lambda m: m["prepare"].append(
        {"file": "plan.json", "weights": "", "inputs": [], "tables": [], "outputs": ["labels"]}
    ),
    "a scalar that a program makes of embeddings": both(
        _add_port(scalar("more")), _add_port(embedding("given", [8])),
        lambda m: m["prepare"].append(_prepare("plan.json", ["given"], ["more"])),
    ),
    "embeddings that a program makes of labels": both(
        _add_port(embedding("more", [8])), lambda m: m["prepare"].append(_prepare("plan.json", ["labels"], ["more"])),
    ),
    "embeddings that a program of steps makes": both(
        _add_port(embedding("more", [8])), put("prepare", 0, "outputs", value=["conditioning", "more"]),
    ),
    "an encoder of what an encoder makes": both(
        _add_port(embedding("a", [8])), _add_port(embedding("b", [8])), _add_port(embedding("c", [8])),
        lambda m: m["prepare"].append(_prepare("plan.json", ["a"], ["b"])),
        lambda m: m["prepare"].append(_prepare("programs.json", ["b"], ["c"])),
    ),
    # programs and the cache
    "two programs of one file": put("programs", 1, "file", value="step-00.onnx"),
    "a prepare program that is also a step's": put("prepare", 0, "file", value="step-00.onnx"),
    "a finish program that is also a step's": put("finish", value=[_image("step-00.onnx", [3, 8, 8])]),
    "a first call's program that is the other calls'": _chunked(first=[{**_FIRST, "file": "plan.json"}]),
    "a first call's program that is also a step's": _chunked(first=[{**_FIRST, "file": "step-00.onnx"}]),
    "a first call's program that is not listed": _chunked(first=[{**_FIRST, "file": "more.onnx"}]),
    "a first call's program outside the bundle": _chunked(first=[{**_FIRST, "file": "../programs.json"}]),
    "a finish program that is not listed": put("finish", value=[_image("more.onnx", [3, 8, 8])]),
    "a finish program outside the bundle": put("finish", value=[_image("../plan.json", [3, 8, 8])]),
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
    "a finish program's weights that are not there": put(
        "finish", value=[{**_image("plan.json", [3, 8, 8]), "weights": "more.safetensors"}]
    ),
    "a program that names no weights": drop("programs", 0, "weights"),
    "weights named in a string": put("weights", value="weights.safetensors"),
    "a program beyond the last": put("steps", 0, "program", value=6),
    "a negative program": put("steps", 0, "program", value=-1),
    "a baseline program beyond the last": put("baseline_program", value=6),
    "a negative baseline program": put("baseline_program", value=-1),
    "a baseline program that reads the cache": put("baseline_program", value=1),
    "a slot of a layer that does not exist": put("programs", 0, "writes", 0, value="3.attn"),
    "a slot of a module that does not exist": put("programs", 0, "writes", 0, value="0.cross_attn"),
    "a slot without a layer": put("programs", 0, "writes", 0, value="attn"),
    "a slot with a padded layer": put("programs", 0, "writes", 0, value="00.attn"),
    "a slot of a negative layer": put("programs", 0, "writes", 0, value="-1.attn"),
    "a slot with digits beyond ASCII": put("programs", 0, "writes", 0, value="²0.attn"),
    "a slot written twice by one program": put("programs", 0, "writes", 1, value="0.attn"),
    "a slot read twice by one program": put("programs", 1, "reads", 1, value="0.attn"),
    "an offset beyond the arena": put("steps", 0, "write_offsets", 5, value=12288),
    "an offset half outside the arena": put("steps", 0, "write_offsets", 5, value=11264),
    "a negative offset": put("steps", 0, "write_offsets", 0, value=-2048),
    "an offset of 2**63": put("steps", 0, "write_offsets", 0, value=1 << 63),
    "an arena smaller than its slots": put("arena", "bytes", value=10240),
    "fewer offsets than slots": put("steps", 0, "write_offsets", value=[0]),
    "more offsets than slots": put("steps", 1, "write_offsets", value=[0]),
    "two slots at the same place": put("steps", 0, "write_offsets", 1, value=0),
    "two slots half over one another": put("steps", 0, "write_offsets", 1, value=1024),
    "two slots one byte over one another": put("steps", 0, "write_offsets", 1, value=2047),
    "a slot read before any step wrote it": put("steps", 0, value=_step(1, SIX, [])),
    "a slot read where another lies": put("steps", 1, "read_offsets", value=[2048, 0, *SIX[2:]]),
    "a slot updated away from its place": put("steps", 2, "write_offsets", value=[4096, 8192, 0]),
    "a slot never written but read": play([_program([], ["0.attn"]), _program(["0.ff"], [])], [
        _step(0, [], [0]), _step(1, [0], []),
    ]),
    "a slot written over a live one": play(WRITE_WRITE_READ, [
        _step(0, [], [0]), _step(1, [], [0]), _step(2, [0], []),
    ]),
    "a slot half over a live one": play(WRITE_WRITE_READ, [
        _step(0, [], [2048]), _step(1, [], [1024]), _step(2, [2048], []),
    ]),
    "slots off the alignment": unaligned,
    "an offset off the alignment": put("steps", 0, "write_offsets", 0, value=4),
}  # fmt: skip

# what the checks let pass, with what happens instead
LIES |= {
    "a value of a third age": put("programs", 1, "reads", 0, value="0.attn@3"),
    "a value of no age": put("programs", 1, "reads", 0, value="0.attn@0"),
    "an age as in version 4": put("programs", 1, "reads", 0, value="0.attn.1"),
    "an older value written": put("programs", 0, "writes", 0, value="0.attn@1"),
    "an older value that was never written": put("programs", 1, "reads", 0, value="0.attn@1"),
    "an unknown key that is very long": put("x" * 1_000_000, value=1),
    "an arena of 10**4000 bytes": put("arena", "bytes", value=10**4000),
    "a count of 4000 digits": put("model", "sites", value=10**4000),
}


EMBEDS, MASK, IDS = 0, 1, 2  # ports of the golden bundle of prompts
TEXT_LIES: dict[str, Callable[[Json], object]] = {
    "no tokens": both(
        put("tokenizers", 0, "max_tokens", value=0), *(put("ports", i, "shape", value=[0]) for i in (1, 2)),
    ),
    "8192 tokens": both(
        put("tokenizers", 0, "max_tokens", value=8192), *(put("ports", i, "shape", value=[8192]) for i in (1, 2)),
    ),
    "2**40 tokens": put("tokenizers", 0, "max_tokens", value=1 << 40),
    "more tokens than the ids": put("tokenizers", 0, "max_tokens", value=TOKENS + 1),
    "fewer tokens than the mask": put("ports", MASK, "shape", value=[TOKENS + 1]),
    "token ids of float32": put("ports", IDS, "dtype", value="float32"),
    "a mask of the second tokenizer": put("ports", MASK, "tokenizer", value=1),
    "ids of a negative tokenizer": put("ports", IDS, "tokenizer", value=-1),
    "two ports of ids of one tokenizer": lambda m: (
        m["ports"].append({**m["ports"][IDS], "name": "more"}), m["prepare"][0]["inputs"].append("more"),
    ),
    "two masks of one tokenizer": lambda m: m["ports"].append({**m["ports"][MASK], "name": "more"}),
    "two tokenizers for one port": lambda m: m["tokenizers"].append({**m["tokenizers"][0], "file": "plan.json"}),
    "nine tokenizers": lambda m: m["tokenizers"].extend(m["tokenizers"] * 8),
    "a text that is cleaned in another way": put("tokenizers", 0, "clean", value="lower"),
    "a padding of -2": put("tokenizers", 0, "pad_id", value=-2),
    "a padding of 2**31": put("tokenizers", 0, "pad_id", value=1 << 31),
    "embeddings of no width": put("ports", EMBEDS, "shape", 1, value=0),
    "embeddings 2**31 wide": put("ports", EMBEDS, "shape", 1, value=1 << 31),
    "a fraction of tokens": put("tokenizers", 0, "max_tokens", value=8.0),
    "a port of text with classes": put("ports", IDS, "num_classes", value=10),
    "token ids called a label": put("ports", IDS, "kind", value="label"),
    "a tokenizer without a file": drop("tokenizers", 0, "file"),
    "a tokenizer of the empty name": put("tokenizers", 0, "file", value=""),
    "a tokenizer that is null": put("tokenizers", 0, "file", value=None),
    "a tokenizer that is not listed": drop("files", "tokenizer.json"),
    "a tokenizer outside the bundle": rename("tokenizer.json", "../tokenizer.json"),
    "a tokenizer that is a program": put("tokenizers", 0, "file", value="step-00.onnx"),
    "a tokenizer that is the weights": put("tokenizers", 0, "file", value="decoder.safetensors"),
    "a tokenizer without a text encoder": drop("prepare", 0),
    "a text encoder without a tokenizer": put("tokenizers", value=[]),
    "a text encoder with no tokenizer and no ids": both(
        put("tokenizers", value=[]), drop("ports", IDS), put("prepare", 0, "inputs", value=["attention_mask"]),
        put("ports", MASK, value={"name": "attention_mask", "dtype": "int64", "shape": [TOKENS], "kind": "mask"}),
    ),
    "a text encoder that makes the mask of tokens": lambda m: (
        m["prepare"][0]["outputs"].append("attention_mask"), m["prepare"][0]["inputs"].remove("attention_mask"),
    ),
    "a step that takes token ids": lambda m: m["programs"][0]["inputs"].append("input_ids"),
    "a text encoder that makes another tensor besides": both(
        lambda m: m["prepare"][0]["outputs"].append("key_0"), lambda m: m["prepare"][1]["outputs"].remove("key_0"),
    ),
    "a text encoder that takes a table": put("prepare", 0, "tables", value=["more"]),
    "a text encoder that takes embeddings": put("prepare", 0, "inputs", value=["input_ids", "embeds"]),
    "a text encoder that takes what another program makes": lambda m: (
        m["prepare"].insert(0, _prepare("plan.json", ["attention_mask"], ["first"])),
        m["tensors"].append({"name": "first", "dtype": "float32", "rows": True, "per_step": False, "shape": [8]}),
        m["prepare"][1]["inputs"].append("first"),
    ),
    "two text encoders": lambda m: m["prepare"].append({**m["prepare"][0], "file": "plan.json"}),
    "a context of token ids": put("prepare", 1, "inputs", value=["embeds", "input_ids"]),
    "a context of labels": put("prepare", 1, "inputs", value=["embeds", "labels"]),
    "conditioning of token ids": put("prepare", 2, "inputs", value=["input_ids"]),
    "embeddings among the tensors": lambda m: m["tensors"].append(
        {"name": "embeds", "dtype": "float32", "rows": True, "per_step": False, "shape": [TOKENS, 16]}
    ),
    "a tensor of the request for every step": put("tensors", 1, "per_step", value=True),
    "a tensor that is made no more": lambda m: m["prepare"][1]["outputs"].remove("value_2"),
    "a decoder that is the text encoder": put("finish", 0, "file", value="text-encoder.onnx"),
    "a second decoder": lambda m: m["finish"].append(_image("plan.json", [3, 16, 16])),
    "an image 2**17 wide": put("finish", 0, "shape", 2, value=1 << 17),
}  # fmt: skip
V4_LIES: dict[str, Callable[[Json], object]] = {
    "a table of slots": put("slots", value=[]),
    "ports": put("ports", value=[]),
    "tokenizers": put("tokenizers", value=[]),
    "a program that names its weights": put("programs", 0, "weights", value="weights.safetensors"),
    "no layers": put("model", "num_layers", value=0),
    "a billion layers": put("model", "num_layers", value=10**9),
    "no modules": put("model", "modules", value=[]),
    "nine modules": put("model", "modules", value=[c * 2 for c in "abcdefghi"]),
    "two modules of one name": put("model", "modules", value=["attn", "attn", "ff"]),
    "a module whose name is no slot's": put("model", "modules", value=["attn", "ff", "X 1"]),
    "a width of 2**62": put("model", "width", value=1 << 62),
    "a negative token count": put("model", "num_tokens", value=-16),
    "latents of four sides": put("model", "latent_shape", value=[1, 1, 8, 8]),
    "a negative class": put("model", "condition", "null_class", value=-1),
    "a condition of an unknown kind": put("model", "condition", "kind", value="image"),
    "a condition of labels called text": put("model", "condition", "kind", value="text"),
    "a text condition for programs of labels": put("model", "condition", value={
        "kind": "text", "max_tokens": 8, "embed_width": 16, "tokenizer": ""
    }),
    "a text condition of 2**40 tokens": put("model", "condition", value={
        "kind": "text", "max_tokens": 1 << 40, "embed_width": 16, "tokenizer": ""
    }),
    "slots smaller than a tensor": put("arena", "slot_bytes", value=1024),
    "slots much larger than a tensor": put("arena", "slot_bytes", value=1 << 30),
    "slots of zero bytes": put("arena", "slot_bytes", value=0),
    "three rows a sample": put("rows_per_sample", value=3),
    "slots of another precision": put("precision", value="fp16"),
    "nine prepare programs": lambda m: m["prepare"].extend(m["prepare"] * 8),
    "nine weights": put("weights", value=["weights.safetensors"] * 9),
    "a finish program of a kind": put("finish", value=[_image("plan.json", [3, 8, 8])]),
    "a slot of a layer that does not exist": put("programs", 0, "writes", 0, value="3.attn"),
    "a slot of a module that does not exist": put("programs", 0, "writes", 0, value="0.cross_attn"),
    "a slot with a padded layer": put("programs", 0, "writes", 0, value="00.attn"),
    "an age as in version 5": put("programs", 1, "reads", 0, value="0.attn@1"),
    "an older value written": put("programs", 0, "writes", 0, value="0.attn.1"),
}  # fmt: skip
V1_LIES: dict[str, Callable[[Json], object]] = {
    "an unknown key": put("surplus", value=1),
    "keys of version 2": put("tensors", value=[]),
    "no prepare program": drop("prepare"),
    "several weights": put("weights", value=["weights.safetensors"]),
    "half precision": put("precision", value="fp16"),
    "classes in a condition": both(
        drop("model", "num_classes"), drop("model", "null_class"),
        put("model", "condition", value={"kind": "label", "num_classes": 10, "null_class": 10}),
    ),
    "a learned variance": put("sampler", "learned_variance", value=False),
    "fractional timesteps": put("sampler", "timesteps", 0, value=0.5),
    "a timestep of 400 digits": put("sampler", "timesteps", 0, value=10**400),
    "a negative timestep": put("sampler", "timesteps", 0, value=-1),
    "a null class beyond the classes": put("model", "null_class", value=11),
    "conditioning 2**50 wide": put("prepare", "conditioning", 0, "width", value=1 << 50),
    "conditioning of a negative count": put("prepare", "conditioning", 0, "entries", value=-20),
    "no conditioning": put("prepare", "conditioning", value=[]),
    "no tables": put("prepare", "tables", value=[]),
    "conditioning named as the state": put("prepare", "conditioning", 0, "name", value="state"),
    "conditioning twice": lambda m: m["prepare"]["conditioning"].append(m["prepare"]["conditioning"][0]),
    "a prepare program that is also a step's": put("prepare", "file", value="step-00.onnx"),
    "weights outside the bundle": rename("weights.safetensors", "../weights.safetensors"),
    "slots at the same place": put("steps", 0, "write_offsets", 1, value=0),
    "an arena of 2**62 bytes": put("arena", "bytes", value=1 << 62),
}  # fmt: skip


@pytest.mark.parametrize("change", LIES.values(), ids=LIES.keys())
def test_a_manifest_that_lies_is_refused(folder: Path, refuses: Refuses, change: Callable[[Json], object]) -> None:
    edit_manifest(folder, change)
    refuses(folder, "manifest.json")


@pytest.mark.parametrize("change", TEXT_LIES.values(), ids=TEXT_LIES.keys())
def test_a_manifest_of_prompts_that_lies_is_refused(
    text_folder: Path, refuses: Refuses, change: Callable[[Json], object]
) -> None:
    edit_manifest(text_folder, change)
    refuses(text_folder, "manifest.json")


@pytest.mark.parametrize("change", V4_LIES.values(), ids=V4_LIES.keys())
def test_a_manifest_of_version_4_that_lies_is_refused(
    v4_folder: Path, refuses: Refuses, change: Callable[[Json], object]
) -> None:
    edit_manifest(v4_folder, change)
    refuses(v4_folder, "manifest.json")


@pytest.mark.parametrize("change", V1_LIES.values(), ids=V1_LIES.keys())
def test_a_manifest_of_version_1_that_lies_is_refused(
    v1_folder: Path, refuses: Refuses, change: Callable[[Json], object]
) -> None:
    edit_manifest(v1_folder, change)
    refuses(v1_folder, "manifest.json")


def _second_weights(manifest: Json) -> None:
    manifest["weights"].append("more.safetensors")
    manifest["files"]["more.safetensors"] = manifest["files"]["weights.safetensors"]


def _widen_last(manifest: Json) -> None:
    """The slot that lies last in the arena is twice as large as the others."""
    name = manifest["programs"][0]["writes"][-1]
    slot = next(slot for slot in manifest["slots"] if slot["name"] == name)
    slot["shape"][0] *= 2
    manifest["arena"]["bytes"] += 2048


TRUTHS: dict[str, Callable[[Json], object]] = {
    "another name of a tensor": name_tensor("x_1"),
    "a tensor of the longest name": name_tensor("a" * 64),
    "a tensor of the request before the tensor of steps that is made of it": add_request_tensor(early=True),
    "a program of steps that takes nothing but tables": put("prepare", 0, "inputs", value=[]),
    "a step that takes no tensors": put("programs", 1, "inputs", value=[]),
    "a name beyond the first 65536 characters": put("model", "name", value="\U0001f964"),
    "a name of a backslash and half a pair's digits": put("model", "name", value="\\ud83d"),
    "a fractional timestep": put("sampler", "timesteps", 0, value=999.5),
    "a second weights file": _second_weights,
    "another name of the tables": both(
        put("tables", value="more.safetensors"),
        lambda m: m["files"].update({"more.safetensors": m["files"]["tables.safetensors"]}),
    ),
    "coefficients of the schedule's own": put("sampler", "fitted", value=True),
    "a step that takes the labels": put("programs", 0, "inputs", value=["conditioning", "labels"]),
    "a scalar": both(_add_port(scalar("more")), put("prepare", 0, "inputs", value=["labels", "more"])),
    "a scalar of one value": _add_port(scalar("more", least=0.5, most=0.5)),
    "a hint": both(_add_port(embedding("hint", [3, 8, 8])), put("programs", 0, "inputs", value=["hint"])),
    "an encoder of a hint": both(
        _add_port(embedding("hint", [3, 8, 8])), _add_port(embedding("seen", [8])),
        lambda m: m["prepare"].append(_prepare("plan.json", ["hint"], ["seen"])),
    ),
    "second outputs": rename("0.ff", "0.attn#1"),
    "the longest name of a slot": rename("0.ff", "a" * 96 + "#9"),
    "slots that nobody uses": lambda m: m["slots"].append({"name": "more", "shape": [1] * 6, "dtype": "bfloat16"}),
    "a slot of another size": _widen_last,
    "latents of four sides": both(
        put("model", "latent_shape", value=[1, 2, 8, 8]), put("model", "output", value="latents"),
    ),
    "latents of one side": both(put("model", "latent_shape", value=[64]), put("model", "output", value="latents")),
    "a video": _video([2, 3, 8, 8]),
    "a video in chunks": _chunked(),
    "a video in chunks that carry nothing": _chunked(carry=[]),
    "a video whose calls are alike": _video([8, 3, 8, 8], latents=4, latent_frames=1, frames=2, carry=[_CARRY]),
    "a video of two programs, each called once": _chunked(latent_frames=4, frames=8),
    "a video whose first call makes more": _chunked(first=[{**_FIRST, "latent_frames": 3, "frames": 5}]),
    "64 carried tensors of long names": _chunked(
        carry=[{**_CARRY, "name": f"{i:096}#9", "shape": [1] * 6} for i in range(64)]
    ),
    "sound": put("finish", value=[_audio([2, 1 << 20])]),
    "a program without weights": put("programs", 0, "weights", value=""),
    "learned variance without noise": both(
        put("sampler", "learned_variance", value=True), put("sampler", "stochastic", value=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", TRUTHS.values(), ids=TRUTHS.keys())
def test_a_manifest_that_is_only_unusual_passes(folder: Path, change: Callable[[Json], object]) -> None:
    edit_manifest(folder, change)
    open_manifest(folder)


def test_refusing_huge_sizes_takes_little_memory(folder: Path, refuses: Refuses) -> None:
    golden = (folder / "manifest.json").read_bytes()
    changes = [change for name, change in LIES.items() if "2**" in name or "illion" in name]
    assert len(changes) >= 8
    for change in changes:
        (folder / "manifest.json").write_bytes(golden)
        edit_manifest(folder, change)
        tracemalloc.start()
        try:
            refuses(folder, "manifest.json")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def _many_tables(manifest: Json) -> None:
    manifest["prepare"][0]["tables"] = [f"t{i}" for i in range(4000)]


def _many_tensors(manifest: Json) -> None:
    for i in range(4000):
        manifest["tensors"].append({**manifest["tensors"][0], "name": f"t{i}"})
    manifest["prepare"][0]["outputs"] = [tensor["name"] for tensor in manifest["tensors"]]
    for program in manifest["programs"]:
        program["inputs"] = list(manifest["prepare"][0]["outputs"])


def _many_axes(manifest: Json) -> None:
    """Too many to multiply."""
    manifest["tensors"][0]["shape"] = [9] * 200_000


def _many_slots(manifest: Json) -> None:
    slots = [f"{layer}.{module}" for layer in range(1000) for module in ("attn", "ff")]
    play([_program([], slots)], [_step(0, [], list(range(0, 2048 * len(slots), 2048)))] * 8)(manifest)
    manifest["slots"] = [{**manifest["slots"][0], "name": name} for name in slots]
    manifest["arena"]["bytes"] = 2048 * len(slots)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@pytest.mark.parametrize("lengthen", [_many_tables, _many_tensors, _many_axes, _many_slots])
def test_judging_a_long_manifest_takes_little_longer_than_parsing_it(
    folder: Path, lengthen: Callable[[Json], None]
) -> None:
    edit_manifest(folder, lengthen)
    text = (folder / "manifest.json").read_bytes()
    parsing = min(_seconds(lambda: parse_manifest(text, "manifest")) for _ in range(3))

    def judge() -> None:
        with suppress(BundleError):
            open_manifest(folder)

    judging = min(_seconds(judge) for _ in range(3))
    assert judging < 12 * parsing


def _replaced(old: bytes, new: bytes) -> bytes:
    assert old in MANIFEST_TEXT
    return MANIFEST_TEXT.replace(old, new, 1)


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "one brace": b"{",
    "an array": b"[]",
    "a null": b"null",
    "zeros": bytes(4096),
    "a ZIP archive": b"PK\x03\x04" + bytes(100),
    "not UTF-8": _replaced(b"tiny", b"\xff\xfe\xfd\xfc"),
    "a key twice": _replaced(b'"version": 5,', b'"version": 5, "version": 5,'),
    "a key twice, once escaped": _replaced(b'"version": 5,', b'"version": 1, "v\\u0065rsion": 1,'),
    "a nested key twice": _replaced(b'"bytes": 12288,', b'"bytes": 12288, "bytes": 1,'),
    "NaN": _replaced(b'"guidance": 1.5', b'"guidance": NaN'),
    "Infinity": _replaced(b'"guidance": 1.5', b'"guidance": -Infinity'),
    "a float beyond float64": _replaced(b'"guidance": 1.5', b'"guidance": 1e999'),
    "an integer of 5000 digits": _replaced(b'"sites": 7', b'"sites": ' + b"9" * 5000),
    "a name of half a pair of surrogates": _replaced(b'"tiny"', b'"\\ud83d"'),
    "a name of the other half": _replaced(b'"tiny"', b'"tiny \\uDE00"'),
    "a name of two halves in the wrong order": _replaced(b'"tiny"', b'"\\ude00\\ud83d"'),
    "a name of half a pair after a whole one": _replaced(b'"tiny"', b'"\\ud83d\\ude00\\ud83d"'),
    "a comment": _replaced(b"{", b"{ // a comment\n"),
    "text behind the end": MANIFEST_TEXT + b"{}",
    "a million open brackets": b"[" * 1_000_000,
    "a million open objects": b'{"a":' * 1_000_000,
    "a version nested 10000 deep": _replaced(b'"version": 5', b'"version": ' + b"[" * 10_000 + b"]" * 10_000),
    "a precision nested 900 deep": _replaced(b'"fp32"', b"[" * 900 + b"]" * 900),
    "a kind nested 900 deep": _replaced(b'"label"', b"[" * 900 + b"]" * 900),
    **{f"the first {size} bytes": MANIFEST_TEXT[:size] for size in (1, 17, 100, 2000, len(MANIFEST_TEXT) - 3)},
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_manifest_that_is_not_its_json_is_refused(folder: Path, refuses: Refuses, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    refuses(folder, "manifest.json")


def test_a_manifest_over_16_mib_is_refused_unread(folder: Path, refuses: Refuses) -> None:
    with (folder / "manifest.json").open("ab") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    refuses(folder, "manifest.json")


def test_a_newer_version_says_to_update_the_runtime(folder: Path, refuses: Refuses) -> None:
    edit_manifest(folder, both(put("version", value=7), put("surplus", value=1)))
    with pytest.raises(Exception, match="format version 7, this runtime reads 1 to 5; update soda-runtime"):
        refuses(folder, "nothing")


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_a_golden_manifest_gets_as_far_as_the_backend(folder: Path, refuses: Refuses, golden: Path) -> None:
    with pytest.raises(AssertionError, match="a backend was opened"):
        refuses(copy_golden(folder.with_name("golden"), golden), "manifest.json")


@pytest.mark.parametrize("bundle", ["folder", "text_folder"])
def test_a_golden_manifest_in_the_terms_of_the_current_version_gets_as_far_as_the_backend(
    bundle: str, request: pytest.FixtureRequest, refuses: Refuses
) -> None:
    with pytest.raises(AssertionError, match="a backend was opened"):
        refuses(request.getfixturevalue(bundle), "manifest.json")


def test_a_latent_shape_that_the_engines_do_not_have_is_refused_before_noise_is_drawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise AssertionError("noise was drawn for a shape that no engine has")

    edit_manifest(folder, put("model", "latent_shape", value=[1 << 11] * 3))
    monkeypatch.setattr("soda_runtime.players.latent_noise", fail)
    with pytest.raises(EngineError):
        Bundle.open(folder, threads=1).session().start(1)


def test_an_arena_that_the_engines_do_not_have_is_refused_before_it_is_allocated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("memory was allocated for sizes that no engine has")

    def widen(manifest: Json) -> None:
        for slot in manifest["slots"]:
            slot["shape"] = [1 << 20, 1 << 14]
        manifest["arena"].update(bytes=6 << 37)
        for step in manifest["steps"]:
            for key in ("read_offsets", "write_offsets"):
                step[key] = [offset // 2048 << 37 for offset in step[key]]

    edit_manifest(folder, widen)
    monkeypatch.setattr(HostMemory, "__init__", fail)
    with pytest.raises(EngineError, match="rebuild the bundle"):
        Bundle.open(folder, threads=1).session().start(1)


@pytest.mark.parametrize(
    "change",
    [
        put("tensors", 0, "shape", value=[1 << 17, 1 << 17]),
        lambda m: (
            m["tensors"].append({**m["tensors"][0], "name": "more", "shape": [1 << 17, 1 << 17]}),
            m["prepare"][0]["outputs"].append("more"),
        ),
    ],
    ids=["a tensor of the steps", "a tensor of no step"],
)
def test_a_tensor_that_the_engines_do_not_have_is_refused_before_it_is_allocated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Json], object]
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("memory was allocated for sizes that no engine has")

    edit_manifest(folder, change)
    monkeypatch.setattr(HostMemory, "__init__", fail)
    with pytest.raises(EngineError, match="rebuild the bundle"):
        Bundle.open(folder, threads=1).session().start(1)


def test_an_image_that_the_engine_does_not_have_is_refused_before_it_is_allocated(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("memory was allocated for sizes that no engine has")

    edit_manifest(text_folder, put("finish", 0, "shape", value=[1 << 11] * 3))
    bundle = Bundle.open(text_folder, threads=1)
    session = bundle.session()
    session.start(**example_request(bundle, 1))
    monkeypatch.setattr(HostMemory, "__init__", fail)
    with pytest.raises(EngineError, match=r"decoder\.onnx: output 'image'.*rebuild the bundle"):
        session.images()

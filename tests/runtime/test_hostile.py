"""A manifest that lies is refused in one line, with the file and a remedy, before anything is allocated."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError
from soda_runtime.backends.host import HostMemory
from soda_runtime.checks import open_manifest
from soda_runtime.manifest import MAX_MANIFEST_BYTES, parse_manifest

from .bundles import GOLDEN, Json, edit_manifest

Refuses = Callable[[Path, str], None]
GOLDEN_TEXT = (GOLDEN / "manifest.json").read_bytes()


def put(*path: str | int, value: object) -> Callable[[Json], None]:
    """A change of one value of the manifest; a last key that is not there is added."""

    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


def both(*changes: Callable[[Json], object]) -> Callable[[Json], None]:
    """Several changes, one after the other."""

    def change(manifest: Json) -> None:
        for each in changes:
            each(manifest)

    return change


def rename(old: str, new: str) -> Callable[[Json], None]:
    """Rename a file wherever the manifest speaks of it, so that only the name itself is wrong."""

    def change(manifest: Json) -> None:
        text = json.dumps(manifest).replace(json.dumps(old), json.dumps(new))
        manifest.clear()
        manifest.update(json.loads(text))

    return change


def _program(reads: list[str], writes: list[str]) -> Json:
    return {"file": "step-00.onnx", "reads": reads, "writes": writes, "flops": 1}


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
    manifest["arena"].update(bytes=6 * 2049, slot_bytes=2049)
    for step in manifest["steps"]:
        for key in ("read_offsets", "write_offsets"):
            step[key] = [offset // 2048 * 2049 for offset in step[key]]


CONDITIONING = {"name": "conditioning", "entries": 20, "width": 16}
WRITE_WRITE_READ = [_program([], ["0.attn"]), _program([], ["0.ff"]), _program(["0.attn"], [])]
SIX = [0, 2048, 4096, 6144, 8192, 10240]

LIES: dict[str, Callable[[Json], object]] = {
    # schema
    "an unknown key at the top": put("surplus", value=1),
    "an unknown key in a step": put("steps", 0, "surplus", value=1),
    "a missing key": lambda m: m.pop("arena"),
    "a missing key in a program": lambda m: m["programs"][0].pop("flops"),
    "another format": put("format", value="zip"),
    "no format": lambda m: m.pop("format"),
    "a newer version": put("version", value=2),
    "an older version": put("version", value=0),
    "a version that is a boolean": put("version", value=True),
    "a version that is a fraction": put("version", value=1.0),
    "a version that is a nested list": put("version", value=[[[[1]]]]),
    "a version of 4000 digits": put("version", value=10**4000),
    "an unknown precision": put("precision", value="fp64"),
    "a boolean for a count": put("sampler", "steps", value=True),
    "a number for a flag": put("sampler", "stochastic", value=1),
    "a string for a number": put("guidance", value="1.5"),
    "null for a number": put("model", "width", value=None),
    "a fraction for a count": put("arena", "bytes", value=12288.0),
    "a latent shape of two sides": put("model", "latent_shape", value=[8, 8]),
    # sizes
    "a negative number of steps": put("sampler", "steps", value=-1),
    "ten million steps": put("sampler", "steps", value=10_000_000),
    "fewer timesteps than steps": put("sampler", "timesteps", value=[1]),
    "fewer steps than the sampler has": lambda m: m["steps"].pop(),
    "no steps at all": both(
        put("sampler", "steps", value=0), put("sampler", "timesteps", value=[]), put("steps", value=[]),
    ),
    "no layers": put("model", "num_layers", value=0),
    "a billion layers": put("model", "num_layers", value=10**9),
    "no modules": put("model", "modules", value=[]),
    "a latent side of zero": put("model", "latent_shape", value=[1, 0, 8]),
    "a negative latent side": put("model", "latent_shape", value=[1, 8, -8]),
    "a latent side of 2**62": put("model", "latent_shape", value=[1, 8, 1 << 62]),
    "a width of 2**62": put("model", "width", value=1 << 62),
    "a negative token count": put("model", "num_tokens", value=-16),
    "a negative class": put("model", "null_class", value=-1),
    "a state of 2**40 tensors": put("sampler", "state_size", value=1 << 40),
    "three rows a sample": put("rows_per_sample", value=3),
    "conditioning 2**50 wide": put("prepare", "conditioning", 0, "width", value=1 << 50),
    "conditioning of a negative count": put("prepare", "conditioning", 0, "entries", value=-20),
    "no conditioning": put("prepare", "conditioning", value=[]),
    "a negative timestep": put("sampler", "timesteps", 0, value=-1),
    "a number too large for a float": put("guidance", value=10**400),
    "guidance beyond float32": put("guidance", value=1e39),
    "a scale beyond float32": put("sampler", "initial_scale", value=-1e39),
    "a null class beyond the classes": put("model", "null_class", value=11),
    "flops of 2**63": put("programs", 0, "flops", value=1 << 63),
    "negative flops": put("programs", 0, "flops", value=-1),
    "an arena of 2**62 bytes": put("arena", "bytes", value=1 << 62),
    "a negative arena": put("arena", "bytes", value=-1),
    "slots smaller than a tensor": put("arena", "slot_bytes", value=1024),
    "slots much larger than a tensor": put("arena", "slot_bytes", value=1 << 30),
    "slots of zero bytes": put("arena", "slot_bytes", value=0),
    # file names
    "a weights path outside the bundle": rename("weights.safetensors", "../weights.safetensors"),
    "a program path outside the bundle": rename("step-00.onnx", "../../step-00.onnx"),
    "an absolute path": rename("tables.safetensors", "/etc/passwd"),
    "a path in a subfolder": rename("prepare.onnx", "sub/prepare.onnx"),
    "a backslash path": rename("prepare.onnx", "..\\prepare.onnx"),
    "a drive letter": rename("prepare.onnx", "C:prepare.onnx"),
    "two dots inside a name": rename("prepare.onnx", "prepare..onnx"),
    "a hidden name": rename("prepare.onnx", ".prepare.onnx"),
    "a NUL in a name": rename("prepare.onnx", "prepare.onnx\0"),
    "a newline in a name": rename("prepare.onnx", "prepare.onnx\n"),
    "a letter beyond ASCII in a name": rename("prepare.onnx", "prépare.onnx"),
    "a lone surrogate in a name": rename("prepare.onnx", "\ud800.onnx"),
    "an empty name": rename("prepare.onnx", ""),
    "a name of 5000 letters": rename("prepare.onnx", "p" * 5000),
    "an unused file outside the bundle": put("files", "../x", value={"bytes": 1, "sha256": "0" * 64}),
    "weights that are not listed": lambda m: m["files"].pop("weights.safetensors"),
    "a program that is not listed": lambda m: m["files"].pop("step-03.onnx"),
    "a negative file size": put("files", "plan.json", "bytes", value=-1),
    "a hash of 63 digits": put("files", "plan.json", "sha256", value="0" * 63),
    "a hash in capitals": put("files", "plan.json", "sha256", value="A" * 64),
    # names of tensors
    "conditioning named as the state": put("prepare", "conditioning", 0, "name", value="state"),
    "conditioning named as a cache slot": put("prepare", "conditioning", 0, "name", value="cache.0.attn"),
    "conditioning of an empty name": put("prepare", "conditioning", 0, "name", value=""),
    "two conditionings of one name": put("prepare", "conditioning", value=[CONDITIONING, {**CONDITIONING, "width": 1}]),
    "a table listed twice": put("prepare", "tables", value=["time_embedding", "time_embedding"]),
    "a table listed that holds the coefficients": put("prepare", "tables", value=["time_embedding", "coefficients"]),
    "a table named as the labels": put("prepare", "tables", value=["labels"]),
    "two modules of one name": put("model", "modules", value=["attn", "attn", "ff"]),
    # programs and the cache
    "two programs of one file": put("programs", 1, "file", value="step-00.onnx"),
    "a prepare program that is also a step's": put("prepare", "file", value="step-00.onnx"),
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
    "a module whose name is no slot's": put("model", "modules", value=["attn", "ff", "X 1"]),
    "an unknown key that is very long": put("x" * 1_000_000, value=1),
    "an arena of 10**4000 bytes": put("arena", "bytes", value=10**4000),
    "a count of 4000 digits": put("model", "width", value=10**4000),
}


@pytest.mark.parametrize("change", LIES.values(), ids=LIES.keys())
def test_a_manifest_that_lies_is_refused(folder: Path, refuses: Refuses, change: Callable[[Json], object]) -> None:
    edit_manifest(folder, change)
    refuses(folder, "manifest.json")


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
    manifest["prepare"]["tables"] = [f"t{i}" for i in range(4000)]


def _many_slots(manifest: Json) -> None:
    slots = [f"{layer}.{module}" for layer in range(1000) for module in ("attn", "ff")]
    play([_program([], slots)], [_step(0, [], list(range(0, 2048 * len(slots), 2048)))] * 8)(manifest)
    manifest["model"]["num_layers"] = 1000
    manifest["arena"]["bytes"] = 2048 * len(slots)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@pytest.mark.parametrize("lengthen", [_many_tables, _many_slots])
def test_judging_a_long_manifest_takes_little_longer_than_parsing_it(
    folder: Path, lengthen: Callable[[Json], None]
) -> None:
    edit_manifest(folder, lengthen)
    text = (folder / "manifest.json").read_bytes()
    parsing = min(_seconds(lambda: parse_manifest(text, "manifest")) for _ in range(3))
    judging = min(_seconds(lambda: open_manifest(folder)) for _ in range(3))
    assert judging < 12 * parsing


def _replaced(old: bytes, new: bytes) -> bytes:
    assert old in GOLDEN_TEXT
    return GOLDEN_TEXT.replace(old, new, 1)


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "one brace": b"{",
    "an array": b"[]",
    "a null": b"null",
    "zeros": bytes(4096),
    "a ZIP archive": b"PK\x03\x04" + bytes(100),
    "not UTF-8": _replaced(b"tiny", b"\xff\xfe\xfd\xfc"),
    "a key twice": _replaced(b'"version": 1,', b'"version": 1, "version": 1,'),
    "a key twice, once escaped": _replaced(b'"version": 1,', b'"version": 1, "v\\u0065rsion": 1,'),
    "a nested key twice": _replaced(b'"bytes": 12288,', b'"bytes": 12288, "bytes": 1,'),
    "NaN": _replaced(b'"guidance": 1.5', b'"guidance": NaN'),
    "Infinity": _replaced(b'"guidance": 1.5', b'"guidance": -Infinity'),
    "a float beyond float64": _replaced(b'"guidance": 1.5', b'"guidance": 1e999'),
    "an integer of 5000 digits": _replaced(b'"num_layers": 3', b'"num_layers": ' + b"9" * 5000),
    "a comment": _replaced(b"{", b"{ // a comment\n"),
    "text behind the end": GOLDEN_TEXT + b"{}",
    "a million open brackets": b"[" * 1_000_000,
    "a million open objects": b'{"a":' * 1_000_000,
    "a version nested 10000 deep": _replaced(b'"version": 1', b'"version": ' + b"[" * 10_000 + b"]" * 10_000),
    "a precision nested 900 deep": _replaced(b'"fp32"', b"[" * 900 + b"]" * 900),
    **{f"the first {size} bytes": GOLDEN_TEXT[:size] for size in (1, 17, 100, 2000, len(GOLDEN_TEXT) - 3)},
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
    with pytest.raises(Exception, match="format version 7, this runtime reads 1; update soda-runtime"):
        refuses(folder, "nothing")


def test_a_golden_manifest_gets_as_far_as_the_backend(folder: Path, refuses: Refuses) -> None:
    with pytest.raises(AssertionError, match="a backend was opened"):
        refuses(folder, "manifest.json")


def test_a_latent_shape_that_the_engines_do_not_have_is_refused_before_noise_is_drawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise AssertionError("noise was drawn for a shape that no engine has")

    edit_manifest(folder, put("model", "latent_shape", value=[1 << 14] * 3))
    monkeypatch.setattr("soda_runtime.session.latent_noise", fail)
    with pytest.raises(EngineError):
        Bundle.open(folder, threads=1).session().start(1)


def test_an_arena_that_the_engines_do_not_have_is_refused_before_it_is_allocated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("memory was allocated for sizes that no engine has")

    def widen(manifest: Json) -> None:
        manifest["model"].update(num_tokens=1 << 20, width=1 << 14)
        manifest["arena"].update(slot_bytes=1 << 37, bytes=6 << 37)
        for step in manifest["steps"]:
            for key in ("read_offsets", "write_offsets"):
                step[key] = [offset // 2048 << 37 for offset in step[key]]

    edit_manifest(folder, widen)
    monkeypatch.setattr(HostMemory, "__init__", fail)
    with pytest.raises(EngineError, match="rebuild the bundle"):
        Bundle.open(folder, threads=1).session().start(1)

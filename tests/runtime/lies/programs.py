"""Manifests whose steps read what is not in the cache, or write over what is."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, put
from .edits import play, program, step

WRITE_WRITE_READ = [program([], ["0.attn"]), program([], ["0.ff"]), program(["0.attn"], [])]
SIX = [0, 2048, 4096, 6144, 8192, 10240]


def unaligned(manifest: Json) -> None:
    """Slots packed 2049 bytes apart: consistent in every other respect."""
    manifest["arena"].update(bytes=6 * 2049)
    for each in manifest["steps"]:
        for key in ("read_offsets", "write_offsets"):
            each[key] = [offset // 2048 * 2049 for offset in each[key]]


PROGRAMS: dict[str, Callable[[Json], object]] = {
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
    "a slot read before any step wrote it": put("steps", 0, value=step(1, SIX, [])),
    "a slot read where another lies": put("steps", 1, "read_offsets", value=[2048, 0, *SIX[2:]]),
    "a slot updated away from its place": put("steps", 2, "write_offsets", value=[4096, 8192, 0]),
    "a slot never written but read": play([program([], ["0.attn"]), program(["0.ff"], [])], [
        step(0, [], [0]), step(1, [0], []),
    ]),
    "a slot written over a live one": play(WRITE_WRITE_READ, [
        step(0, [], [0]), step(1, [], [0]), step(2, [0], []),
    ]),
    "a slot half over a live one": play(WRITE_WRITE_READ, [
        step(0, [], [2048]), step(1, [], [1024]), step(2, [2048], []),
    ]),
    "slots off the alignment": unaligned,
    "an offset off the alignment": put("steps", 0, "write_offsets", 0, value=4),
    "a value of a third age": put("programs", 1, "reads", 0, value="0.attn@3"),
    "a value of no age": put("programs", 1, "reads", 0, value="0.attn@0"),
    "an age as in version 4": put("programs", 1, "reads", 0, value="0.attn.1"),
    "an older value written": put("programs", 0, "writes", 0, value="0.attn@1"),
    "an older value that was never written": put("programs", 1, "reads", 0, value="0.attn@1"),
}  # fmt: skip

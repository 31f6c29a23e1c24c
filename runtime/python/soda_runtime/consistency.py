"""Hold a manifest against itself: every number that is later used as a size, an offset or an index is bounded here."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import pairwise

from .manifest import Manifest, Program
from .signature import COEFFICIENTS, GUIDANCE, LABELS, NOISE, STATE, STATE_OUT

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TENSOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MODULE_NAME = re.compile(r"[a-z_]{1,32}")
_SLOT_NAME = re.compile(r"(0|[1-9][0-9]{0,4})\.([a-z_]{1,32})")
_ALIGNMENT_BYTES = 256
_MAX_INTEGER = 2**63 - 1


def first_problem(manifest: Manifest) -> str | None:
    """The first inconsistency in words, or None."""
    model, arena = manifest.model, manifest.arena
    numbers = {
        "model.num_layers": (model.num_layers, 1, 1000), "model.num_tokens": (model.num_tokens, 1, 1 << 20),
        "model.width": (model.width, 1, 1 << 16), "rows_per_sample": (manifest.rows_per_sample, 1, 2),
        "model.num_classes": (model.num_classes, 1, 1 << 24),
        "model.null_class": (model.null_class, 0, model.num_classes),
        "sampler.steps": (manifest.sampler.steps, 1, 10_000), "sampler.state_size": (manifest.sampler.state_size, 1, 8),
        "arena.slot_bytes": (arena.slot_bytes, 1, 1 << 40), "len(modules)": (len(model.modules), 1, 8),
        **{f"model.latent_shape[{i}]": (n, 1, 1 << 14) for i, n in enumerate(model.latent_shape)},
        **{f"prepare.conditioning[{i}].entries": (c.entries, 1, 1 << 16)
           for i, c in enumerate(manifest.prepare.conditioning)},
        **{f"prepare.conditioning[{i}].width": (c.width, 1, 1 << 20)
           for i, c in enumerate(manifest.prepare.conditioning)},
        **{f"sampler.timesteps[{i}]": (t, 0, 1 << 31) for i, t in enumerate(manifest.sampler.timesteps)},
        **{f"programs[{i}].flops": (p.flops, 0, _MAX_INTEGER) for i, p in enumerate(manifest.programs)},
        "len(prepare.conditioning)": (len(manifest.prepare.conditioning), 1, 64),
    }  # fmt: skip
    for name, (value, low, high) in numbers.items():
        if not low <= value <= high:
            return f"{name}={value!r:.40} is outside {low} .. {high}"
    slot_elements = manifest.rows_per_sample * model.num_tokens * model.width
    if not 0 <= arena.slot_bytes - 4 * slot_elements < _ALIGNMENT_BYTES or arena.slot_bytes % _ALIGNMENT_BYTES:
        return f"arena.slot_bytes={arena.slot_bytes} is not one slot of {4 * slot_elements} bytes, aligned"
    if not 0 <= arena.bytes <= arena.slot_bytes * model.num_layers * len(model.modules):
        return f"arena.bytes={arena.bytes!r:.40} exceeds one slot per layer and module"
    if len(manifest.sampler.timesteps) != manifest.sampler.steps or len(manifest.steps) != manifest.sampler.steps:
        return f"{len(manifest.steps)} steps and {len(manifest.sampler.timesteps)} timesteps, expected " + str(
            manifest.sampler.steps
        )
    if len(set(model.modules)) != len(model.modules) or not all(_MODULE_NAME.fullmatch(m) for m in model.modules):
        return "model.modules has a name twice, or one that is not plain"
    return _file_problem(manifest) or _prepare_problem(manifest) or _program_problem(manifest)


def _prepare_problem(manifest: Manifest) -> str | None:
    """Tensor names are plain, used once, and none that the runtime binds itself."""
    names = [entry.name for entry in manifest.prepare.conditioning] + list(manifest.prepare.tables)
    reserved = {LABELS, STATE, STATE_OUT, COEFFICIENTS, GUIDANCE, NOISE}
    for name in names:
        if not _TENSOR_NAME.fullmatch(name) or name in reserved:
            return f"prepare: {name!r:.80} is not a free, plain name of a tensor"
    return "prepare: a tensor name stands twice" if len(set(names)) != len(names) else None


def _file_problem(manifest: Manifest) -> str | None:
    used = [manifest.weights, manifest.tables, manifest.prepare.file, *(p.file for p in manifest.programs)]
    for name in [*manifest.files, *used]:
        if not _PLAIN_NAME.fullmatch(name) or ".." in name:
            return f"file name {name!r:.80} is not a plain name inside the bundle"
    for name in used:
        if name not in manifest.files:
            return f"file {name!r} is used but not listed under `files`"
    for name, entry in manifest.files.items():
        if entry.bytes < 0 or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            return f"files[{name!r}] has a malformed size or hash"
    if manifest.backend == "null":
        return "backend 'null' computes nothing and is no backend of a bundle"
    return None


def _program_problem(manifest: Manifest) -> str | None:
    if not 0 <= manifest.baseline_program < len(manifest.programs):
        return f"baseline_program={manifest.baseline_program} is not one of {len(manifest.programs)} programs"
    baseline = manifest.programs[manifest.baseline_program]
    if baseline.reads or baseline.writes:
        return "the baseline program touches the cache"
    for index, program in enumerate(manifest.programs):
        slots = [*program.reads, *program.writes]
        if any(not _is_slot(manifest, slot) for slot in slots):
            return f"programs[{index}] names a cache slot that the model does not have"
        if len(set(program.reads)) != len(program.reads) or len(set(program.writes)) != len(program.writes):
            return f"programs[{index}] names a cache slot twice"
    files = [manifest.prepare.file, *(program.file for program in manifest.programs)]
    if len(set(files)) != len(files):
        return "two programs share a file"
    places = _Places(manifest.arena.slot_bytes)
    for index, step in enumerate(manifest.steps):
        if not 0 <= step.program < len(manifest.programs):
            return f"steps[{index}].program={step.program!r:.40} does not exist"
        problem = _step_problem(manifest, index, manifest.programs[step.program], places)
        if problem:
            return problem
    return None


class _Places:
    """Which slot's latest value lies where in the arena."""

    def __init__(self, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        self._begins: list[int] = []  # sorted
        self._slot_at: dict[int, str] = {}
        self._latest: dict[str, int] = {}

    def holds(self, slot: str, begin: int) -> bool:
        return self._slot_at.get(begin) == slot and self._latest.get(slot) == begin

    def write(self, slot: str, begin: int) -> None:
        """Whatever overlaps is gone."""
        low = bisect_right(self._begins, begin - self._slot_bytes)
        high = bisect_left(self._begins, begin + self._slot_bytes)
        for old in self._begins[low:high]:
            del self._slot_at[old]
        self._begins[low:high] = [begin]
        self._slot_at[begin] = slot
        self._latest[slot] = begin


def _step_problem(manifest: Manifest, index: int, program: Program, places: _Places) -> str | None:
    """Offsets inside the arena; reads where the last write went; an updated slot stays in place; no overlap."""
    step, arena = manifest.steps[index], manifest.arena
    if len(step.read_offsets) != len(program.reads) or len(step.write_offsets) != len(program.writes):
        return f"steps[{index}] has another number of offsets than its program has slots"
    for offset in (*step.read_offsets, *step.write_offsets):
        if not 0 <= offset <= arena.bytes - arena.slot_bytes or offset % _ALIGNMENT_BYTES:
            return f"steps[{index}] has an offset outside the arena of {arena.bytes} bytes, or an unaligned one"
    reads = dict(zip(program.reads, step.read_offsets, strict=True))
    writes = dict(zip(program.writes, step.write_offsets, strict=True))
    for slot, offset in reads.items():
        if not places.holds(slot, offset):
            return f"steps[{index}] reads slot {slot} at {offset}, which no longer or never held it"
        if writes.get(slot, offset) != offset:
            return f"steps[{index}] updates slot {slot} away from its place"
    touched = sorted({**reads, **writes}.values())
    if any(after - before < arena.slot_bytes for before, after in pairwise(touched)):
        return f"steps[{index}] touches overlapping slots"
    for slot, offset in writes.items():
        places.write(slot, offset)
    return None


def _is_slot(manifest: Manifest, name: str) -> bool:
    match = _SLOT_NAME.fullmatch(name)
    return match is not None and int(match[1]) < manifest.model.num_layers and match[2] in manifest.model.modules

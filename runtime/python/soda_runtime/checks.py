"""Decide whether a bundle folder may be trusted, before anything is allocated or any engine is opened."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import stat
from pathlib import Path

from .errors import BundleError
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileEntry, Manifest, Program, parse_manifest
from .signature import COEFFICIENTS, GUIDANCE, LABELS, NOISE, STATE, STATE_OUT
from .tensors import read_header

_SMALL_FILE_BYTES = 64 << 20  # files up to this size are hashed at every open, larger ones and the weights once
_ALIGNMENT_BYTES = 256
_MAX_INTEGER = 2**63 - 1
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TENSOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SLOT_NAME = re.compile(r"(0|[1-9][0-9]{0,4})\.([a-z_]{1,32})")
_REBUILD = "copy the bundle again or rebuild it with `soda-export build`"


def open_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json: schema, names, and every number against every other."""
    path = folder / MANIFEST_NAME
    _require_regular_file(path, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(path.read_bytes(), str(path))
    problem = _first_problem(manifest)
    if problem:
        raise BundleError(f"{path}: {problem}; {_REBUILD}")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Sizes of all files, the header of the weights, and hashes: small files at every open, others once per file."""
    for name, entry in manifest.files.items():
        _require_regular_file(folder / name, entry.bytes)
    read_header(folder / manifest.weights)
    for name, entry in manifest.files.items():
        path = folder / name
        if path.stat().st_size != entry.bytes:
            raise BundleError(f"{path}: {path.stat().st_size} bytes, the manifest says {entry.bytes}; {_REBUILD}")
        if entry.bytes <= _SMALL_FILE_BYTES and name != manifest.weights:
            _check_hash(path, entry)
        elif not _remembered(path, entry):
            _check_hash(path, entry)
            _remember(path, entry)


def verify_hashes(folder: Path) -> Manifest:
    """Check the hash of every file, remembering nothing; the thorough form of what opening does."""
    manifest = open_manifest(folder)
    for name, entry in manifest.files.items():
        _require_regular_file(folder / name, entry.bytes)
        _check_hash(folder / name, entry)
    read_header(folder / manifest.weights)
    return manifest


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_problem(manifest: Manifest) -> str | None:
    """The first inconsistency, or None. Everything that is later used as a size or an index is bounded here."""
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
            return f"{name}={value} is outside {low} .. {high}"
    slot_elements = manifest.rows_per_sample * model.num_tokens * model.width
    if not 0 <= arena.slot_bytes - 4 * slot_elements < _ALIGNMENT_BYTES or arena.slot_bytes % _ALIGNMENT_BYTES:
        return f"arena.slot_bytes={arena.slot_bytes} does not hold one slot of {4 * slot_elements} bytes"
    if not 0 <= arena.bytes <= arena.slot_bytes * model.num_layers * len(model.modules):
        return f"arena.bytes={arena.bytes} exceeds one slot per layer and module"
    if len(manifest.sampler.timesteps) != manifest.sampler.steps or len(manifest.steps) != manifest.sampler.steps:
        return f"{len(manifest.steps)} steps and {len(manifest.sampler.timesteps)} timesteps, expected " + str(
            manifest.sampler.steps
        )
    if len(set(model.modules)) != len(model.modules):
        return "model.modules names a module twice"
    return _file_problem(manifest) or _prepare_problem(manifest) or _program_problem(manifest)


def _prepare_problem(manifest: Manifest) -> str | None:
    """Tensor names are plain, used once, and none that the runtime binds itself."""
    names = [entry.name for entry in manifest.prepare.conditioning] + list(manifest.prepare.tables)
    reserved = {LABELS, STATE, STATE_OUT, COEFFICIENTS, GUIDANCE, NOISE}
    for name in names:
        if not _TENSOR_NAME.fullmatch(name) or name in reserved or names.count(name) > 1:
            return f"prepare: {name!r:.80} is not a free, plain name of a tensor"
    return None


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
    last_write: dict[str, int] = {}
    for index, step in enumerate(manifest.steps):
        if not 0 <= step.program < len(manifest.programs):
            return f"steps[{index}].program={step.program} does not exist"
        problem = _step_problem(manifest, index, manifest.programs[step.program], last_write)
        if problem:
            return problem
    return None


def _step_problem(manifest: Manifest, index: int, program: Program, last_write: dict[str, int]) -> str | None:
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
        if last_write.get(slot) != offset:
            return f"steps[{index}] reads slot {slot} at {offset}, where no earlier step wrote it"
        if writes.get(slot, offset) != offset:
            return f"steps[{index}] updates slot {slot} away from its place"
    touched = sorted({**reads, **writes}.values())
    if any(after - before < arena.slot_bytes for before, after in itertools.pairwise(touched)):
        return f"steps[{index}] touches overlapping slots"
    for offset in writes.values():  # whatever lay there is gone
        for slot in [s for s, old in last_write.items() if abs(old - offset) < arena.slot_bytes]:
            del last_write[slot]
    last_write.update(writes)
    return None


def _is_slot(manifest: Manifest, name: str) -> bool:
    match = _SLOT_NAME.fullmatch(name)
    return match is not None and int(match[1]) < manifest.model.num_layers and match[2] in manifest.model.modules


def _require_regular_file(path: Path, max_bytes: int) -> None:
    try:
        info = path.lstat()
    except OSError:
        raise BundleError(f"{path}: missing; {_REBUILD}") from None
    if not stat.S_ISREG(info.st_mode):
        raise BundleError(f"{path}: not a regular file; {_REBUILD}")
    if info.st_size > max_bytes:
        raise BundleError(f"{path}: {info.st_size} bytes, at most {max_bytes} are expected; {_REBUILD}")


def _check_hash(path: Path, entry: FileEntry) -> None:
    if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
        raise BundleError(f"{path}: its SHA-256 is not the manifest's, the file was changed or damaged; {_REBUILD}")


def _memory_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "soda_runtime" / "verified.json"


def _stamp(path: Path) -> list[int]:
    info = path.stat()
    return [info.st_size, info.st_mtime_ns, info.st_ino]


def _remembered(path: Path, entry: FileEntry) -> bool:
    try:
        return bool(json.loads(_memory_file().read_text()).get(str(path.resolve())) == [entry.sha256, *_stamp(path)])
    except (OSError, ValueError, AttributeError):
        return False


def _remember(path: Path, entry: FileEntry) -> None:
    """Best effort: a cache that cannot be written only means that the hash is computed again."""
    memory = _memory_file()
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    known = {name: stamp for name, stamp in known.items() if Path(name).exists()} if isinstance(known, dict) else {}
    known[str(path.resolve())] = [entry.sha256, *_stamp(path)]
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        scratch = memory.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps(known, indent=0))
        scratch.replace(memory)
    except OSError:
        return

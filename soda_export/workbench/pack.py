"""Pack a bundle: engines, weights and tables linked, or copied, hashed, opened to prove it, renamed into place."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soda_runtime.checks import sha256_of, verify_hashes
from soda_runtime.engine_index import INDEX_NAME
from soda_runtime.manifest import (
    FORMAT,
    MANIFEST_NAME,
    VERSION,
    Arena,
    EmbeddingPort,
    FileEntry,
    FinishProgram,
    HintPort,
    LabelPort,
    Manifest,
    MaskPort,
    Model,
    PrepareProgram,
    Program,
    RequestPort,
    Sampler,
    ScalarPort,
    Step,
    TokenizerEntry,
    manifest_text,
)  # fmt: skip
from soda_runtime.signature import MASK
from soda_runtime.sizes import SIZES_NAME, SizeEntry, sizes_text

from .. import __version__
from ..errors import BundleError, ExportError
from ..export.index import ExportIndex, sized_name
from ..files import naming
from ..lower.program import ProgramTable, Slot
from ..models.spec import ModelSpec
from .engines import link_file
from .place import check_place, put_in_place, restore
from .prove import play_bundle, prove_bundle
from .stages import StageStore

log = logging.getLogger(__name__)


PLAN_NAME, TABLE_NAME = "plan.json", "programs.json"


@dataclass(frozen=True)
class Components:
    """What goes into a bundle beside the steps. token_ports: the tokens of prompts. files: name in the bundle -> what
    is to be copied; weights, tokenizers and engines: among them."""

    prepare: tuple[PrepareProgram, ...] = ()
    finish: tuple[FinishProgram, ...] = ()
    weights: tuple[str, ...] = ()
    tokenizers: tuple[TokenizerEntry, ...] = ()
    token_ports: tuple[RequestPort, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)
    engines: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class SizedParts:
    """What a bundle has of one size. size: height and width in pixels. suffix: what ends the names of its own files, ""
    for the first. files: name in the bundle -> where it is; several sizes may share a name, of equal content."""

    size: tuple[int, int]
    suffix: str
    spec: ModelSpec
    table: ProgramTable
    index: ExportIndex
    components: Components
    files: Mapping[str, Path]


def pack_bundle(
    sizes: Sequence[SizedParts], extra: Mapping[str, Path], backend: str, scratch: Path, out: Path,
    progress: Callable[[int, int], None],
) -> Manifest:  # fmt: skip
    """Write the bundle folder `out`, whole or not at all; a bundle that is already there and equal is left alone.

    Raises ExportError where `out` is anything but a bundle or empty, UsageError where a place cannot be written.

    extra: further files by name, for the reader or people. scratch: a folder for the unfinished bundle; where `out` is
    on another file system, a folder beside `out` is used instead. progress(done, total) counts files and the proof.
    """
    sources = _joined([*(part.files for part in sizes), extra])
    files = {name: FileEntry(source.stat().st_size, sha256_of(source)) for name, source in sources.items()}
    restore(out)
    check_place(out)
    manifest, written = _manifests(sizes, backend, files)
    text = manifest_text(manifest)
    if _is_equal(out, text):
        log.info("bundle: %s is up to date", out)
        return manifest
    with naming(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
    if out.parent.stat().st_dev != scratch.stat().st_dev:  # a rename cannot cross file systems
        scratch = out.parent / ".work"
    staging = StageStore(scratch).temporary("bundle", out.name)
    try:
        with naming(scratch):
            staging.mkdir(parents=True)
            for i, (name, source) in enumerate(sources.items()):
                link_file(source, staging / name)
                progress(i + 1, len(sources) + 1)
            for name, content in {**written, MANIFEST_NAME: text}.items():
                (staging / name).write_text(content)
        prove_bundle(staging)  # hashes the copies against what was hashed at the source
        play_bundle(staging, manifest)
        progress(len(sources) + 1, len(sources) + 1)
        put_in_place(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    total = sum(entry.bytes for entry in files.values())
    log.info("bundle: %s, %d files, %.1f MB", out, len(manifest.files) + 1, total / 1e6)
    return manifest


def _joined(parts: Sequence[Mapping[str, Path]]) -> dict[str, Path]:
    """All files by name. Raises ExportError where two of one name differ."""
    found: dict[str, Path] = {}
    for name, path in (each for part in parts for each in part.items()):
        known = found.setdefault(name, path)
        if known != path and sha256_of(known) != sha256_of(path):
            raise ExportError(f"{name}: differs from size to size, so one bundle cannot have it; build one a size")
    return found


def _manifests(
    sizes: Sequence[SizedParts], backend: str, files: dict[str, FileEntry]
) -> tuple[Manifest, dict[str, str]]:
    """The bundle's manifest, and the texts of the other sizes' manifests and of the list of sizes, by file name."""
    first, written = sizes[0], dict[str, str]()
    if len(sizes) == 1:
        return make_manifest(first, backend, files, first.spec.hash), written
    entries = []
    for part in sizes:
        name = sized_name(MANIFEST_NAME, part.suffix)
        entries.append(SizeEntry(*part.size, name))
        if part is not first:
            own = {file: files[file] for file in part.files}
            own |= {file: entry for file, entry in files.items() if file == INDEX_NAME}
            written[name] = manifest_text(make_manifest(part, backend, own, first.spec.hash))
    written[SIZES_NAME] = sizes_text(entries)
    more = {name: _entry_of(text.encode()) for name, text in written.items()}
    return make_manifest(first, backend, files | more, first.spec.hash), written


def _entry_of(content: bytes) -> FileEntry:
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def make_manifest(part: SizedParts, backend: str, files: dict[str, FileEntry], model_hash: str) -> Manifest:
    """The manifest of a bundle, or of one of its sizes. model_hash: that of the first size, for all."""
    spec, table, index, components = part.spec, part.table, part.index, part.components
    return Manifest(
        format=FORMAT, version=VERSION, builder=f"soda-export {__version__}", backend=backend,
        precision=index.precision,  # type: ignore[arg-type]
        model=Model(spec.name, spec.family, model_hash, spec.latent_shape, spec.output, len(spec.sites)),
        ports=(*_ports(spec, components), *_mask_port(index)), tokenizers=components.tokenizers,
        sampler=Sampler(
            table.sampler.name, table.sampler.steps, index.timesteps, index.state_size, index.stochastic,
            index.learned_variance, index.fitted, index.initial_scale,
        ),
        rows_per_sample=table.rows, guidance=table.guidance, flops_ratio=table.flops_ratio,
        forecasts=table.num_forecasts,
        tensors=index.tensors, prepare=(*components.prepare, *index.prepare), finish=components.finish,
        programs=tuple(
            Program(name, index.weights, taken, _names(program.reads), _names(program.writes), program.flops)
            for name, taken, program in zip(index.programs, index.inputs, table.programs, strict=True)
        ),
        baseline_program=table.baseline, steps=tuple(_step(table, t) for t in range(len(table.step_programs))),
        slots=index.slots, arena=Arena(table.arena.bytes, table.arena.lower_bound_bytes, table.arena.naive_bytes),
        weights=(index.weights, *components.weights), tables=index.tables_file, files=files,
    )  # fmt: skip


def _ports(spec: ModelSpec, components: Components) -> Iterator[RequestPort]:
    """What requests give: the model's own ports, and with a text encoder the tokens of prompts."""
    yield from components.token_ports
    tokens = {port.name for port in components.token_ports}
    for port in spec.ports:
        if port.kind == "row":
            continue  # programs make it themselves
        if port.kind == "label":
            yield LabelPort(port.name, "int64", (), "label", port.num_classes, port.null_class)
        elif port.kind == "scalar":
            yield ScalarPort(port.name, "float32", (), "scalar", port.default, 0.0, port.most)
        elif port.kind == "hint":
            yield HintPort(port.name, "float32", port.shape, "hint")
        elif port.kind == "embedding":
            yield EmbeddingPort(port.name, "float32", port.shape, "embedding")
        elif port.name not in tokens:
            yield MaskPort(port.name, "int64", port.shape, "mask")


def _mask_port(index: ExportIndex) -> Iterator[RequestPort]:
    if index.mask_shape:
        yield HintPort(MASK, "float32", index.mask_shape, "hint")


def _step(table: ProgramTable, step: int) -> Step:
    program, offsets = table.programs[table.step_programs[step]], table.offsets_at(step)
    return Step(
        table.step_programs[step], tuple(offsets[s] for s in program.reads), tuple(offsets[s] for s in program.writes)
    )


def _names(slots: tuple[Slot, ...]) -> tuple[str, ...]:
    return tuple(str(slot) for slot in slots)


def _is_equal(out: Path, text: str) -> bool:
    """Whether `out` is a whole bundle with this very manifest."""
    try:
        if (out / MANIFEST_NAME).read_bytes() != text.encode():
            return False
        verify_hashes(out)
    except (OSError, BundleError):
        return False
    return True

"""Pack a bundle: engines, weights and tables linked, or copied, hashed, opened to prove it, renamed into place."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soda_runtime.checks import sha256_of, verify_hashes
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

from .. import __version__
from ..errors import BundleError
from ..export.index import ExportIndex
from ..files import naming
from ..lower.program import ProgramTable, Slot
from ..models.spec import ModelSpec
from .engines import link_file
from .place import check_place, put_in_place, restore
from .prove import play_bundle, prove_bundle
from .stages import StageStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Components:
    """What goes into a bundle beside the steps. token_ports: the tokens of prompts. files: to be copied; weights,
    tokenizers and engines: among them."""

    prepare: tuple[PrepareProgram, ...] = ()
    finish: tuple[FinishProgram, ...] = ()
    weights: tuple[str, ...] = ()
    tokenizers: tuple[TokenizerEntry, ...] = ()
    token_ports: tuple[RequestPort, ...] = ()
    files: tuple[Path, ...] = ()
    engines: tuple[Path, ...] = ()


def pack_bundle(
    spec: ModelSpec, table: ProgramTable, index: ExportIndex, components: Components, backend: str, export: Path,
    engines: Path, extra_files: Sequence[Path], scratch: Path, out: Path, progress: Callable[[int, int], None],
) -> Manifest:  # fmt: skip
    """Write the bundle folder `out`, whole or not at all; a bundle that is already there and equal is left alone.

    Raises ExportError where `out` is anything but a bundle or empty, UsageError where a place cannot be written.

    export: folder of the graphs, weights and tables. engines: folder of the compiled programs. extra_files: copied
    beside them for the reader (plan, program table). scratch: a folder for the unfinished bundle; where `out` is on
    another file system, a folder beside `out` is used instead. progress(done, total) counts files and the proof.
    """
    sources = [export / index.weights, export / index.tables_file, *components.files, *extra_files]
    sources += [engines / name for name in index.graphs]
    files = {source.name: FileEntry(source.stat().st_size, sha256_of(source)) for source in sources}
    restore(out)
    check_place(out)
    manifest = make_manifest(spec, table, index, components, backend, files)
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
            for i, source in enumerate(sources):
                link_file(source, staging / source.name)
                progress(i + 1, len(sources) + 1)
            (staging / MANIFEST_NAME).write_text(text)
        play_bundle(staging, prove_bundle(staging))  # hashes the copies against what was hashed at the source
        progress(len(sources) + 1, len(sources) + 1)
        put_in_place(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    total = sum(entry.bytes for entry in files.values())
    log.info("bundle: %s, %d files, %.1f MB", out, len(files) + 1, total / 1e6)
    return manifest


def make_manifest(
    spec: ModelSpec, table: ProgramTable, index: ExportIndex, components: Components, backend: str,
    files: dict[str, FileEntry],
) -> Manifest:  # fmt: skip
    """The manifest of a bundle."""
    return Manifest(
        format=FORMAT, version=VERSION, builder=f"soda-export {__version__}", backend=backend,
        precision=index.precision,  # type: ignore[arg-type]
        model=Model(spec.name, spec.family, spec.hash, spec.latent_shape, spec.output, len(spec.sites)),
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

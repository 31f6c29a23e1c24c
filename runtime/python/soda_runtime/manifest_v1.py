"""Read manifests of format version 1, in the terms of version 4 and so of the current one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .manifest import FileEntry, Manifest, PreparedTensor, Sampler, Step
from .manifest_v4 import ArenaV4, LabelCondition, ManifestV4, ModelV4, PrepareProgramV4, ProgramV4, upgraded
from .signature import LABELS
from .strict_json import StrictJsonError, decode


@dataclass(frozen=True)
class _Model:
    name: str
    family: str
    hash: str
    latent_shape: tuple[int, int, int]
    num_layers: int
    modules: tuple[str, ...]
    num_tokens: int
    width: int
    num_classes: int
    null_class: int
    output: Literal["pixels", "latents"]


@dataclass(frozen=True)
class _Sampler:
    name: str
    steps: int
    timesteps: tuple[int, ...]
    state_size: int
    stochastic: bool
    initial_scale: float


@dataclass(frozen=True)
class _Conditioning:
    name: str
    entries: int
    width: int


@dataclass(frozen=True)
class _Prepare:
    file: str
    tables: tuple[str, ...]
    conditioning: tuple[_Conditioning, ...]


@dataclass(frozen=True)
class _Program:
    file: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    flops: int


@dataclass(frozen=True)
class _Manifest:
    format: str
    version: int
    builder: str
    backend: str
    precision: Literal["fp32"]
    model: _Model
    sampler: _Sampler
    rows_per_sample: int
    guidance: float
    flops_ratio: float
    prepare: _Prepare
    programs: tuple[_Program, ...]
    baseline_program: int
    steps: tuple[Step, ...]
    arena: ArenaV4
    weights: str
    tables: str
    files: dict[str, FileEntry]


def upgrade_v1(value: Any) -> Manifest:
    """Decode a parsed manifest of version 1 strictly. Raises StrictJsonError."""
    old = decode(_Manifest, value)
    model, sampler, prepare = old.model, old.sampler, old.prepare
    if not all(0 <= timestep <= 1 << 31 for timestep in sampler.timesteps):  # before they become floats
        raise StrictJsonError(f"$.sampler.timesteps: expected numbers within 0 .. {1 << 31}")
    names = tuple(entry.name for entry in prepare.conditioning)
    return upgraded(ManifestV4(
        old.format, old.version, old.builder, old.backend, old.precision,
        ModelV4(
            model.name, model.family, model.hash, model.latent_shape, model.num_layers, model.modules,
            model.num_tokens, model.width, LabelCondition("label", model.num_classes, model.null_class), model.output,
        ),
        Sampler(
            sampler.name, sampler.steps, tuple(float(t) for t in sampler.timesteps), sampler.state_size,
            sampler.stochastic, False, False, sampler.initial_scale,
        ),
        old.rows_per_sample, old.guidance, old.flops_ratio, 0,
        tuple(PreparedTensor(c.name, "float32", True, True, (c.entries, c.width)) for c in prepare.conditioning),
        (PrepareProgramV4(prepare.file, (LABELS,), prepare.tables, names),),
        tuple(ProgramV4(p.file, names, p.reads, p.writes, p.flops) for p in old.programs),
        old.baseline_program, old.steps, (), old.arena, (old.weights,), old.tables, old.files,
    ))  # fmt: skip

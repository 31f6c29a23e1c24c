"""The bundle's schema: manifest.json as frozen dataclasses. This is its one home; BUNDLE.md explains it in prose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from .errors import BundleError
from .strict_json import StrictJsonError, decode, encode, parse_json

FORMAT = "soda-bundle"
VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """What was compiled. latent_shape is [C, H, W]; output says whether latents are pixels in -1..1."""

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
class Sampler:
    """The frozen sampler. state_size: tensors in the state z = (x, h1..hK); stochastic: steps read noise."""

    name: str
    steps: int
    timesteps: tuple[int, ...]
    state_size: int
    stochastic: bool
    initial_scale: float


@dataclass(frozen=True)
class Conditioning:
    """One tensor that the prepare program makes for every step: per row [entries, width]."""

    name: str
    entries: int
    width: int


@dataclass(frozen=True)
class Prepare:
    """The program that runs once per request (or per window of steps).

    Inputs: `labels` [rows] and, for each of `tables`, rows first..last of that table. Outputs: `conditioning`,
    each [window, rows, entries, width].
    """

    file: str
    tables: tuple[str, ...]
    conditioning: tuple[Conditioning, ...]


@dataclass(frozen=True)
class Program:
    """One step program: the cache slots it reads and writes, and its FLOPs for one sample.

    A slot in both lists is updated in place. Slot names are `<layer>.<module>`.
    """

    file: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    flops: int


@dataclass(frozen=True)
class Step:
    """Which program a step runs, and the arena offset (bytes for one sample) of each slot it touches.

    `read_offsets` and `write_offsets` follow the order of the program's `reads` and `writes`.
    """

    program: int
    read_offsets: tuple[int, ...]
    write_offsets: tuple[int, ...]


@dataclass(frozen=True)
class Arena:
    """The cache buffer, in bytes for one sample (both guidance halves); a batch of B takes B times as much."""

    bytes: int
    lower_bound_bytes: int
    naive_bytes: int
    slot_bytes: int


@dataclass(frozen=True)
class Manifest:
    """manifest.json, whole."""

    format: str
    version: int
    builder: str
    backend: str
    precision: Literal["fp32"]
    model: Model
    sampler: Sampler
    rows_per_sample: int
    guidance: float
    flops_ratio: float
    prepare: Prepare
    programs: tuple[Program, ...]
    baseline_program: int
    steps: tuple[Step, ...]
    arena: Arena
    weights: str
    tables: str
    files: dict[str, FileEntry]


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Decode manifest.json strictly; the version is looked at first, so that a newer format says so."""
    try:
        value = parse_json(text)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise BundleError(f"{where}: not a soda bundle manifest; give the folder that `soda-export build` made")
        if value.get("version") != VERSION or isinstance(value.get("version"), bool):
            raise BundleError(
                f"{where}: format version {value.get('version')!r:.20}, this runtime reads {VERSION}; "
                "update soda-runtime or rebuild the bundle"
            )
        return decode(Manifest, value)
    except StrictJsonError as error:
        raise BundleError(f"{where}: {error}; rebuild the bundle with this version of soda-export") from None


def manifest_text(manifest: Manifest) -> str:
    """Canonical text: two spaces of indent, keys in schema order, files sorted by name."""
    value = encode(manifest)
    value["files"] = dict(sorted(value["files"].items()))
    return json.dumps(value, indent=2) + "\n"

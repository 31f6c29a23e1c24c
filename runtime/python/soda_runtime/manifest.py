"""The bundle's schema: manifest.json as frozen dataclasses. This is its one home; BUNDLE.md explains it in prose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from .errors import BundleError
from .strict_json import StrictJsonError, brief, decode, encode, parse_json

FORMAT = "soda-bundle"
VERSION = 4
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class LabelCondition:
    """A request gives class labels 0 .. num_classes - 1; null_class is the label of the unconditional rows."""

    kind: Literal["label"]
    num_classes: int
    null_class: int


@dataclass(frozen=True)
class TextCondition:
    """A request gives prompts, or their embeddings [max_tokens, embed_width] and masks [max_tokens].

    tokenizer: file name of a tokenizer.json, "" where the bundle takes embeddings alone.
    """

    kind: Literal["text"]
    max_tokens: int
    embed_width: int
    tokenizer: str


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
    condition: LabelCondition | TextCondition
    output: Literal["pixels", "latents"]


@dataclass(frozen=True)
class Sampler:
    """The frozen sampler. state_size: tensors in the state z = (x, h1..hK); stochastic: steps read noise;
    learned_variance: the noise is scaled by what the model predicts; fitted: the schedule brings coefficients of
    its own, the sampler's own are in the table `baseline_coefficients`."""

    name: str
    steps: int
    timesteps: tuple[float, ...]
    state_size: int
    stochastic: bool
    learned_variance: bool
    fitted: bool
    initial_scale: float


@dataclass(frozen=True)
class PreparedTensor:
    """A tensor made once per request, or, where per_step, once for every step.

    Its shape is [rows, *shape] where `rows` is true, else [1, *shape]: one for all rows of the request.
    """

    name: str
    dtype: Literal["float32", "float16", "bfloat16"]
    rows: bool
    per_step: bool
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PrepareProgram:
    """A program that runs before the steps. inputs: what a request gives, or outputs of programs before it.

    With `tables` it runs once per window of steps and takes their rows; its outputs are per_step. Without, it runs
    once per request. The one that makes `embeds` is the text encoder; it is skipped where the request gives them.
    """

    file: str
    inputs: tuple[str, ...]
    tables: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class FinishProgram:
    """A program that turns `latents` into `image`, float32 [batch, *shape] in 0..1."""

    file: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Program:
    """One step program: the prepared tensors it takes, the cache slots it reads and writes, FLOPs for one sample.

    A slot in both lists is updated in place. Slot names are `<layer>.<module>`, the output of a module;
    `<num_layers>.stack`, that of the last layer; reads may end in `.1` or `.2`, the values before the latest.
    """

    file: str
    inputs: tuple[str, ...]
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
    """manifest.json, whole. precision: type of the cache slots. forecasts: triples of weights that a step's
    coefficients end with. finish: at most one program."""

    format: str
    version: int
    builder: str
    backend: str
    precision: Literal["fp32", "fp16", "bf16"]
    model: Model
    sampler: Sampler
    rows_per_sample: int
    guidance: float
    flops_ratio: float
    forecasts: int
    tensors: tuple[PreparedTensor, ...]
    prepare: tuple[PrepareProgram, ...]
    programs: tuple[Program, ...]
    baseline_program: int
    steps: tuple[Step, ...]
    finish: tuple[FinishProgram, ...]
    arena: Arena
    weights: tuple[str, ...]
    tables: str
    files: dict[str, FileEntry]


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Decode manifest.json strictly; the version is looked at first, so that a newer format says so."""
    try:
        value = parse_json(text)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise BundleError(f"{where}: not a soda bundle manifest; give the folder that `soda-export build` made")
        version = value.get("version")
        if version == 1 and not isinstance(version, (bool, float)):
            from .manifest_v1 import upgrade_v1

            return upgrade_v1(value)
        if version in (2, 3) and not isinstance(version, (bool, float)):
            value, version = _upgrade(value), VERSION
        if version != VERSION or isinstance(version, (bool, float)):
            raise BundleError(
                f"{where}: format version {brief(version):.20}, this runtime reads 1 to {VERSION}; "
                "update soda-runtime or rebuild the bundle"
            )
        return decode(Manifest, value)
    except StrictJsonError as error:
        raise BundleError(f"{where}: {error}; rebuild the bundle with this version of soda-export") from None


def _upgrade(value: dict[str, Any]) -> dict[str, Any]:
    """A parsed manifest of version 2 or 3 in the terms of the current one, which has one more key for each version."""
    if value["version"] == 2:
        value = _with_key(value, "$", "forecasts", 0)
    if isinstance(value.get("sampler"), dict):  # what else it is, decoding says
        value = {**value, "sampler": _with_key(value["sampler"], "$.sampler", "fitted", False)}
    return {**value, "version": VERSION}


def _with_key(value: dict[str, Any], where: str, key: str, default: object) -> dict[str, Any]:
    if key in value:
        raise StrictJsonError(f"{where}: unknown key {key!r}")
    return {**value, key: default}


def manifest_text(manifest: Manifest) -> str:
    """Canonical text: two spaces of indent, keys in schema order, files sorted by name."""
    value = encode(manifest)
    value["files"] = dict(sorted(value["files"].items()))
    return json.dumps(value, indent=2) + "\n"

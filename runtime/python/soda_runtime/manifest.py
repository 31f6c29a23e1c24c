"""The bundle's schema: manifest.json as frozen dataclasses. This is its one home; BUNDLE.md explains it in prose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from .strict_json import encode

FORMAT = "soda-bundle"
VERSION = 5
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
SlotDtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Port:
    """A value of every row that a request gives, or that a text encoder makes of what it gives: [rows, *shape]."""

    name: str
    dtype: Literal["float32", "int64"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LabelPort(_Port):
    """int64 []: a class 0 .. num_classes - 1; null_class is the label of the unconditional rows."""

    kind: Literal["label"]
    num_classes: int
    null_class: int


@dataclass(frozen=True)
class TokenIdsPort(_Port):
    """int64 [max_tokens]: what a tokenizer, an index, makes of a prompt."""

    kind: Literal["token_ids"]
    tokenizer: int


@dataclass(frozen=True)
class TokenMaskPort(_Port):
    """int64 [max_tokens]: 1 for each token of a tokenizer's, 0 for padding."""

    kind: Literal["token_mask"]
    tokenizer: int


@dataclass(frozen=True)
class EmbeddingPort(_Port):
    """float32, one axis or more: what a text encoder makes, or else the caller gives."""

    kind: Literal["embedding"]


@dataclass(frozen=True)
class MaskPort(_Port):
    """int64, one axis or more: zeros and ones that go with an embedding."""

    kind: Literal["mask"]


@dataclass(frozen=True)
class HintPort(_Port):
    """float32, one axis or more: what a sample is given whatever the guidance, the same in all of its rows."""

    kind: Literal["hint"]


@dataclass(frozen=True)
class ScalarPort(_Port):
    """float32 []: one number of a sample, the same in all of its rows. least and most are inclusive."""

    kind: Literal["scalar"]
    default: float
    least: float
    most: float


RequestPort = LabelPort | TokenIdsPort | TokenMaskPort | EmbeddingPort | MaskPort | HintPort | ScalarPort


@dataclass(frozen=True)
class TokenizerEntry:
    """A tokenizer.json. max_tokens: of a prompt, padding included. clean: what is done to a text first. pad_id: -1 is
    that of `<pad>`, 0 where there is none."""

    file: str
    max_tokens: int
    clean: Literal["lower-strip", "strip", "unescape-collapse", "none"]
    pad_id: int


@dataclass(frozen=True)
class Model:
    """What was compiled. latent_shape: 1 to 4 axes; output says whether latents are pixels [C, H, W] in -1..1; sites:
    how many values a schedule may keep, for people."""

    name: str
    family: str
    hash: str
    latent_shape: tuple[int, ...]
    output: Literal["pixels", "latents"]
    sites: int


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
    dtype: SlotDtype
    rows: bool
    per_step: bool
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PrepareProgram:
    """A program that runs before the steps. inputs: ports, or outputs of programs before it. weights: one of the
    weights files, "" for none.

    With `tables` it runs once per window of steps and takes their rows; its outputs are per_step. Without, it runs
    once per request. One whose outputs are ports is an encoder; it is skipped where the request gives them.
    """

    file: str
    weights: str
    inputs: tuple[str, ...]
    tables: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ImageFinish:
    """A program that turns `latents` into `image`, float32 [batch, *shape] in 0..1; shape: channels, height, width."""

    file: str
    weights: str
    kind: Literal["image"]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class FirstChunk:
    """A program for the first call alone, of the same weights: latent frames that it takes, frames that it makes."""

    file: str
    latent_frames: int
    frames: int


@dataclass(frozen=True)
class Carry:
    """What a call hands to the next one, [batch, *shape], zero before the first: caches of causal convolutions."""

    name: str
    dtype: SlotDtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class VideoFinish:
    """A program that turns `latents` into `video`, float32 in 0..1, chunk by chunk. shape: frames, channels, height,
    width of the whole.

    A call takes latent_frames of the latents' axis 1 and makes `frames` [batch, frames, channels, height, width]; the
    first one is `first`'s, where that is there. Each takes `carry.<name>` and gives `carry_out.<name>`.
    """

    file: str
    weights: str
    kind: Literal["video"]
    shape: tuple[int, int, int, int]
    frames_per_second: float
    latent_frames: int
    frames: int
    first: tuple[FirstChunk, ...]
    carry: tuple[Carry, ...]


@dataclass(frozen=True)
class AudioFinish:
    """A program that turns `latents` into `audio`, float32 [batch, *shape] in -1..1; shape: channels, samples."""

    file: str
    weights: str
    kind: Literal["audio"]
    shape: tuple[int, int]
    sample_rate: int


FinishProgram = ImageFinish | VideoFinish | AudioFinish


@dataclass(frozen=True)
class Slot:
    """A value that programs keep for later steps, [rows, *shape]: output of a site, `#1` after its name the second."""

    name: str
    shape: tuple[int, ...]
    dtype: SlotDtype


@dataclass(frozen=True)
class Program:
    """One step program: the tensors and ports it takes, the slots it reads and writes, FLOPs for one sample.

    A slot in both lists is updated in place. Reads may end in `@1` or `@2`, the values before the latest.
    """

    file: str
    weights: str
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


@dataclass(frozen=True)
class Manifest:
    """manifest.json, whole. version: that of the file; an older one is in the terms of the current version, but its
    programs name their inputs as they did. precision: the model's arithmetic. forecasts: triples of weights that a
    step's coefficients end with. finish: at most one program."""

    format: str
    version: int
    builder: str
    backend: str
    precision: Literal["fp32", "fp16", "bf16"]
    model: Model
    ports: tuple[RequestPort, ...]
    tokenizers: tuple[TokenizerEntry, ...]
    sampler: Sampler
    rows_per_sample: int
    guidance: float
    flops_ratio: float
    forecasts: int
    tensors: tuple[PreparedTensor, ...]
    prepare: tuple[PrepareProgram, ...]
    slots: tuple[Slot, ...]
    programs: tuple[Program, ...]
    baseline_program: int
    steps: tuple[Step, ...]
    finish: tuple[FinishProgram, ...]
    arena: Arena
    weights: tuple[str, ...]
    tables: str
    files: dict[str, FileEntry]

    @property
    def result_kind(self) -> Literal["image", "video", "audio", ""]:
        """What a session's `result` gives; "" where there is none."""
        if self.finish:
            return self.finish[0].kind
        return "image" if self.model.output == "pixels" else ""


def manifest_text(manifest: Manifest) -> str:
    """Canonical text: two spaces of indent, keys in schema order, files sorted by name."""
    value = encode(manifest)
    value["files"] = dict(sorted(value["files"].items()))
    return json.dumps(value, indent=2) + "\n"

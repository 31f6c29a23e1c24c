"""What `soda-export bench` is asked and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from ..models.request import parse_size


@dataclass(frozen=True)
class BenchOptions:
    """How to measure."""

    batch: int = 4
    """Samples in one generation."""
    rounds: int = 7
    """Timed generations of each kind, in turn, after one warm-up."""
    seed: int = 0
    """Seed of the noise."""
    backend: str = ""
    """Open an ort bundle with openvino, or the other way round. [default: the one it was built for]"""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto is the backend's own."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """On CUDA: whether the loop is recorded and launched as one. ONNX Runtime: on records each step, auto nothing."""
    threads: int = 0
    """Threads of the engine library; 0 lets it choose."""
    weights: Literal["prepacked", "shared"] | None = None
    """A copy an engine in its kernels' order, or one for all engines. [default: what is faster]"""
    size: str = ""
    """Height x width in pixels, of a bundle of several sizes. [default: each in turn]"""

    @property
    def pixels(self) -> tuple[int, int] | None:
        """The size as numbers. Raises ModelError."""
        return parse_size(self.size) if self.size else None


class Timing(msgspec.Struct, frozen=True):
    """Median in seconds, and where it lies with 95 %: its 2.5 and 97.5 percentiles over resamples of the rounds."""

    median: float
    low: float
    high: float


class ProgramTiming(msgspec.Struct, frozen=True):
    """A step program. latency: of one of its `steps` steps. time_share, flops_share: of an all-compute step's."""

    file: str
    steps: int
    latency: Timing
    time_share: float
    flops_share: float


class Opening(msgspec.Struct, frozen=True):
    """Seconds in a fresh process, files in the page cache: to the first step done, and to the first latents. The
    second pair is for the engine that computes everything."""

    to_first_step_s: float
    to_first_latents_s: float
    all_compute_to_first_step_s: float
    all_compute_to_first_latents_s: float


class Memory(msgspec.Struct, frozen=True):
    """Bytes of the process, or of the device where the engines run on one.

    weights_once: the weights files. weights_private: what opening all engines allocated;
    weights_mapped: resident pages of the weights files after a generation; weights_resident: both. arena: the cache
    buffer. activations: peak of a generation beyond everything allocated before it. peak: all that the bundle added."""

    weights_once: int
    weights_private: int
    weights_mapped: int
    weights_resident: int
    arena: int
    activations: int
    peak: int


class Error(msgspec.Struct, frozen=True):
    """Accelerated against unaccelerated latents, same noise. relative: rmse / root mean square of the latter."""

    rmse: float
    relative: float
    max_abs: float


class Conditions(msgspec.Struct, frozen=True):
    """What a measurement is worth nothing without. load: the system's over the last minute, when it began; threads: of
    the engine library, 0 where it chose. date: UTC."""

    date: str
    processor: str
    usable_cores: float
    threads: int
    load: float
    versions: dict[str, str]


class PolicyResult(msgspec.Struct, frozen=True):
    """What a policy decided in the timed generations. calls, least_calls, most_calls: of the model, by a sample.
    latency_by_calls: calls of all samples of a generation together -> median seconds."""

    name: str
    calls: float
    least_calls: int
    most_calls: int
    latency_by_calls: dict[int, float]


class BenchResult(msgspec.Struct, frozen=True):
    """What `soda-export bench --json` prints. Latencies are from request to latents, in seconds.

    outside_steps_s: of a request with embeddings, before its first step: what does not depend on the step. steps_s:
    median of each step. text_encoder_s, decoder_s: median of what makes embeddings of prompts, and images of the
    latents, None without; latency_s is without them. energy_j: of one generation by the processor's counter,
    accelerated and all-compute, where it can be read. policy: where the bundle has one, which was followed; its
    flops_ratio is that of the calls. size: which one, of a bundle of several.
    """

    bundle: str
    backend: str
    precision: str
    weights: str
    batch: int
    rounds: int
    latency_s: float
    baseline_latency_s: float
    speedup: float
    flops_ratio: float
    realization: float
    latency: Timing
    baseline_latency: Timing
    speedup_interval: tuple[float, float]
    outside_steps_s: float
    dispatch_us_per_step: float
    steps_s: tuple[float, ...]
    baseline_step: Timing
    programs: tuple[ProgramTiming, ...]
    opening: Opening
    error: Error
    memory_bytes: Memory
    energy_j: tuple[float, float] | None
    text_encoder_s: float | None
    decoder_s: float | None
    conditions: Conditions
    policy: PolicyResult | None = None
    size: str = ""

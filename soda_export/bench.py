"""Measure a bundle: accelerated against all-compute on the same backend, interleaved, from request to latents."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from soda_runtime import Bundle, DeviceOptions, Session
from soda_runtime.request import example_request

from .errors import EngineError, UsageError


class Memory(msgspec.Struct, frozen=True):
    """Bytes. weights_once: the weights file. weights_resident: what opening all engines added to the process,
    or to the device where they run on one.
    arena: the cache buffer. activations: peak of a generation beyond everything allocated before it."""

    weights_once: int
    weights_resident: int
    arena: int
    activations: int


class Error(msgspec.Struct, frozen=True):
    """Accelerated against unaccelerated latents, same noise. relative: rmse / root mean square of the latter."""

    rmse: float
    relative: float
    max_abs: float


class BenchResult(msgspec.Struct, frozen=True):
    """What `soda-export bench --json` prints. Latencies are medians in seconds, from request to latents."""

    bundle: str
    backend: str
    batch: int
    rounds: int
    latency_s: float
    baseline_latency_s: float
    speedup: float
    flops_ratio: float
    realization: float
    dispatch_us_per_step: float
    error: Error
    memory_bytes: Memory


@dataclass(frozen=True)
class BenchOptions:
    """How to measure."""

    batch: int = 4
    """Samples in one generation."""
    rounds: int = 7
    """Timed generations of each kind, in turn, after one warm-up."""
    seed: int = 0
    """Seed of the noise."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto is the backend's own."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """On CUDA: whether the loop is recorded and launched as one."""
    threads: int = 0
    """Threads of the engine library; 0 lets it choose."""


def bench_bundle(path: Path, options: BenchOptions, progress: Callable[[int, int], None]) -> BenchResult:
    """Measure the bundle at `path`. Raises BundleError or EngineError."""
    if options.batch < 1 or options.rounds < 1:
        raise UsageError(f"--batch {options.batch} --rounds {options.rounds}: both must be at least 1")
    on_device = DeviceOptions(cuda_graph=options.cuda_graph)
    bundle = Bundle.open(path, device=options.device, threads=options.threads, options=on_device)
    manifest = bundle.manifest
    request = example_request(bundle, options.batch)
    accelerated, baseline = bundle.session(), bundle.session()
    accelerated.start(**request, seed=options.seed)  # what cannot be run is refused here, in its own words
    memory = _measure_memory(path, options)
    accelerated.generate(**request, seed=options.seed)
    baseline.generate(**request, seed=options.seed, accelerated=False)
    times: dict[bool, list[float]] = {True: [], False: []}
    differences, references = [], []
    for i in range(options.rounds):
        pair = {}
        for session, fast in ((accelerated, True), (baseline, False)):
            started = time.perf_counter()
            pair[fast] = session.generate(**request, seed=options.seed + i, accelerated=fast)
            times[fast].append(time.perf_counter() - started)
            progress(2 * i + 1 + (not fast), 2 * options.rounds)
        differences.append(pair[True].astype(np.float64) - pair[False])
        references.append(pair[False].astype(np.float64))
    difference, reference = np.stack(differences), np.stack(references)
    rmse = float(np.sqrt(np.mean(difference**2)))
    latency, base = statistics.median(times[True]), statistics.median(times[False])
    return BenchResult(
        bundle=str(path), backend=manifest.backend, batch=options.batch, rounds=options.rounds, latency_s=latency,
        baseline_latency_s=base, speedup=base / latency, flops_ratio=manifest.flops_ratio,
        realization=base / latency / manifest.flops_ratio,
        dispatch_us_per_step=measure_dispatch(accelerated, request, options.seed),
        error=Error(rmse, rmse / float(np.sqrt(np.mean(reference**2))), float(np.abs(difference).max())),
        memory_bytes=memory,
    )  # fmt: skip


def measure_dispatch(session: Session, request: dict[str, Any], seed: int) -> float:
    """Median microseconds that a step spends in our Python, outside the engine's call."""
    session.start(**request, seed=seed)
    playback = session.playback
    spent = 0.0

    def timed(call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            nonlocal spent
            started = time.perf_counter()
            call()
            spent += time.perf_counter() - started

        return run

    originals = playback.prepares, playback.steps
    playback.prepares = [[timed(call) for call in calls] for calls in playback.prepares]
    playback.steps = [timed(call) for call in playback.steps]
    try:
        overhead = []
        for i in range(len(playback.steps)):
            spent, started = 0.0, time.perf_counter()
            session.step(i)
            overhead.append(time.perf_counter() - started - spent)
    finally:
        playback.prepares, playback.steps = originals
    return 1e6 * statistics.median(overhead)


def _measure_memory(path: Path, options: BenchOptions) -> Memory:
    """In a fresh process, where nothing else has been allocated."""
    command = [sys.executable, "-m", "soda_export.memory_probe", str(path), str(options.batch), options.device,
               str(options.threads)]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{path}: the memory measurement failed: {last_line}")
    return msgspec.convert(json.loads(result.stdout), Memory)

"""Measure a bundle: accelerated against all-compute on the same backend, interleaved, from request to latents."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from soda_runtime import Bundle, DeviceOptions, Session
from soda_runtime.manifest import HintPort, LabelPort, Manifest
from soda_runtime.policy import FULL
from soda_runtime.request import example_request

from .. import __version__
from ..compile import library_version
from ..errors import UsageError
from .doctor import describe_machine
from .probe import measure_opening
from .process import describe_process
from .result import BenchOptions, BenchResult, Conditions, Error, PolicyResult, ProgramTiming, Timing
from .timing import Generations, measure_dispatch, measure_encoding, speedup_interval, timing

_PROMPT = "a lighthouse at dawn"
_MOST_SAMPLES, _MOST_ROUNDS, _FEW_ROUNDS = 1 << 20, 1_000_000, 5


def bench_bundle(path: Path, options: BenchOptions, progress: Callable[[int, int], None]) -> BenchResult:
    """Measure the bundle at `path`. Raises BundleError or EngineError."""
    for name, value, most in (("batch", options.batch, _MOST_SAMPLES), ("rounds", options.rounds, _MOST_ROUNDS)):
        if not 1 <= value <= most:
            raise UsageError(f"--{name} {value}: must be within 1 .. {most}")
    bundle = Bundle.open(
        path, backend=options.backend, device=options.device, threads=options.threads, weights=options.weights or "",
        options=DeviceOptions(cuda_graph=options.cuda_graph),
    ).at(options.pixels)  # fmt: skip
    manifest = bundle.manifest
    conditions = describe_conditions(options.backend or manifest.backend, options.threads)
    request = example_request(bundle, options.batch)
    accelerated = bundle.session()
    accelerated.start(**request, seed=options.seed)  # what cannot be run is refused here, in its own words
    opening, memory = measure_opening(path, options)
    fast, whole = Generations(accelerated, request, True), Generations(bundle.session(), request, False)
    for i in range(options.rounds + 1):
        for kind, each in enumerate((fast, whole)):
            each.run(options.seed + i)
            progress(2 * i + kind + 1, 2 * (options.rounds + 1))
    few = min(options.rounds, _FEW_ROUNDS)
    dispatch = measure_dispatch(accelerated, request, options.seed, few)
    encoding = measure_encoding(accelerated, _with_prompts(manifest, request), few) if manifest.tokenizers else None
    decoder = _decoder_seconds(accelerated, few) if manifest.finish else None
    for each in (fast, whole):  # the first round warmed up
        each.forget_first()
    latency, base = timing(fast.whole), timing(whole.whole)
    speedup, policy = base.median / latency.median, _policy(bundle, fast)
    flops_ratio = manifest.flops_ratio if policy is None else manifest.sampler.steps / policy.calls
    base_step = timing([seconds for run in whole.steps for seconds in run])
    return BenchResult(
        bundle=str(path), backend=options.backend or manifest.backend, precision=manifest.precision,
        weights=options.weights or "", batch=options.batch, rounds=options.rounds, latency_s=latency.median,
        baseline_latency_s=base.median, speedup=speedup, flops_ratio=flops_ratio,
        realization=speedup / flops_ratio,
        latency=latency, baseline_latency=base, speedup_interval=speedup_interval(whole.whole, fast.whole),
        outside_steps_s=statistics.median(fast.before), dispatch_us_per_step=dispatch,
        steps_s=tuple(np.median(fast.steps, axis=0).tolist()), baseline_step=base_step,
        programs=_programs(bundle, fast, base_step), opening=opening, error=_error(fast, whole),
        memory_bytes=memory, energy_j=_energy(fast, whole), text_encoder_s=encoding, decoder_s=decoder,
        conditions=conditions, policy=policy, size=options.size,
    )  # fmt: skip


def describe_conditions(backend: str, threads: int) -> Conditions:
    """Of a measurement that begins now."""
    machine, process = describe_machine(), describe_process()
    versions = {"soda-export": __version__, "python": platform.python_version(), backend: library_version(backend)}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return Conditions(date, machine.processor, process.usable_cores, threads, round(load, 2), versions)


def _with_prompts(manifest: Manifest, request: dict[str, Any]) -> dict[str, Any]:
    """The same request with prompts in the place of embeddings and masks."""
    given = {port.name for port in manifest.ports if isinstance(port, (LabelPort, HintPort))}
    inputs = {name: values for name, values in request["inputs"].items() if name in given}
    return {"inputs": inputs, "prompt": [_PROMPT] * request["batch"]}


def _decoder_seconds(session: Session, rounds: int) -> float:
    """Median, of a request that has been played; after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        if session.num_chunks:
            for _ in session.chunks():  # a whole clip need not fit into memory
                pass
        else:
            session.result()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _programs(bundle: Bundle, fast: Generations, base: Timing) -> tuple[ProgramTiming, ...]:
    """Each program's latency over all steps that run it, in the order of first use. Of a policy: over the steps in
    which all samples run it."""
    manifest, opened = bundle.manifest, bundle.policy
    ran = [[step.program for step in manifest.steps]] * len(fast.steps)
    if fast.decisions and opened is not None:
        of_action = [action.program for action in opened.policy.actions]
        ran = [[of_action[row[0]] if len(set(row)) == 1 else -1 for row in each.tolist()] for each in fast.decisions]
    full = manifest.programs[manifest.baseline_program].flops
    programs = []
    for program, count in Counter(program for each in ran for program in each if program >= 0).items():
        found = timing([
            seconds for run, each in zip(fast.steps, ran, strict=True)
            for seconds, which in zip(run, each, strict=True) if which == program
        ])  # fmt: skip
        used, steps = manifest.programs[program], round(count / len(ran))
        programs.append(ProgramTiming(used.file, steps, found, found.median / base.median, used.flops / full))
    return tuple(programs)


def _policy(bundle: Bundle, fast: Generations) -> PolicyResult | None:
    """Of the generations that followed the bundle's policy."""
    if not fast.decisions or bundle.policy is None:
        return None
    calls = np.array([(each == FULL).sum(axis=0) for each in fast.decisions])  # [rounds, B]
    by_calls: dict[int, list[float]] = {}
    for seconds, total in zip(fast.whole, calls.sum(axis=1).tolist(), strict=True):
        by_calls.setdefault(total, []).append(seconds)
    return PolicyResult(
        bundle.policy.policy.name, float(calls.mean()), int(calls.min()), int(calls.max()),
        {total: statistics.median(seconds) for total, seconds in sorted(by_calls.items())},
    )  # fmt: skip


def _error(fast: Generations, whole: Generations) -> Error:
    reference = np.stack(whole.latents).astype(np.float64)
    difference = np.stack(fast.latents) - reference
    rmse = float(np.sqrt(np.mean(difference**2)))
    return Error(rmse, rmse / float(np.sqrt(np.mean(reference**2))), float(np.abs(difference).max()))


def _energy(fast: Generations, whole: Generations) -> tuple[float, float] | None:
    """Median joules of a generation of each kind."""
    kinds = [[joules for joules in each.joules if joules is not None] for each in (fast, whole)]
    return (statistics.median(kinds[0]), statistics.median(kinds[1])) if all(kinds) else None

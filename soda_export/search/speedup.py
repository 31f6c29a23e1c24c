"""From a wanted speedup or latency to a FLOPs ratio, by step latencies that are measured on the backend."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..bench.latency import StepLatency, check_can_time, probe_schedule, time_kinds
from ..compile.options import EngineOptions
from ..errors import PlanError
from ..options import BundleOptions
from ..plan.solve import PlanOptions, SolvedPlan, flops_ratio
from ..sampler import can_skip

if TYPE_CHECKING:
    from ..workbench.pipeline import Workbench

log = logging.getLogger(__name__)
_CLOSE = 0.01  # a speedup is met when it is predicted within this share
MOST_TRIES = 4  # FLOPs ratios that are planned for to meet a speedup


def measure_latency(bench: Workbench, batch: int, bundle: BundleOptions, engines: EngineOptions) -> StepLatency:
    """Time every kind of step on the backend, with a bundle that is made for that by the same options."""
    check_can_time(bundle.backend, batch, engines)
    spec = bench.loaded.spec
    schedule = probe_schedule(spec, bench.sampler.steps, can_skip(bench.sampler))
    plan = bench.plan_of(schedule, "probe of step latencies")
    out = bench.store.root / f"probe-{spec.name}-{bundle.backend}"
    built = bench.build(plan, bundle.backend, out, bundle, engines)
    latency = time_kinds(built.out, schedule, spec, batch)
    log.info(
        "latency: %.2f ms a step of everything, %.2f ms with caching, %.2f ms reused, batch %d",
        1e3 * latency.whole, 1e3 * latency.anchor, 1e3 * latency.reused[0], batch,
    )  # fmt: skip
    return latency


def plan_for_speedup(
    bench: Workbench, plan: Callable[[float], SolvedPlan], options: PlanOptions, latency: StepLatency
) -> SolvedPlan:
    """Find the FLOPs ratio whose plan has the wanted speedup by the measured step latencies. plan: at a ratio."""
    spec = bench.loaded.spec
    rows, steps = bench.rows, bench.sampler.steps
    wanted = options.speedup or latency.unaccelerated(steps) / (options.latency_ms / 1e3)
    given = f"--speedup {wanted:g}" if options.speedup else f"--latency-ms {options.latency_ms:g}"
    if wanted <= 1.0:
        raise PlanError(
            f"{given}: computing everything takes {1e3 * latency.unaccelerated(steps):.1f} ms, no plan is needed"
        )
    ratio, low, high = wanted, 1.0, np.inf
    best: SolvedPlan | None = None
    for _ in range(MOST_TRIES):
        try:
            solved = plan(ratio)
        except PlanError as error:
            if best is not None:  # it has the speedup; only one nearer to it was looked for
                break
            raise PlanError(f"{given}: needs a FLOPs ratio of {ratio:.2f}; {error}") from None
        reached_speedup = latency.speedup(solved.plan.schedule, spec, rows)
        log.info("plan: FLOPs ratio %.3f, predicted speedup %.3f", flops_ratio(solved.plan, spec), reached_speedup)
        if reached_speedup >= wanted * (1 - _CLOSE):
            best = solved
            if reached_speedup <= wanted * (1 + 2 * _CLOSE):
                break
            high = min(high, ratio)
        else:
            low = max(low, ratio)
        ratio *= wanted / reached_speedup
        if not low < ratio < high:
            ratio = (low + min(high, 2 * low)) / 2
    if best is None:
        raise PlanError(f"{given}: not reached; the closest plan has a speedup of {reached_speedup:.2f}")
    return best

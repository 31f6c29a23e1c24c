"""What steps cost on a backend: a small bundle with one step of every kind is built and timed, beside a run that
computes everything. So a budget may be a speedup or a latency.
"""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from soda_runtime import Bundle
from soda_runtime.request import example_request

from ..compile import AHEAD_OF_TIME
from ..compile.nvidia.targets import check_runs_here
from ..compile.options import EngineOptions
from ..errors import CompileError, PlanError, UsageError
from ..models.decisions import COMPUTE, IDLE, MAX_ORDER, REUSE
from ..models.flops import full_step_flops, step_flops
from ..models.spec import ModelSpec
from ..plan.schedule import Schedule, skipped_work
from .timing import time_steps

log = logging.getLogger(__name__)
_ROUNDS = 5


@dataclass(frozen=True)
class StepLatency:
    """Median seconds of a step for one request of `batch` samples. whole: everything computed, in the run that computes
    everything; anchor: the same with its outputs cached; reused, stack: by order. rest: a request's time outside steps.
    skip: a step that does not call the model, 0.0 where none was timed.
    """

    batch: int
    whole: float
    anchor: float
    reused: tuple[float, ...]
    stack: tuple[float, ...]
    rest: float
    skip: float = 0.0

    def unaccelerated(self, steps: int) -> float:
        """Seconds of a request that computes everything."""
        return self.rest + steps * self.whole

    def of(self, schedule: Schedule, spec: ModelSpec, rows: int) -> float:
        """Seconds of a request: a step between the kinds that were timed costs in proportion to its FLOPs."""
        full = full_step_flops(spec, rows)
        seconds = self.rest
        for work, skipped in zip(schedule.work, schedule.skips, strict=True):
            if skipped:
                seconds += self.skip
                continue
            if spec.stack is not None and work[spec.stack] != COMPUTE:
                seconds += self.stack[-int(work[spec.stack])]
                continue
            order = _order(work)
            least = [min(int(w), REUSE) if k in spec.leaves else int(w) for k, w in enumerate(work)]
            idle = step_flops(spec, rows, least)
            share = (step_flops(spec, rows, work.tolist()) - idle) / max(1, full - idle)
            seconds += self.reused[order] + share * (self.anchor - self.reused[order])
        return seconds

    def speedup(self, schedule: Schedule, spec: ModelSpec, rows: int) -> float:
        """Seconds of computing everything / seconds of the schedule."""
        return self.unaccelerated(schedule.steps) / self.of(schedule, spec, rows)


def probe_schedule(spec: ModelSpec, steps: int, can_skip: bool = False) -> Schedule:
    """Three anchors, then every kind of step in turn for the rest of the run, with an anchor before the last.
    can_skip: whether the sampler can take steps that do not call the model; one does not, if there is one to spare."""
    if steps < _LEAST_STEPS:
        raise PlanError(f"--speedup and --latency-ms need at least {_LEAST_STEPS} steps to time every kind of them")
    work = Schedule.full(spec, steps).work
    for i in range(steps - MAX_ORDER - 2):
        t = MAX_ORDER + 1 + i
        sites = list(spec.leaves)
        if spec.stack is not None and i % (2 * (MAX_ORDER + 1)) > MAX_ORDER:
            sites = [spec.stack]
        work[t, sites] = -(i % (MAX_ORDER + 1))
    if can_skip and steps > _LEAST_STEPS:
        work[-2] = skipped_work(spec)
    return Schedule.of(spec, work)


def _order(work: NDArray[np.int64]) -> int:
    """The highest order at which a step forecasts a site."""
    return int(max(0, -min((w for w in work.tolist() if w != IDLE), default=0)))


_LEAST_STEPS = 3 * (MAX_ORDER + 1) + 1


def check_can_time(backend: str, batch: int, engines: EngineOptions) -> None:
    """Refuse before any work what cannot be timed on this machine. Raises PlanError or UsageError."""
    if batch < 1:
        raise UsageError(f"--latency-batch {batch}: must be at least 1")
    if backend not in AHEAD_OF_TIME:
        return
    if batch > engines.max_batch:
        raise UsageError(f"--latency-batch {batch}: engines take at most {engines.max_batch}; raise --max-batch")
    try:
        check_runs_here(engines)
    except CompileError as error:
        raise PlanError(
            f"--speedup and --latency-ms time the engines on the GPU that they are for: {error}; "
            "give --budget or --flops-ratio"
        ) from None


def time_kinds(path: Path, schedule: Schedule, spec: ModelSpec, batch: int) -> StepLatency:
    """Play the bundle of a probe schedule, accelerated and not in turn."""
    bundle = Bundle.open(path)
    request = example_request(bundle, batch)
    sessions = {True: bundle.session(), False: bundle.session()}
    seconds: dict[bool, list[list[float]]] = {True: [], False: []}
    rest = []
    for round_ in range(_ROUNDS + 1):
        for accelerated, session in sessions.items():
            started = time.perf_counter()
            session.start(**request, seed=round_, accelerated=accelerated)
            session.wait()
            rest.append(time.perf_counter() - started)
            times = time_steps(session, schedule.steps)
            if round_:  # the first one warms up
                seconds[accelerated].append(times)
    fast, whole = np.median(seconds[True], axis=0), np.median(seconds[False], axis=0)
    computed = (schedule.work == COMPUTE).all(axis=1)
    skips = np.array(schedule.skips)
    given = np.zeros(len(computed), bool) if spec.stack is None else schedule.work[:, spec.stack] != COMPUTE
    given &= ~skips
    orders = np.array([_order(work) for work in schedule.work])
    return StepLatency(
        batch, float(np.median(whole)), float(np.median(fast[computed])),
        tuple(float(np.median(fast[~computed & ~given & ~skips & (orders == o)])) for o in range(MAX_ORDER + 1)),
        tuple(float(np.median(fast[given & (orders == o)])) if given.any() else 0.0 for o in range(MAX_ORDER + 1)),
        statistics.median(rest[2:]), float(np.median(fast[skips])) if skips.any() else 0.0,
    )  # fmt: skip

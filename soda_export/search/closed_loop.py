"""Closed-loop cost of an interval: how far the final sample moves when the steps after one anchor are not computed.

The error is made once, in one interval, and the full model goes on from there: so the network's own correction of
early errors counts, and errors within the interval add up as they do in use. Measured at a sparse grid of (anchor,
gap) and interpolated in between; the errors of different intervals are taken as independent, so squares add up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..eager.reference import weighted_sum
from ..eager.sampling import StepHook
from ..eager.sites import SiteCall
from ..plan.forecast import forecast_weights
from ..sampler import Stepper, with_memory
from .trial import Trials

MAX_GAP = 10
GAPS = (2, 4, 7, 10)
_LEAST_ANCHORS = 3


class Way(NamedTuple):
    """How steps between anchors do without computing: every leaf site's output, or the stack's, at an order; or skip:
    without the model."""

    order: int
    stack: bool
    skip: bool = False


WAYS = (Way(0, False), Way(1, False), Way(2, False), Way(0, True), Way(1, True), Way(2, True), Way(0, False, True))
MEASURED_WAYS = (Way(0, False), Way(1, False), Way(2, False), Way(2, True), Way(0, False, True))


@dataclass(frozen=True, eq=False)
class IntervalCosts:
    """squares: [S, G + 1, W], mean squared error of the final sample for the interval from each anchor over each gap by
    each of MEASURED_WAYS; infinite where it leaves the run, 0 for a gap of 1. measured: (anchor, gap) pairs played."""

    squares: NDArray[np.float64]
    measured: int


def least_intervals(steps: int) -> int:
    """How many intervals measure_intervals plays, however little time there is."""
    return _LEAST_ANCHORS * sum(gap < steps for gap in GAPS)


def assumed_intervals(steps: int, pairs: NDArray[np.float64] | None) -> IntervalCosts:
    """What to go by where there is no time to measure: every way alike, and as `gram` has it without the model (pairs:
    C of plan/pairs.py, with anchors as far apart before as after); without that every anchor alike, and errors that
    grow with the gap."""
    squares = np.full((steps, MAX_GAP + 1, len(MEASURED_WAYS)), np.inf)
    for gap in range(1, min(MAX_GAP, steps - 1) + 1):
        for anchor in range(steps - gap):
            given = (gap - 1.0) ** 2 if pairs is None else pairs[max(0, anchor - gap), anchor, anchor + gap]
            squares[anchor, gap] = given
    return IntervalCosts(squares, 0)


def measure_intervals(trials: Trials, seconds: float, progress: Callable[[int, int], None]) -> IntervalCosts:
    """Measure as fine a grid of anchors as fits into `seconds`, and interpolate."""
    steps = trials.sampler.steps
    gaps = [g for g in GAPS if g < steps]
    points: dict[tuple[int, int], NDArray[np.float64]] = {}
    started = time.perf_counter()
    queue = _coarse_to_fine(steps, gaps)
    least = least_intervals(steps)
    for done, (anchor, gap) in enumerate(queue):
        if done >= least and time.perf_counter() - started > seconds:
            break
        points[anchor, gap] = _measure(trials, anchor, gap)
        progress(done + 1, len(queue))
    return IntervalCosts(_interpolate(points, steps, gaps), len(points))


def _measure(trials: Trials, anchor: int, gap: int) -> NDArray[np.float64]:
    key = trials.key_of(f"interval {anchor} {gap}".encode())
    return np.array(trials.journal.recall(key, lambda: _Interval(trials, anchor, gap).play().tolist()))


def _coarse_to_fine(steps: int, gaps: list[int]) -> list[tuple[int, int]]:
    """(anchor, gap) pairs: a few anchors for every gap first, then those halfway between, and so on."""
    order: list[int] = []
    parts = 2
    while len(order) < steps - 2:
        grid = sorted({round(i * (steps - 3) / parts) for i in range(parts + 1)})
        order += [a for a in grid if a not in order]
        parts *= 2
    return [(a, g) for a in order for g in gaps if a + g <= steps - 1]


class _Interval:
    """Anchors at a - 2 g, a - g and a, everything reused up to the next one at a + g, and on from there in full."""

    def __init__(self, trials: Trials, anchor: int, gap: int) -> None:
        self.trials, self.anchor, self.gap = trials, anchor, gap
        self.nodes = [t for t in (anchor, anchor - gap, anchor - 2 * gap) if t >= 0]
        self.outputs: list[tuple[list[Tensor], ...]] = [()] * len(trials.spec.sites)  # of each output one a node
        self.predictions: list[Tensor] = []

    def play(self) -> NDArray[np.float64]:
        """Mean squared error of the final sample by way: [W]. An order that the history cannot give is lowered; where
        the model has no stack, the leaf sites are reused."""
        for step in self.nodes:
            self._record(step)
        squares: dict[Way, float] = {}
        for way in MEASURED_WAYS:
            has_stack = self.trials.spec.stack is not None
            able = Way(min(way.order, len(self.nodes) - 1), way.stack and has_stack, way.skip and self.trials.can_skip)
            if able not in squares:
                squares[able] = float(np.mean(self.trials.squares(self._finish(able))))
            squares[way] = squares[able]
        return np.array([squares[way] for way in MEASURED_WAYS])

    def _record(self, step: int) -> None:
        def keep(k: int, call: SiteCall) -> tuple[Tensor, ...]:
            values = call.compute()
            known = self.outputs[k] or tuple([] for _ in values)
            for history, value in zip(known, values, strict=True):
                history.append(value)
            self.outputs[k] = known
            return values

        trials = self.trials
        output = trials.sampling.predict(trials.sampler, step, trials.states[step], StepHook(keep))
        self.predictions.append(output[:, : trials.spec.latent_shape[0]])

    def _begin(self, way: Way) -> tuple[Stepper, Tensor]:
        """What the steps after the anchor are taken with, and the state they find."""
        trials, state = self.trials, self.trials.states[self.anchor + 1]
        renews = [not self.anchor < step < self.anchor + self.gap for step in range(trials.sampler.steps)]
        skips = [way.skip and not renewed for renewed in renews]
        if not trials.fit and not way.skip:
            return trials.sampler, state
        fitting = trials.fitting(renews, skips)
        stepper = fitting if trials.fit else with_memory(trials.sampler, renews, skips)
        return stepper, fitting.resume(state, self.predictions)

    def _finish(self, way: Way) -> Tensor:
        spec = self.trials.spec
        stack = () if spec.stack is None else (spec.stack,)
        given = frozenset(stack if way.stack else spec.leaves)

        def hook(step: int) -> StepHook:
            if step >= self.anchor + self.gap:
                return StepHook()
            if way.skip:
                return StepHook(skips=True)
            weights = forecast_weights(step, self.nodes, way.order)
            return StepHook(lambda k, call: self._reused(k, call, weights, given), given)

        stepper, state = self._begin(way)
        return self.trials.sampling.run(stepper, hook, state, self.anchor + 1, self.trials.check_time)[0]

    def _reused(self, k: int, call: SiteCall, weights: Sequence[float], given: frozenset[int]) -> tuple[Tensor, ...]:
        if k not in given:
            return call.compute()
        return tuple(weighted_sum(tuple(weights), history) for history in self.outputs[k])


def _interpolate(
    points: dict[tuple[int, int], NDArray[np.float64]], steps: int, gaps: list[int]
) -> NDArray[np.float64]:
    """Log errors, linear over the anchor for each measured gap, then over the logarithm of the gap."""
    ways = len(MEASURED_WAYS)
    squares = np.full((steps, MAX_GAP + 1, ways), np.inf)
    squares[:, 1] = 0.0
    logs = np.full((steps, len(gaps), ways), np.nan)
    for column, gap in enumerate(gaps):
        anchors = sorted(a for a, g in points if g == gap)
        if not anchors:
            continue
        values = np.log(np.maximum([points[a, gap] for a in anchors], 1e-30))
        for w in range(ways):
            logs[:, column, w] = np.interp(np.arange(steps), anchors, values[:, w])
    known = [c for c in range(len(gaps)) if np.isfinite(logs[:, c]).all()]
    places = np.log([gaps[c] for c in known])
    for gap in range(2, min(MAX_GAP, steps - 1) + 1):
        for t in range(steps - gap):
            for w in range(ways):
                squares[t, gap, w] = np.exp(np.interp(np.log(gap), places, logs[t, known, w]))
    return squares

"""DPCache (arXiv 2602.22654): anchors by what forecasts from each pair of anchors would miss.

    C[i, j, k] = sum over t = j + 1 .. k - 1 of mean |h~_t - h_t|
    D[m][j][k] = min over i < j of D[m - 1][i][j] + C[i, j, k]

with h_t the stack's output at step t, recorded in full runs, and h~_t its first-order expansion from the anchors i < j.
The paper keeps one predecessor a step; this keeps all pairs and is exact. The first three steps are anchors. No anchor
needs to stand at the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...eager.sampling import StepHook
from ...eager.sites import SiteCall
from ...errors import PlanError
from ...plan.planners.targets import check_one_given
from ...plan.problem import Problem, Target
from ...plan.schedule import Schedule
from ..trial import Trials
from .whole_steps import meet

_FIRST, _MOST_SAMPLES, _WIDEST = 3, 4, 12  # the widest gap between anchors


def plan_dpcache(
    problem: Problem, target: Target, trials: Trials, seconds: float, progress: Callable[[], None]
) -> Schedule:
    """Raises PlanError, also for models whose blocks are not one stack. seconds: not looked at; it records one run of
    each of 4 samples."""
    check_one_given(target)
    name, stack = problem.spec.name, problem.spec.stack
    if stack is None:
        raise PlanError(f"--planner dpcache: forecasts what all blocks give together; {name} has no such site")
    few = trials.with_samples(trials.samples[:_MOST_SAMPLES])
    missed = pair_costs(_record(few, stack, progress))

    return meet(problem, target, lambda budget: pair_anchors(missed, budget), order=1, stack=True)


def _record(trials: Trials, stack: int, progress: Callable[[], None]) -> list[Tensor]:
    """The stack's outputs at each step of the full run."""
    outputs: list[Tensor] = []

    def keep(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        values = call.compute()
        if k == stack:
            outputs.append(torch.cat([value.flatten() for value in values]))
        return values

    for step in range(trials.sampler.steps):
        trials.sampling.predict(trials.sampler, step, trials.states[step], StepHook(keep))
        progress()
    return outputs


def pair_costs(outputs: list[Tensor]) -> NDArray[np.float64]:
    """C[i, j, k] for i < j < k <= S, at i = j by outright reuse; infinite where two of them are too far apart."""
    steps = len(outputs)
    costs = np.full((steps, steps, steps + 1), np.inf)
    for j in range(steps):
        for i in range(max(0, j - _WIDEST), j + 1):
            total = 0.0
            for k in range(j + 1, min(j + _WIDEST, steps) + 1):
                costs[i, j, k] = total
                if k < steps:
                    slope = (outputs[j] - outputs[i]) * ((k - j) / (j - i)) if i < j else 0.0
                    total += (outputs[j] + slope - outputs[k]).abs().mean().item()
    return costs


def pair_anchors(costs: NDArray[np.float64], budget: int) -> tuple[int, ...]:
    """The cheapest `budget` anchors for C [S, S, S + 1], the first three of S steps among them. Raises PlanError."""
    steps = costs.shape[0]
    first = min(_FIRST, budget)
    best = np.full((budget + 1, steps, steps + 1), np.inf)
    came = np.zeros((budget + 1, steps, steps + 1), np.int64)
    if first == 1:
        best[1, 0] = costs[0, 0]
    else:
        best[first, first - 1] = costs[first - 2, first - 1]
        came[first, first - 1] = first - 2
    for m in range(first + 1, budget + 1):
        for j in range(m - 1, steps):
            offers = best[m - 1, :j, j][:, None] + costs[:j, j]  # [i, k]
            best[m, j], came[m, j] = offers.min(axis=0), offers.argmin(axis=0)
    last = int(best[budget, :, steps].argmin())
    if not np.isfinite(best[budget, last, steps]):
        raise PlanError(f"--budget {budget}: anchors at most {_WIDEST} steps apart must reach from step 0 to the end")
    anchors, end = [last], steps
    for m in range(budget, first, -1):
        anchors.append(int(came[m, anchors[-1], end]))
        end = anchors[-2]
    return (*range(first - 1), *reversed(anchors))

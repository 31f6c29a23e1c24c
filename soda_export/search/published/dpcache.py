"""DPCache (arXiv 2602.22654): anchors by what forecasts from each pair of anchors would miss.

    C[i, j, k] = sum over t = j + 1 .. k - 1 of mean |h~_t - h_t|

with h_t the stack's output at step t, recorded in full runs, and h~_t its first-order expansion from the anchors i < j.
The paper keeps one predecessor a step; this keeps all pairs (plan/pairs.py). The first three steps are anchors.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...eager.sampling import StepHook
from ...eager.sites import SiteCall
from ...errors import PlanError
from ...plan.pairs import check_steps, pair_anchors, pair_costs
from ...plan.planners.targets import check_one_given
from ...plan.problem import Problem, Target
from ...plan.schedule import Schedule
from ..trial import Trials
from .whole_steps import meet

_FIRST, _MOST_SAMPLES = 3, 4


def plan_dpcache(
    problem: Problem, target: Target, trials: Trials, seconds: float, progress: Callable[[], None]
) -> Schedule:
    """Raises PlanError, also for models whose blocks are not one stack. seconds: not looked at; it records one run of
    each of 4 samples."""
    check_one_given(target)
    check_steps(problem.steps)
    name, stack = problem.spec.name, problem.spec.stack
    if stack is None:
        raise PlanError(f"--planner dpcache: forecasts what all blocks give together; {name} has no such site")
    few = trials.with_samples(trials.samples[:_MOST_SAMPLES])
    costs = forecast_costs(_record(few, stack, progress))
    return meet(problem, target, lambda budget: pair_anchors(costs, budget, _FIRST), order=1, stack=True)


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


def forecast_costs(outputs: list[Tensor]) -> NDArray[np.float64]:
    """C[i, j, k] of pair_costs; at i = j by outright reuse."""

    def missed(i: int, j: int, t: int) -> float:
        slope = (outputs[j] - outputs[i]) * ((t - j) / (j - i)) if i < j else 0.0
        return (outputs[j] + slope - outputs[t]).abs().mean().item()

    def between(i: int, j: int, ends: range) -> list[float]:
        return list(accumulate((missed(i, j, t) for t in ends[:-1]), initial=0.0))

    return pair_costs(len(outputs), between)

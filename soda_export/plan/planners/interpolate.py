"""From a family of schedules by number of anchors to one that meets a FLOPs ratio: the last anchor only in part."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from ...errors import PlanError
from ...models.decisions import IDLE, REUSE
from ..problem import Problem, Target
from ..schedule import Schedule
from .flops_table import FlopsTable
from .orders import limit_orders
from .targets import check_budget, unreachable, within_tolerance

Make = Callable[[int], Schedule]


def meet_target(
    problem: Problem, target: Target, make: Make, fewest: int, whole: int = 1, like: Make | None = None
) -> Schedule:
    """The schedule of make, as in meet_ratio, for the ratio or the budget that is given. Raises PlanError."""
    if target.flops_ratio:
        return meet_ratio(problem, target.flops_ratio, make, fewest, whole, like)
    check_budget(target.budget, fewest, problem.steps)
    return make(target.budget)


def meet_ratio(
    problem: Problem, ratio: float, make: Make, fewest: int, whole: int = 1, like: Make | None = None
) -> Schedule:
    """The schedule between make(budget) and make(budget + 1) with these FLOPs.

    make gives a schedule for fewest .. steps anchors, whose FLOPs grow with them. One anchor of the larger one becomes
    a partial step. like: schedules of the same FLOPs that are made faster, to find the numbers of anchors with.
    Raises PlanError with the reachable range, or with the nearest ratio where whole sites
    are too coarse for the tolerance.
    """
    table, made, tried = FlopsTable(problem), cache(make), cache(like or make)
    wanted = problem.full_flops / ratio
    low, high = fewest, problem.steps
    if table.flops(tried(low)) >= wanted:
        if not within_tolerance(problem, table.flops(tried(low)), ratio):
            raise unreachable(f"--flops-ratio {ratio:g}", 1.0, problem.full_flops / table.flops(tried(low)))
        return made(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if table.flops(tried(middle)) <= wanted else (low, middle)
    offers = [made(low), *_partial_steps(problem, made(low), made(high), whole)]
    best = min(offers, key=lambda offer: abs(table.flops(offer) - wanted))
    if not within_tolerance(problem, table.flops(best), ratio):
        reached = problem.full_flops / table.flops(best)
        raise PlanError(
            f"--flops-ratio {ratio:g}: whole sites of this model reach {reached:.3f} at the nearest; give that"
        )
    return best


def partial_anchor(anchors: tuple[int, ...], steps: int, whole: int) -> int:
    """The anchor to give up in part: the one whose neighbours are closest together, so that the least is bridged.

    Ties go to the middle of the run. The first `whole` anchors stay, and the last step where another can be taken.
    """
    inner = [i for i in range(whole, len(anchors)) if anchors[i] != steps - 1] or [len(anchors) - 1]
    after = (*anchors[1:], steps)
    return min(
        (anchors[i] for i in inner),
        key=lambda t: (after[anchors.index(t)] - anchors[anchors.index(t) - 1], abs(2 * t - steps + 1), t),
    )


def _partial_steps(problem: Problem, smaller: Schedule, larger: Schedule, whole: int) -> list[Schedule]:
    """`larger` with one anchor that computes none, one, ... all of its leaf sites, from the first on.

    The others do there what they do between the anchors of `smaller`.
    """
    step = partial_anchor(larger.anchors, problem.steps, whole)
    leaves = np.array(problem.spec.leaves)
    rest = smaller.work[:, leaves].min(axis=0)
    rest[rest == IDLE] = REUSE  # what contains them is computed
    offers = []
    for computed in range(leaves.size + 1):
        work = larger.work.copy()
        work[step, leaves[computed:]] = rest[computed:]
        offers.append(limit_orders(Schedule(work)))
    return offers

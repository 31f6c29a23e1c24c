"""SODA (arXiv 2603.07057): anchors by dynamic programming, then prune or reuse for every site in between.

Anchors are the only steps that compute everything, so a budget is met exactly. With a FLOPs ratio alone, the budgets
that can meet it are tried, and the one whose decisions have the least predicted error, summed over the map, is kept;
where no site's tokens can be renewed singly, one anchor is computed in part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np

from ...errors import PlanError
from ...models.decisions import COMPUTE
from ..anchors import AnchorCost, AnchorTable, anchor_cost, solve_anchors
from ..decide import Decisions, Strategy, decide_sites, take
from ..errors_by_keep import Choices, tabulate_choices
from ..merge import error_given_up, merge_steps
from ..problem import Problem, Target
from ..schedule import Schedule
from .dynamic import error_of_anchors, fewest_anchors_of
from .interpolate import meet_ratio
from .periods import evenly_spaced
from .prune_budget import in_reach, reach, spendable_flops
from .targets import check_budget, check_values, measured, unreachable

Place = Callable[[int], tuple[int, ...]]
"""Budget -> anchors; raises PlanError where there are none."""
_MOST_TRIED = 64  # budgets; where more are feasible, a search tries some of them


@dataclass(frozen=True)
class SodaOptions:
    """How SODA plans; `placement` puts anchors by dynamic programming, or evenly, as its ablation's fixed schedule."""

    cost: AnchorCost = "sum"
    strategy: Strategy = "efficiency"
    sensitivity_weight: float = 1.0
    max_engines: int = 12
    placement: Literal["dp", "uniform"] = "dp"


@dataclass(frozen=True)
class SodaSchedule:
    """A schedule and what its making gave up: relative increase of the predicted error by sharing programs."""

    schedule: Schedule
    merge_loss: float
    beta: float


@dataclass(frozen=True, eq=False)
class _Draft:
    """Decisions before steps share programs."""

    choices: Choices
    decisions: Decisions
    spendable: float

    @property
    def error(self) -> float:
        """Predicted error, summed over the map."""
        return float(take(self.choices.error, self.decisions.choice).sum())


def plan_soda(
    problem: Problem, target: Target, *, cost: AnchorCost = "sum", strategy: Strategy = "efficiency",
    sensitivity_weight: float = 1.0, max_engines: int = 12,
) -> Schedule:  # fmt: skip
    """SODA's schedule for a budget, a FLOPs ratio, or both. Raises PlanError with the reachable range."""
    options = SodaOptions(cost, strategy, sensitivity_weight, max_engines)
    return solve_soda(problem, target, options).schedule


def plan_soda_cem(problem: Problem, target: Target) -> Schedule:
    """Anchors at CEM's cost (arXiv 2512.23258), which looks at the last block's output alone."""
    return plan_soda(problem, target, cost="cem")


def plan_soda_literal(problem: Problem, target: Target) -> Schedule:
    """Prune wherever the map says E_p < E_c, as published."""
    return plan_soda(problem, target, strategy="literal")


def plan_uas(problem: Problem, target: Target) -> Schedule:
    """Evenly spaced anchors, SODA's pruning in between: the +UAS row of its ablation."""
    return solve_soda(problem, target, SodaOptions(placement="uniform")).schedule


def solve_soda(problem: Problem, target: Target, options: SodaOptions) -> SodaSchedule:
    """plan_soda, with what its making gave up."""
    check_values(target)
    measured(problem)
    if options.max_engines < 2:
        raise PlanError(f"--max-engines {options.max_engines}: a schedule needs at least 2, full and cached")
    if not 0.0 <= options.sensitivity_weight < np.inf:
        raise PlanError(f"--sensitivity-weight {options.sensitivity_weight:g}: must be a number of 0 or more")
    if not target.budget and not target.flops_ratio:
        raise PlanError("give --budget (number of anchors), --flops-ratio or both")
    place = _placement(problem, options, target.budget or problem.steps)
    if not problem.renewable.any() and not target.budget:
        schedule = meet_ratio(
            problem, target.flops_ratio,
            lambda budget: Schedule.at_anchors(problem.spec, problem.steps, place(budget)), fewest_anchors_of(problem),
        )  # fmt: skip
        return SodaSchedule(schedule, 0.0, 0.0)
    budget = target.budget or _best_budget(problem, target.flops_ratio, options, place)
    draft = _draft(problem, Target(budget, target.flops_ratio), options, place)
    choices, decisions = draft.choices, draft.decisions
    merged = merge_steps(choices, decisions, options.max_engines - 1, draft.spendable)
    work = np.full((problem.steps, len(problem.spec.sites)), COMPUTE, np.int64)
    work[np.ix_(choices.steps, np.array(problem.spec.leaves))] = choices.keeps[np.arange(merged.shape[1]), merged]
    return SodaSchedule(Schedule(work), error_given_up(choices, decisions.choice, merged), decisions.beta)


def _draft(problem: Problem, target: Target, options: SodaOptions, place: Place) -> _Draft:
    """Decisions for the target's budget."""
    anchors = place(target.budget)
    spendable = spendable_flops(problem, target, options.strategy)
    choices = tabulate_choices(measured(problem), problem.spec, problem.renewable, anchors, problem.rows)
    decisions = decide_sites(choices, spendable, options.sensitivity_weight, options.strategy)
    return _Draft(choices, decisions, spendable)


def _placement(problem: Problem, options: SodaOptions, most: int) -> Place:
    """How anchors are placed, for budgets of at most `most`."""
    if options.placement == "uniform":
        return partial(_evenly, problem)
    error = error_of_anchors(problem, options.cost)
    if options.cost == "cem":  # whose costs depend on the budget
        return lambda budget: solve_anchors(anchor_cost("cem", error, budget), budget)
    return AnchorTable(anchor_cost(options.cost, error, most), most).anchors


def _evenly(problem: Problem, budget: int) -> tuple[int, ...]:
    check_budget(budget, fewest_anchors_of(problem), problem.steps)
    return evenly_spaced(problem.steps, budget)


def _best_budget(problem: Problem, ratio: float, options: SodaOptions, place: Place) -> int:
    """The budget whose decisions for this ratio have the least predicted error."""

    @cache
    def error(budget: int) -> float:
        try:
            return _draft(problem, Target(budget, ratio), options, place).error
        except PlanError:  # no such anchors at this cost
            return float("inf")

    fewest = fewest_anchors_of(problem)
    feasible = [b for b in range(fewest, problem.steps + 1) if in_reach(problem, b, ratio, options.strategy)]
    best = _least(error, feasible) if feasible else fewest
    if not feasible or not np.isfinite(error(best)):
        raise unreachable(f"--flops-ratio {ratio:g}", 1.0, reach(problem, fewest)[1])
    return best


def _least(error: Callable[[int], float], budgets: list[int]) -> int:
    """The budget of least error: all are tried, or where they are many, a grid and then ever closer neighbours."""
    stride = 1 if len(budgets) <= _MOST_TRIED else len(budgets) // 4
    best = min(range(0, len(budgets), stride), key=lambda i: error(budgets[i]))
    while stride > 1:
        stride //= 2
        near = (i for i in (best, best - stride, best + stride) if 0 <= i < len(budgets))
        best = min(near, key=lambda i: error(budgets[i]))
    return budgets[best]

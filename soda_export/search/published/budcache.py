"""BudCache (arXiv 2606.13496), its first stage: which steps to compute, by search on the final sample's error.

The first max(1, B // 4) of B computed steps stay. Simulated annealing from a random choice, 200 rounds, temperature
from 0.05 to 1e-5 in equal ratios, on the mean squared error: one computed step moves (nine times in ten; seven of ten
of these within 3 steps), or two do. Then steepest descent, 20 rounds at most: of all single moves within 3 steps and
two far ones a step the best is taken. Steps in between reuse what the blocks
added. Its second stage trains the timesteps.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator

from ...plan.planners.periods import fewest_anchors
from ...plan.planners.targets import check_one_given
from ...plan.problem import Problem, Target
from ...plan.schedule import Schedule
from ..trial import Trials
from .whole_steps import meet

_ROUNDS, _HOT, _COLD = 200, 0.05, 1e-5
_ONE, _NEAR, _REACH = 0.9, 0.7, 3
_DESCENTS, _JUMPS = 20, 2
_ANNEALING_SHARE = 0.5  # of the time, where 200 rounds take longer
_SEED = 0

Choice = frozenset[int]


def plan_budcache(
    problem: Problem, target: Target, trials: Trials, seconds: float, progress: Callable[[], None]
) -> Schedule:
    """What the search finds in `seconds`; where they end too early, the rounds are as many as fit. Raises
    PlanError."""
    check_one_given(target)

    def error(chosen: Choice) -> float:
        progress()
        return trials.rmse(Schedule.at_anchors(problem.spec, problem.steps, tuple(sorted(chosen)))) ** 2

    searches = 2 if target.flops_ratio else 1  # the ratio lies between two numbers of anchors
    return meet(
        problem, target,
        lambda budget: tuple(sorted(_Search(problem.steps, budget, error, seconds / searches).find())),
        fewest=fewest_anchors(problem.steps),
    )  # fmt: skip


class _Search:
    def __init__(self, steps: int, budget: int, error: Callable[[Choice], float], seconds: float) -> None:
        self._steps, self._first = steps, max(1, budget // 4)
        self._random, self._known, self._measure = random.Random(_SEED), dict[Choice, float](), error
        self._started, self._seconds = time.perf_counter(), seconds
        others = self._random.sample(range(self._first, steps), budget - self._first)
        self._at: Choice = frozenset((*range(self._first), *others))

    def find(self) -> Choice:
        best = self._anneal()
        for _ in range(_DESCENTS):
            offers: list[Choice] = []
            for neighbour in self._neighbours(best):
                if self._spent() > 1.0:
                    return min((best, *offers), key=self._error)
                self._error(neighbour)
                offers.append(neighbour)
            better = min(offers, key=self._error, default=best)
            if self._error(better) >= self._error(best):
                break
            best = better
        return best

    def _anneal(self) -> Choice:
        at = best = self._at
        share = 0.0
        for done in range(_ROUNDS):
            share = max(done / _ROUNDS, self._spent() / _ANNEALING_SHARE)
            if share >= 1.0:
                break
            offer = self._moved(at)
            worse = self._error(offer) - self._error(at)
            temperature = _HOT * (_COLD / _HOT) ** share
            if worse < 0 or self._random.random() < math.exp(-worse / temperature):
                at = offer
            best = min(best, at, key=self._error)
        return best

    def _moved(self, chosen: Choice) -> Choice:
        movable = sorted(step for step in chosen if step >= self._first)
        free = [step for step in range(self._first, self._steps) if step not in chosen]
        if not movable or not free:
            return chosen
        if min(len(movable), len(free)) < 2 or self._random.random() < _ONE:
            leaves = self._random.choice(movable)
            near = [step for step in free if abs(step - leaves) <= _REACH]
            comes = self._random.choice(near if near and self._random.random() < _NEAR else free)
            return chosen - {leaves} | {comes}
        return chosen - {*self._random.sample(movable, 2)} | {*self._random.sample(free, 2)}

    def _neighbours(self, chosen: Choice) -> Iterator[Choice]:
        free = [step for step in range(self._first, self._steps) if step not in chosen]
        seen = {chosen}
        for leaves in sorted(step for step in chosen if step >= self._first):
            near = [step for step in free if abs(step - leaves) <= _REACH]
            for comes in (*near, *(self._random.choice(free) for _ in range(_JUMPS if free else 0))):
                neighbour = chosen - {leaves} | {comes}
                if neighbour not in seen:
                    seen.add(neighbour)
                    yield neighbour

    def _error(self, chosen: Choice) -> float:
        if chosen not in self._known:
            self._known[chosen] = self._measure(chosen)
        return self._known[chosen]

    def _spent(self) -> float:
        return (time.perf_counter() - self._started) / self._seconds if self._seconds > 0 else 1.0

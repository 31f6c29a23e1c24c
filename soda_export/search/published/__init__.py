"""Published planners that measure the model: whole steps are reused, by what playing schedules or outputs show.

They are yardsticks of `best`. Each meets a target as the planners of plan/planners do. The sampler is fitted for `gram`
alone, which is ours by a published formula.
"""

from __future__ import annotations

from collections.abc import Callable

from ...plan.problem import Problem, Target
from ...plan.schedule import Schedule
from ..trial import Trials
from .budcache import plan_budcache
from .dpcache import plan_dpcache
from .gram import plan_gram
from .interval_paths import plan_lemica, plan_meancache

Measuring = Callable[[Problem, Target, Trials, float, Callable[[], None]], Schedule]
"""(problem, target, trials, seconds, progress) -> schedule; raises PlanError."""

MEASURING: dict[str, Measuring] = {
    "dpcache": plan_dpcache,
    "lemica": plan_lemica,
    "meancache": plan_meancache,
    "budcache": plan_budcache,
    "gram": plan_gram,
}
DESCRIPTIONS: dict[str, str] = {
    "dpcache": "anchors by dynamic programming on what forecasts from two anchors miss (not for UNets)",
    "lemica": "anchors whose worst interval moves the final sample least, then the next worst, and so on",
    "meancache": "anchors by the fourth powers of how far each interval moves the final sample",
    "budcache": "anchors by simulated annealing on the error of the final sample, then steepest descent",
    "gram": "computed steps by dynamic programming on what least squares miss, the others without the model, fitted",
}
"""What each planner does, in a line."""

"""Planners: from a problem and a target to a schedule, by name. No torch."""

from __future__ import annotations

from collections.abc import Callable

from ..problem import Problem, Target
from ..schedule import Schedule
from .deepcache import plan_deepcache
from .duca import plan_duca
from .dynamic import plan_dcs, plan_dp_forecast
from .fora import plan_fora
from .opensora_rules import plan_pab
from .skips import plan_sada_static, plan_skip_fitted, plan_zeus
from .smoothcache import plan_smoothcache
from .soda import plan_soda, plan_soda_cem, plan_soda_literal, plan_uas
from .taylorseer import plan_taylorseer, plan_taylorseer_first_order
from .toca import plan_toca
from .uniform import plan_uniform

Planner = Callable[[Problem, Target], Schedule]

PLANNERS: dict[str, Planner] = {
    "soda": plan_soda,
    "soda-cem": plan_soda_cem,
    "soda-literal": plan_soda_literal,
    "dcs": plan_dcs,
    "uas": plan_uas,
    "dp-forecast": plan_dp_forecast,
    "taylorseer": plan_taylorseer,
    "taylorseer1": plan_taylorseer_first_order,
    "smoothcache": plan_smoothcache,
    "toca": plan_toca,
    "duca": plan_duca,
    "fora": plan_fora,
    "pab": plan_pab,
    "deepcache": plan_deepcache,
    "zeus": plan_zeus,
    "sada-static": plan_sada_static,
    "skip-fitted": plan_skip_fitted,
    "uniform": plan_uniform,
}
DESCRIPTIONS: dict[str, str] = {
    "soda": "anchors by dynamic programming on the map, pruning where it removes most error per FLOP",
    "soda-cem": "soda, with anchors at CEM's cost",
    "soda-literal": "soda, pruning wherever E_p < E_c, as published",
    "dcs": "soda's anchors alone, everything reused in between",
    "uas": "evenly spaced anchors with soda's pruning",
    "dp-forecast": "soda's anchors, second-order forecasts in between",
    "taylorseer": "fixed period, second-order forecasts in between",
    "taylorseer1": "fixed period, first-order forecasts in between",
    "smoothcache": "each site reused while its error in the map stays below a threshold",
    "toca": "fixed period that shrinks along the run, some tokens of the MLPs in between (DiT, PixArt, Open-Sora)",
    "duca": "toca in turn with steps that skip all blocks (DiT, PixArt, Open-Sora)",
    "fora": "fixed period counted from the end, everything reused in between",
    "pab": "attention reused for a number of steps that its kind decides, within a range of timesteps (Open-Sora)",
    "deepcache": "fixed period, the deep feature reused in between (UNets)",
    "zeus": "every third step in the middle of the run, the others without the model, by a line through the last two",
    "sada-static": "everything, then every fourth step, the others by a polynomial through four clean samples",
    "skip-fitted": "evenly spaced steps, the others without the model, by what least squares say",
    "uniform": "evenly spaced anchors, everything reused in between",
}
"""What each planner does, in a line."""
_WITHOUT_MAP = {
    "taylorseer", "taylorseer1", "toca", "duca", "fora", "pab", "deepcache", "zeus", "sada-static", "skip-fitted",
    "uniform", "dpcache", "lemica", "meancache", "budcache", "gram",
}  # fmt: skip


def needs_map(planner: str) -> bool:
    """Whether the planner of that name, `best` and those of search/published included, plans by a sensitivity map."""
    return planner not in _WITHOUT_MAP

"""DuCa (arXiv 2412.18911): ToCa's partial steps in turn with steps that skip all blocks.

Constants as in the released code: where (s mod N_t) is odd a step is ToCa's, where it is even the last block's output
is reused as it is. DiT with DDIM uses fewer fresh tokens than ToCa; PixArt a constant period and many more. No setting
of DuCa for DDPM was released, so ToCa's stands in, with DuCa's share of fresh tokens.
"""

from __future__ import annotations

from dataclasses import replace

from ..problem import Problem, Target
from ..schedule import Schedule
from .fit_rule import plan_by_rule
from .opensora_rules import FAMILY, plan_toca_opensora
from .toca import toca_rule
from .token_rule import TokenRule

_DIT_FRESH, _PIXART_FRESH = 0.05, 0.75


def duca_rule(problem: Problem) -> TokenRule:
    """The published rule for the model's family and sampler. Raises PlanError for other families."""
    if problem.spec.family == "pixart":
        return replace(toca_rule(problem), fresh=_PIXART_FRESH, period_factor=(1.0, 1.0), skips=True)
    return replace(toca_rule(problem), fresh=_DIT_FRESH, skips=True)


def plan_duca(problem: Problem, target: Target, quantize: bool = True) -> Schedule:
    """DuCa as published, or fitted to a budget or a FLOPs ratio. Raises PlanError.

    quantize: round counts of tokens up to the sites' quanta, as lowering does; False = the paper's exact counts.
    """
    if problem.spec.family == FAMILY:
        return plan_toca_opensora(problem, target, quantize, skips=True)
    return plan_by_rule(problem, target, duca_rule(problem), quantize)

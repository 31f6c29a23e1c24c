"""ToCa (arXiv 2410.05317): full steps at a period that shrinks along the run, some tokens of the MLPs in between.

Constants as in the released code: DiT with DDIM (50 steps) and DDPM (250 steps), PixArt-alpha (20 steps). In between
attention is reused throughout; PixArt's cross-attention computes fewer tokens than the MLP.
"""

from __future__ import annotations

from dataclasses import replace

from ...errors import PlanError
from ..problem import Problem, Target
from ..schedule import Schedule
from .fit_rule import plan_by_rule
from .opensora_rules import FAMILY, plan_toca_opensora
from .token_rule import TokenRule

# shares on DiT: attention's, 1 - 0.4 * 2.5, is nothing; the MLP's is 1 + 0.6 * 2.5
_DDIM = TokenRule(
    period=3, period_factor=(1.4, 0.6), fresh=0.07, layer_factor=(0.8, 1.2), step_factor=(3.0, -1.0),
    shares={"ff": 2.5}, counts_down=True, dense=(0.2, 0.4),
)  # fmt: skip
_DDPM = replace(_DDIM, period=4, layer_factor=(1.8, 0.2), step_factor=(1.4, 0.6))
_PIXART = TokenRule(
    period=3, period_factor=(0.8, 1.2), fresh=0.30, layer_factor=(1.6, 0.4), step_factor=(1.9, 0.1),
    shares={"cross_attn": 0.6, "ff": 1.6}, counts_down=False,
)  # fmt: skip


def toca_rule(problem: Problem) -> TokenRule:
    """The published rule for the model's family and sampler. Raises PlanError for other families."""
    family = problem.spec.family
    if family == "pixart":
        return _PIXART
    if family != "dit":
        known = "DiT, PixArt and Open-Sora"
        raise PlanError(f"--planner toca, duca: published for {known}, not for {family}; use another planner")
    return _DDPM if problem.sampler == "ddpm" else _DDIM


def plan_toca(problem: Problem, target: Target, quantize: bool = True) -> Schedule:
    """ToCa as published, or fitted to a budget or a FLOPs ratio. Raises PlanError.

    quantize: round counts of tokens up to the sites' quanta, as lowering does; False = the paper's exact counts.
    """
    if problem.spec.family == FAMILY:
        return plan_toca_opensora(problem, target, quantize, skips=False)
    return plan_by_rule(problem, target, toca_rule(problem), quantize)

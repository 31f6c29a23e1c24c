"""What SODA may spend on renewed tokens once its anchors are paid, and the FLOPs ratios that leaves in reach."""

from __future__ import annotations

from ...errors import PlanError
from ...models.flops import full_step_flops, site_flops
from ..decide import Strategy
from ..problem import Problem, Target
from ..schedule import fixed_flops
from .targets import TOLERANCE

# mean cost of a non-anchor step, as a share of a full one, that SODA's published FLOPs ratios imply: for PixArt with
# 20 steps, for DiT with 250 steps of DDPM, and for DiT with 50 of DDIM, which other families take, too
_PIXART_SHARE, _DDPM_SHARE, _DDIM_SHARE = 0.22, 0.11, 0.065
_SLACK = 0.001  # how far outside its reach a ratio may be, as a share


def reach(problem: Problem, budget: int) -> tuple[float, float]:
    """Least and greatest FLOPs ratio of that many anchors: all renewable sites nearly computed, or all reused."""
    reused = _paid(problem, budget)
    sites = [problem.spec.sites[k] for k in problem.spec.leaves]
    most = problem.rows * sum(
        site_flops(site, site.tokens - site.keep_quantum)
        for site, may in zip(sites, problem.renewable, strict=True) if may
    )  # fmt: skip
    return problem.full_flops / (reused + (problem.steps - budget) * most), problem.full_flops / reused


def in_reach(problem: Problem, budget: int, ratio: float, strategy: Strategy) -> bool:
    """Whether that many anchors can meet the ratio."""
    low, high = reach(problem, budget)
    if strategy == "none" or not problem.renewable.any():
        return abs(high / ratio - 1.0) <= TOLERANCE
    return (1.0 - _SLACK) * low <= ratio <= (1.0 + _SLACK) * high


def spendable_flops(problem: Problem, target: Target, strategy: Strategy) -> float:
    """FLOPs left for renewed tokens, one sample, all steps together; without a ratio what SODA's results spent.

    Raises PlanError where the target's budget cannot meet its ratio.
    """
    paid = _paid(problem, target.budget)
    if not target.flops_ratio:
        full, cached = full_step_flops(problem.spec, problem.rows), problem.steps - target.budget
        return max(0.0, cached * (_share(problem) * full - fixed_flops(problem.spec, problem.rows)))
    if not in_reach(problem, target.budget, target.flops_ratio, strategy):
        low, high = reach(problem, target.budget)
        spread = f"only {high:.2f}" if low == high or strategy == "none" else f"{low:.2f} to {high:.2f}"
        raise PlanError(
            f"--flops-ratio {target.flops_ratio:g}: {target.budget} anchors of {problem.steps} steps reach {spread}; "
            "change the ratio or --budget"
        )
    return max(0.0, problem.full_flops / target.flops_ratio - paid)


def _paid(problem: Problem, budget: int) -> int:
    """FLOPs of the anchors and of the fixed part of every other step."""
    full, fixed = full_step_flops(problem.spec, problem.rows), fixed_flops(problem.spec, problem.rows)
    return budget * full + (problem.steps - budget) * fixed


def _share(problem: Problem) -> float:
    if problem.spec.family == "pixart":
        return _PIXART_SHARE
    return _DDPM_SHARE if problem.sampler == "ddpm" else _DDIM_SHARE

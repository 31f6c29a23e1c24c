"""Solve a plan: anchors by dynamic programming, then prune or reuse for every module in between."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ..errors import PlanError
from ..models.flops import fixed_flops, full_step_flops, module_flops, step_flops
from ..models.identity import identify, rows_per_sample, same_model
from ..models.spec import DenoiserSpec
from ..profile.sensitivity import SensitivityMap, map_bytes
from .anchors import AnchorCost, anchor_cost, solve_anchors
from .decide import Strategy, decide_modules, spent_flops
from .errors_by_keep import tabulate_choices
from .merge import error_given_up, merge_steps
from .plan import Plan, hash_of

log = logging.getLogger(__name__)

# mean cost of a non-anchor step, as a share of a full one, that SODA's published FLOPs ratios imply: for PixArt with
# 20 steps, for DiT with 250 steps of DDPM, and for DiT with 50 of DDIM
_PIXART_SHARE, _DDPM_SHARE, _DDIM_SHARE = 0.22, 0.11, 0.065


@dataclass(frozen=True)
class PlanOptions:
    """How to plan."""

    budget: int
    """Number of anchors: steps that compute everything."""
    flops_ratio: float = 0.0
    """FLOPs of computing everything / FLOPs of the plan. 0 = spend on the other steps what SODA's results spent."""
    cost: AnchorCost = "sum"
    """Cost of an interval between anchors: exact sum over the map, or CEM's form."""
    strategy: Strategy = "efficiency"
    """Where to prune: best error removed per FLOP, wherever E_p < E_c (as published), or nowhere."""
    sensitivity_weight: float = 1.0
    """Lambda of the pruning rule keep = beta + lambda * E_c."""
    prune_attention: bool = False
    """Let attention compute a subset of tokens, too."""
    max_engines: int = 12
    """Most step engines; steps are merged, at some error, until they fit."""


@dataclass(frozen=True)
class SolvedPlan:
    """A plan and what its making gave up: relative increase of the predicted error by sharing programs."""

    plan: Plan
    merge_loss: float
    beta: float


def solve_plan(sensitivity: SensitivityMap, spec: DenoiserSpec, options: PlanOptions) -> SolvedPlan:
    """Plan for the map's model, sampler and guidance. Raises PlanError where the budget cannot be met."""
    info = sensitivity.info
    if not same_model(info.model, identify(spec)):
        given = f"{info.model.name} ({info.model.hash[:12]})"
        raise PlanError(f"the map is for model {given}, not {spec.name} ({spec.hash[:12]}); profile again")
    if options.max_engines < 2:
        raise PlanError(f"--max-engines {options.max_engines}: a schedule needs at least 2, full and cached")
    if not 0.0 <= options.sensitivity_weight < np.inf:
        raise PlanError(f"--sensitivity-weight {options.sensitivity_weight:g}: must be a number of 0 or more")
    rows, steps = rows_per_sample(info.guidance), info.sampler.steps
    hidden = np.nan_to_num(sensitivity.hidden_error.astype(np.float64))
    error = hidden if options.cost == "cem" else sensitivity.mean_reuse_error()
    anchors = solve_anchors(anchor_cost(options.cost, error, options.budget), options.budget)
    prunable = np.array([module != "attn" or options.prune_attention for module in spec.modules])
    spendable = _prune_budget(spec, rows, steps, options, prunable, info.sampler.name)
    choices = tabulate_choices(sensitivity, spec, anchors, rows)
    decisions = decide_modules(choices, prunable, spendable, options.sensitivity_weight, options.strategy)
    merged = merge_steps(choices, decisions, prunable, options.max_engines - 1, spendable)
    loss = error_given_up(choices, decisions.choice, merged)
    kept = np.full((steps, spec.num_layers, len(spec.modules)), spec.num_tokens, np.int64)
    kept[choices.steps] = choices.keeps[merged]
    made_by = (
        f"soda budget={options.budget} flops_ratio={options.flops_ratio:g} cost={options.cost} "
        f"strategy={options.strategy} lambda={options.sensitivity_weight:g} beta={decisions.beta:.4g} "
        f"max_engines={options.max_engines}"
    )
    plan = Plan(
        info.model, info.sampler, info.guidance, kept, info.token_score, hash_of(map_bytes(sensitivity)), made_by
    )
    log.info(
        "plan: %d anchors of %d steps, %.1f %% of modules pruned, FLOPs ratio %.3f, sharing programs costs %.1f %%",
        len(anchors), steps, 100 * pruned_share(plan), flops_ratio(plan, spec), 100 * loss,
    )  # fmt: skip
    spent = spent_flops(choices, merged)
    log.debug("spent %d of %d FLOPs on pruned modules", spent, int(spendable))
    return SolvedPlan(plan, loss, decisions.beta)


def flops_ratio(plan: Plan, spec: DenoiserSpec) -> float:
    """FLOPs of computing everything at every step / FLOPs of the plan."""
    total = sum(step_flops(spec, plan.rows, kept) for kept in plan.kept)
    return len(plan.kept) * full_step_flops(spec, plan.rows) / total


def pruned_share(plan: Plan) -> float:
    """Share of the non-anchor modules that are pruned, not reused."""
    rest = np.delete(plan.kept, list(plan.anchors), axis=0)
    return float(np.mean((rest > 0) & (rest < plan.model.num_tokens))) if rest.size else 0.0


def _prune_budget(
    spec: DenoiserSpec, rows: int, steps: int, options: PlanOptions, prunable: np.ndarray, sampler: str
) -> float:
    """FLOPs left for pruned modules once anchors and the fixed part of every step are paid."""
    full, fixed = full_step_flops(spec, rows), fixed_flops(spec, rows)
    cached = steps - options.budget
    if not options.flops_ratio:
        share = _PIXART_SHARE if spec.family == "pixart" else _DDPM_SHARE if sampler == "ddpm" else _DDIM_SHARE
        return max(0.0, cached * (share * full - fixed))
    left = steps * full / options.flops_ratio - options.budget * full - cached * fixed
    most = rows * spec.num_layers * sum(
        module_flops(spec, module, spec.num_tokens - spec.keep_quantum)
        for module, can in zip(spec.modules, prunable, strict=True) if can
    )  # fmt: skip
    low = steps * full / (options.budget * full + cached * (fixed + most))
    high = steps * full / (options.budget * full + cached * fixed)
    if not 0.999 * low <= options.flops_ratio <= 1.001 * high:
        raise PlanError(
            f"--flops-ratio {options.flops_ratio:g}: {options.budget} anchors of {steps} steps reach {low:.2f} to "
            f"{high:.2f}; change the ratio or --budget"
        )
    if options.strategy == "none" and left > 0.01 * full * steps:
        raise PlanError(f"--flops-ratio {options.flops_ratio:g}: strategy `none` reaches only {high:.2f}")
    return max(0.0, left)

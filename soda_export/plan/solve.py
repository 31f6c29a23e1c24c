"""From a map and options to a plan, by any planner but `best`, which measures (search/best.py)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.decisions import COMPUTE, IDLE
from ..models.identity import SamplerIdentity, TokenScore, identify, same_model
from ..models.spec import STACK, ModelSpec
from .anchors import AnchorCost
from .decide import Strategy
from .plan import Plan, hash_of
from .planners import PLANNERS, needs_map
from .planners.soda import SodaOptions, solve_soda
from .problem import Problem, Target
from .schedule import Schedule
from .sensitivity import SensitivityMap, map_bytes

log = logging.getLogger(__name__)
PlannerName = Literal[
    "best", "soda", "soda-cem", "soda-literal", "dcs", "uas", "dp-forecast", "taylorseer", "taylorseer1",
    "smoothcache", "toca", "duca", "fora", "pab", "deepcache", "zeus", "sada-static", "skip-fitted", "uniform",
    "dpcache", "lemica", "meancache", "budcache", "gram",
]  # fmt: skip
FitSampler = Literal["best", "always", "never"]


@dataclass(frozen=True)
class PlanOptions:
    """How to plan."""

    budget: int = 0
    """Number of anchors: steps that compute everything, exactly, with every planner."""
    flops_ratio: float = 0.0
    """FLOPs of computing everything / FLOPs of the plan. With soda, and 0: what SODA's results spent. With best, and 0:
    what soda would spend."""
    speedup: float = 0.0
    """Latency of computing everything / latency of the plan, by step latencies that are measured on the backend."""
    latency_ms: float = 0.0
    """Most milliseconds a request may take, measured likewise."""
    latency_batch: int = 1
    """Samples in a request for --speedup and --latency-ms."""
    planner: PlannerName = "best"
    """Who plans; best measures the others' schedules and its own, and refines them."""
    plan_seconds: float = 60.0
    """Planners that measure: for how long; a search that was stopped goes on. With best, 0 takes soda's schedule as it
    is."""
    plan_samples: int = 16
    """The same: generations that each schedule is measured on. With best, four times as many are for the last choice
    and for fitting the sampler."""
    objective: str = "latents"
    """What planners that measure keep: latents, pixels, or lpips:FILE, torchvision's AlexNet weights. [package: lpips]
    Coefficients are fitted to latents."""
    fit_sampler: FitSampler = "best"
    """Fit the sampler's coefficients to the schedule, which costs no latency: with best alone, with any planner, or
    never."""
    cost: AnchorCost = "sum"
    """soda: cost of an interval between anchors, exact sum over the map, or CEM's form."""
    strategy: Strategy = "efficiency"
    """soda: where to prune; best error removed per FLOP, wherever E_p < E_c (as published), or nowhere."""
    sensitivity_weight: float = 1.0
    """soda: lambda of the pruning rule keep = beta + lambda * E_c."""
    prune_attention: bool = False
    """soda: let self-attention compute a subset of tokens, too."""
    max_engines: int = 12
    """Most step engines; soda merges steps, at some error, until they fit."""


@dataclass(frozen=True)
class SolvedPlan:
    """A plan and what its making gave up: relative increase of the predicted error by sharing programs."""

    plan: Plan
    merge_loss: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What a plan is for, beside the model, and where no map says it."""

    sampler: SamplerIdentity
    guidance: float
    token_score: TokenScore = "mean"
    timesteps: tuple[float, ...] = ()


def problem_of(sensitivity: SensitivityMap, spec: ModelSpec, options: PlanOptions) -> Problem:
    """What a map poses. Raises PlanError where it is another model's, or the options make no sense."""
    info = sensitivity.info
    if not same_model(info.model, identify(spec)):
        given = f"{info.model.name} ({info.model.hash[:12]})"
        raise PlanError(f"the map is for model {given}, not {spec.name} ({spec.hash[:12]}); profile again")
    return _problem(spec, Setting(info.sampler, info.guidance), options, sensitivity)


def solve_plan(sensitivity: SensitivityMap, spec: ModelSpec, options: PlanOptions) -> SolvedPlan:
    """Plan for the map's model, sampler and guidance. Raises PlanError where the budget cannot be met."""
    info = sensitivity.info
    setting = Setting(info.sampler, info.guidance, info.token_score)
    return _solve(problem_of(sensitivity, spec, options), setting, hash_of(map_bytes(sensitivity)), options)


def solve_without_map(setting: Setting, spec: ModelSpec, options: PlanOptions) -> SolvedPlan:
    """The same by a planner that needs no map (planners.needs_map). Raises PlanError."""
    if needs_map(options.planner):
        raise PlanError(f"--planner {options.planner} needs a sensitivity map; `soda-export profile` makes one")
    return _solve(_problem(spec, setting, options, None), setting, "", options)


def make_plan(
    sensitivity: SensitivityMap, schedule: Schedule, made_by: str, coefficients: NDArray[np.float32] | None = None
) -> Plan:
    """A schedule as a plan for what the map was measured on. coefficients: of the sampler, where they were fitted."""
    info = sensitivity.info
    return Plan(
        info.model, info.sampler, info.guidance, schedule, info.token_score, hash_of(map_bytes(sensitivity)), made_by,
        coefficients,
    )  # fmt: skip


def check_max_engines(count: int) -> None:
    """Refuse a limit that no schedule keeps to."""
    if count < 2:
        raise PlanError(f"--max-engines {count}: a schedule needs at least 2, full and cached")


def check_engines(schedule: Schedule, options: PlanOptions) -> None:
    """Refuse a schedule of more different steps than engines are allowed."""
    if schedule.num_kinds > options.max_engines:
        raise PlanError(
            f"--planner {options.planner}: its schedule needs {schedule.num_kinds} engines; give --max-engines "
            f"{schedule.num_kinds}, or use soda or best, which keep to a limit"
        )


def flops_ratio(plan: Plan, spec: ModelSpec) -> float:
    """FLOPs of computing everything at every step / FLOPs of the plan."""
    return plan.schedule.flops_ratio(spec, plan.rows)


def pruned_share(plan: Plan) -> float:
    """Share of the sites that are renewed in part, of those that play a role in steps that are no anchors."""
    sites = [k for kind, numbers in plan.model.kinds.items() if kind != STACK for k in numbers]
    rest = np.delete(plan.schedule.work[:, sites], list(plan.anchors), axis=0)
    rest = rest[rest != IDLE]
    return float(np.mean((rest > 0) & (rest < COMPUTE))) if rest.size else 0.0


def _problem(
    spec: ModelSpec, setting: Setting, options: PlanOptions, sensitivity: SensitivityMap | None
) -> Problem:
    check_max_engines(options.max_engines)
    sampler = setting.sampler
    return Problem(
        spec, sampler.name, sampler.steps, setting.guidance, sensitivity, options.prune_attention, setting.timesteps
    )


def _solve(problem: Problem, setting: Setting, map_hash: str, options: PlanOptions) -> SolvedPlan:
    target, merge_loss, beta = Target(options.budget, options.flops_ratio), 0.0, 0.0
    made_by = f"{options.planner} budget={options.budget} flops_ratio={options.flops_ratio:g}"
    if options.planner == "soda":
        solved = solve_soda(
            problem, target,
            SodaOptions(options.cost, options.strategy, options.sensitivity_weight, options.max_engines),
        )  # fmt: skip
        schedule, merge_loss, beta = solved.schedule, solved.merge_loss, solved.beta
        made_by += (
            f" cost={options.cost} strategy={options.strategy} lambda={options.sensitivity_weight:g} "
            f"beta={beta:.4g} max_engines={options.max_engines}"
        )
    else:
        schedule = PLANNERS[options.planner](problem, target)
        check_engines(schedule, options)
    plan = Plan(
        identify(problem.spec), setting.sampler, setting.guidance, schedule, setting.token_score, map_hash, made_by
    )
    log.info(
        "plan: %d anchors of %d steps, %.1f %% of sites pruned, FLOPs ratio %.3f, sharing programs costs %.1f %%",
        len(plan.anchors), problem.steps, 100 * pruned_share(plan), flops_ratio(plan, problem.spec), 100 * merge_loss,
    )  # fmt: skip
    return SolvedPlan(plan, merge_loss, beta)

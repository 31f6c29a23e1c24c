"""Plans and policies that calibration samples decide: `best`, published planners that measure, fitted coefficients."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..eager.conditions import Conditions
from ..eager.hints import random_conditions
from ..errors import PlanError, UsageError
from ..models.identity import TokenScore
from ..options import ProfileOptions
from ..plan.plan import Plan
from ..plan.problem import Problem, Target
from ..plan.sensitivity import SensitivityMap
from ..plan.solve import PlanOptions, SolvedPlan, check_engines, make_plan, problem_of, solve_plan
from ..policy.adaptive import AdaptivePolicy
from ..policy.file import read_policy, write_policy
from ..policy.options import PolicyOptions
from ..workbench.calibration import Calibration
from .best import affordable_samples, search_best
from .final import judge, unseen_by
from .gate import calibrate_policy
from .journal import Journal
from .objective import Objective, make_objective
from .published import MEASURING
from .trial import MORE_SAMPLES, OutOfTime, Trials

if TYPE_CHECKING:
    from ..workbench.pipeline import Workbench

log = logging.getLogger(__name__)
_MOST_TEXTS = 256  # that planning takes, of those there are


def make_policy(bench: Workbench, options: PolicyOptions, calibration: ProfileOptions) -> AdaptivePolicy:
    """The policy that is asked for, calibrated, or taken from its file. Raises PlanError, UsageError."""
    options.check(bench.sampler.steps)
    used = bench.calibration(replace(calibration, samples=max(calibration.samples, options.policy_samples)))
    inputs = {
        "model": bench.loaded.spec, "scheduler": bench.loaded.scheduler_config, "sampler": bench.options, **used.key,
        "policy": asdict(options),
    }  # fmt: skip

    def make(folder: Path) -> None:
        trials = Trials(
            bench.eager, bench.sampler, bench.identity, bench.options.guidance, used.conditions(),
            range(options.policy_samples),
        )  # fmt: skip
        policy = calibrate_policy(trials, bench.loaded.scheduler_config, options)
        log.info("policy: %s, %.1f calls of %d steps on average", policy.name, policy.calls, policy.steps)
        write_policy(policy, folder)

    return read_policy(bench.store.produce("calibration", inputs, make), bench.sampler)


def fit_plan(bench: Workbench, plan: Plan, options: PlanOptions, calibration: ProfileOptions) -> Plan:
    """A plan, whoever made it, with the sampler fitted to its schedule, in the place of what it had fitted."""
    samples, used = MORE_SAMPLES * options.plan_samples, for_planning(bench, calibration)
    trials = _trials(bench, plan.token_score, replace(options, fit_sampler="always"), used.conditions(), samples)
    seen_rmse, sampler = trials.rmse(plan.schedule), trials.fit_sampler(plan.schedule)
    held_out = judge(plan.schedule, trials, unseen_by(trials, samples), seen_rmse)
    made_by = f"{plan.made_by.removesuffix(' fitted')} fitted".strip()
    return replace(plan, coefficients=sampler.coefficients, made_by=made_by, held_out=held_out)


def for_planning(bench: Workbench, calibration: ProfileOptions) -> Calibration:
    """With as many texts as there are, up to the samples that planning looks at."""
    return bench.calibration(replace(calibration, samples=max(calibration.samples, _MOST_TEXTS)))


def check_measuring(seconds: float, samples: int) -> None:
    """Refuse what nobody can measure with."""
    if not 0.0 <= seconds < np.inf:
        raise UsageError(f"--plan-seconds {seconds:g}: must be a number of seconds, 0 or more")
    if samples < 1:
        raise UsageError(f"--plan-samples {samples}: at least 1 generation must be measured")


def _trials(
    bench: Workbench, token_score: TokenScore, options: PlanOptions, conditions: Conditions, samples: int,
    objective: Objective | None = None,
) -> Trials:  # fmt: skip
    """What schedules are measured, or fitted, on. objective: that of the options, where it is open already."""
    check_measuring(options.plan_seconds, options.plan_samples)
    return Trials(
        bench.eager, bench.sampler, bench.identity, bench.options.guidance,
        conditions, range(1), token_score, fit=options.fit_sampler != "never",
        objective=objective or make_objective(options.objective, bench.loaded),
    ).seen(samples)  # fmt: skip


def plan_best(
    bench: Workbench, sensitivity: SensitivityMap, options: PlanOptions, calibration: ProfileOptions
) -> SolvedPlan:
    """`best`. Its measurements are kept in a journal, so that a search that was stopped goes on."""
    spec, score = bench.loaded.spec, sensitivity.info.token_score
    problem, target = problem_of(sensitivity, spec, options), Target(options.budget, options.flops_ratio)
    probe = random_conditions(spec, 1, calibration.seed)  # encoding prompts may take longer than everything else
    trials, started = _trials(bench, score, options, probe, options.plan_samples), time.perf_counter()
    samples = affordable_samples(trials, options.plan_seconds) if options.plan_seconds else 0
    left = options.plan_seconds - (time.perf_counter() - started)
    if samples < options.plan_samples and options.plan_seconds:
        fit = f"only {samples} samples fit" if samples else "no measurements fit"
        log.warning("plan: %s into --plan-seconds %g", fit, options.plan_seconds)
    if not samples:
        return _unmeasured(sensitivity, trials, options)
    fits = samples == options.plan_samples  # else the texts of profiling are enough
    used = for_planning(bench, calibration) if fits else bench.calibration(calibration)
    measured = _trials(bench, score, options, used.conditions(), samples, trials.objective)
    trials = _resumed(bench, measured, score, used)
    try:
        found = search_best(
            problem, target, trials, seconds=left, max_engines=options.max_engines,
            progress=lambda done, _: bench.progress("plan", int(done), int(options.plan_seconds)),
        )  # fmt: skip
    except OutOfTime:
        log.warning("plan: --plan-seconds %g were over before anything was measured", options.plan_seconds)
        return _unmeasured(sensitivity, trials, options)
    log.info("plan: %s, %s", found.by, "not judged" if found.held_out is None else found.held_out.words)
    made_by = (
        f"best ({found.by}) budget={options.budget} flops_ratio={options.flops_ratio:g} samples={samples} "
        f"measured={found.measured} max_engines={options.max_engines}" + (" fitted" if trials.fit else "")
    )
    coefficients = found.sampler.coefficients if trials.fit or any(found.schedule.skips) else None
    plan = make_plan(sensitivity, found.schedule, made_by, coefficients)
    return SolvedPlan(replace(plan, held_out=found.held_out))


def _unmeasured(sensitivity: SensitivityMap, trials: Trials, options: PlanOptions) -> SolvedPlan:
    """SODA's schedule. Raises PlanError, and says so where planning with measurements would go further."""
    try:
        return solve_plan(sensitivity, trials.spec, replace(options, planner="soda"))
    except PlanError as error:
        if not options.flops_ratio or options.budget or not trials.can_skip:
            raise
        further = "with time to measure, steps that skip the model go further: raise --plan-seconds"
        raise PlanError(f"{error}; {further}") from None


def plan_published(bench: Workbench, options: PlanOptions, calibration: ProfileOptions) -> SolvedPlan:
    """A published planner that plays schedules, or full runs."""
    if not options.plan_seconds:
        raise UsageError(f"--plan-seconds 0: --planner {options.planner} needs time to measure")
    target, used = Target(options.budget, options.flops_ratio), for_planning(bench, calibration)
    problem = Problem(bench.loaded.spec, bench.sampler.name, bench.sampler.steps, bench.options.guidance)
    given = replace(options, fit_sampler="never")
    trials = _trials(bench, calibration.token_score, given, used.conditions(), options.plan_samples)
    started = time.perf_counter()
    schedule = MEASURING[options.planner](
        problem, target, _resumed(bench, trials, calibration.token_score, used), options.plan_seconds,
        lambda: bench.progress("plan", int(time.perf_counter() - started), int(options.plan_seconds)),
    )  # fmt: skip
    check_engines(schedule, options)
    made_by = f"{options.planner} budget={options.budget} flops_ratio={options.flops_ratio:g}"
    return SolvedPlan(replace(bench.plan_of(schedule, made_by), token_score=calibration.token_score))


def _resumed(bench: Workbench, trials: Trials, token_score: TokenScore, used: Calibration) -> Trials:
    """The trials with all that was measured on the same samples before, and a journal of what will be."""
    inputs = {
        "model": bench.loaded.spec, "scheduler": bench.loaded.scheduler_config, "sampler": bench.options, **used.key,
        "samples": len(trials.samples), "token_score": token_score,
    }  # fmt: skip
    trials.journal = Journal(bench.store.resumable("trials", inputs) / "journal.jsonl")
    return trials

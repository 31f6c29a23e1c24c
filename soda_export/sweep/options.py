"""Options of a sweep. The one home of each; the command line reads them. No torch: help pages read this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..eval.seeds import HELD_OUT_SEEDS
from ..plan.solve import FitSampler, PlanOptions


@dataclass(frozen=True)
class SweepOptions:
    """What to compare."""

    planners: str
    """Planners, separated by commas; fewer-steps is the same sampler with fewer steps and everything computed. Policies
    (misfit, easycache, sada, sada-paper) are set to as many calls on average; SADA's own are fixed."""
    flops_ratios: str
    """Targets: FLOPs of computing everything / FLOPs of the plan, separated by commas."""
    out: Path
    """Folder for rows, tables and plot; a sweep that was stopped goes on where it was."""
    seeds: str = HELD_OUT_SEEDS
    """Seeds A:B, B exclusive, one sample each; several ranges, separated by commas, are a row each."""
    batch: int = 32
    """Samples drawn together; the scores do not depend on it."""
    against: str | None = None
    """Planner to compare with each other one, on the same samples. [default: best where it is swept, else the first]"""
    bench: bool = False
    """Build every plan's bundle and measure its latency, too."""
    max_engines: int = PlanOptions.max_engines
    """Most step engines of a plan."""
    plan_seconds: float = PlanOptions.plan_seconds
    """best: how long it may measure at each target."""
    plan_samples: int = PlanOptions.plan_samples
    """best: generations that each schedule is measured on."""
    fit_sampler: FitSampler = PlanOptions.fit_sampler
    """Fit the sampler's coefficients to the schedules of best alone, of all planners, or of none."""


@dataclass(frozen=True)
class WorkerOptions:
    """Where units run."""

    workers: int = 1
    """Units that run at a time; torch's threads are shared out between them."""
    ray: str | None = None
    """Run on Ray: address of a cluster whose machines have soda-export and the model, or `local`. [package: ray]"""

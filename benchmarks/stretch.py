"""A plan made for one model as decisions on another, which may have other layers, tokens and steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soda_export.errors import PlanError
from soda_export.models.decisions import COMPUTE, IDLE
from soda_export.models.spec import ModelSpec, Site
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule


def stretched(plan: Plan, spec: ModelSpec, steps: int) -> Schedule:
    """At each step and site what the plan does at the nearest step with the site of that kind and depth; kept tokens in
    proportion, forecasts of the order that their history allows. Raises PlanError for a kind that the plan lacks."""
    source, given = plan.model, plan.schedule.work[np.arange(steps) * plan.schedule.steps // steps]
    work = np.full((steps, len(spec.sites)), COMPUTE, np.int64)
    for kind, numbers in spec.kinds.items():
        if kind not in source.kinds:
            raise PlanError(f"the plan is for {source.name}, which has no {kind}, but {', '.join(source.kinds)}")
        theirs = source.kinds[kind]
        for i, k in enumerate(numbers):
            like = theirs[i * len(theirs) // len(numbers)]
            work[:, k] = _kept(given[:, like], source.site_tokens[like], spec.sites[k])
    return Schedule(_with_history(Schedule.of(spec, work).work))


def _kept(work: NDArray[np.int64], tokens: int, site: Site) -> NDArray[np.int64]:
    """Of a site with `tokens` tokens, [S] -> of `site`: whole quanta; everything where its tokens are not renewed
    singly."""
    renewed, quantum = (work > 0) & (work < COMPUTE), site.keep_quantum
    kept = np.maximum(quantum, work * site.tokens // max(1, tokens) // quantum * quantum) if site.tokens else COMPUTE
    result: NDArray[np.int64] = np.where(renewed, kept, work)
    return result


def _with_history(work: NDArray[np.int64]) -> NDArray[np.int64]:
    """A forecast of order n needs n + 1 computed values."""
    result, computed = work.copy(), np.zeros(work.shape[1], np.int64)
    for step in result:
        given = (step <= 0) & (step > IDLE)
        step[given] = np.maximum(step, 1 - computed)[given]
        computed += step == COMPUTE
    return result

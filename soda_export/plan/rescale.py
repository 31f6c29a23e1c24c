"""Carry a plan of one size of a model over to another: kept tokens are a share of a site's tokens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from ..errors import PlanError
from ..models.decisions import COMPUTE
from ..models.identity import identify, same_model
from ..models.spec import ModelSpec
from .plan import Plan
from .schedule import Schedule


def rescale_plan(plan: Plan, spec: ModelSpec, hashes: Collection[str]) -> Plan:
    """The plan with as large a share of each site's tokens renewed, rounded up; itself where it is for this size.

    hashes: of the sizes of this model whose plans are taken. Raises PlanError for a plan of anything else.
    """
    own = identify(spec)
    if same_model(plan.model, own):
        return plan
    sites = (plan.model.sites, plan.model.kinds, plan.model.tokens.keys())
    if plan.model.hash not in hashes or sites != (own.sites, own.kinds, own.tokens.keys()):
        raise PlanError(
            f"the plan is for model {plan.model.name} ({plan.model.hash[:12]}), not for a size of {spec.name} "
            f"({spec.hash[:12]}); plan again for this model"
        )
    before, after = np.array(plan.model.site_tokens), np.array(own.site_tokens)
    work = plan.schedule.work
    renewed = (work > 0) & (work < COMPUTE)
    scaled = -(-work * after // np.maximum(before, 1))
    return replace(plan, model=own, schedule=Schedule(np.where(renewed, scaled, work)))

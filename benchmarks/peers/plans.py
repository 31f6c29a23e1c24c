"""The plans that are played: made for a model from its own map, or one model's plan shape carried over to another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stretch import stretched

from soda_export.errors import SodaError
from soda_export.models.spec import ModelSpec
from soda_export.options import BundleOptions, ProfileOptions
from soda_export.plan.plan import Plan, hash_of, plan_text, read_plan
from soda_export.plan.sensitivity import map_bytes
from soda_export.plan.solve import PlanOptions, flops_ratio
from soda_export.search.planning import make_plan_for
from soda_export.workbench.pipeline import Workbench

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A plan to make: the planner and its FLOPs ratio."""

    planner: str
    ratio: float

    @property
    def label(self) -> str:
        """E.g. `best x2.5`."""
        return f"{self.planner} x{self.ratio:g}"


@dataclass(frozen=True)
class NamedPlan:
    """A plan under the label it is listed by; reason instead, where it cannot be made."""

    wanted: Wanted
    plan: Plan | None
    reason: str = ""


def make_plans(
    bench: Workbench, wanted: Sequence[Wanted], seconds: float, profile: ProfileOptions
) -> list[NamedPlan]:
    """Plans from the model's own map, each made once. seconds: of `best`, for each plan."""
    sensitivity, made = bench.profile(profile), []
    for item in wanted:
        options = PlanOptions(flops_ratio=item.ratio, planner=item.planner, plan_seconds=seconds)  # type: ignore[arg-type]
        inputs = {"model": bench.loaded.spec, "sampler": bench.options, "plan": options,
                  "map": hash_of(map_bytes(sensitivity))}  # fmt: skip

        def make(folder: Path, options: PlanOptions = options) -> None:
            plan = make_plan_for(bench, sensitivity, options, profile).plan
            (folder / "plan.json").write_bytes(plan_text(plan))

        try:
            made.append(NamedPlan(item, read_plan(bench.store.produce("peer-plan", inputs, make) / "plan.json")))
        except SodaError as error:
            made.append(NamedPlan(item, None, str(error)))
    return made


def carry_over(plans: Sequence[NamedPlan], bench: Workbench) -> list[NamedPlan]:
    """The same shapes for another model with as many steps: sites by kind and depth, kept tokens by their share."""
    made = []
    for item in plans:
        if item.plan is None:
            made.append(item)
        elif item.plan.schedule.steps != bench.sampler.steps:
            reason = f"the plan has {item.plan.schedule.steps} steps, this model's sampler {bench.sampler.steps}"
            made.append(NamedPlan(item.wanted, None, reason))
        else:
            schedule = stretched(item.plan, bench.loaded.spec, bench.sampler.steps)
            made_by = f"{item.wanted.label} of {item.plan.model.name}"
            made.append(NamedPlan(item.wanted, bench.plan_of(schedule, made_by)))
    return made


def build_bundles(
    bench: Workbench, plans: Sequence[NamedPlan], targets: Sequence[tuple[str, str]], place: Path
) -> dict[tuple[str, str, str], Path | str]:
    """Bundles of every plan for every (backend, precision), by label, backend and precision; a message where the build
    fails."""
    built: dict[tuple[str, str, str], Path | str] = {}
    for item in plans:
        for backend, precision in targets:
            key = (item.wanted.label, backend, precision)
            if item.plan is None:
                built[key] = item.reason
                continue
            options = BundleOptions(backend, precision, ("text-encoder", "decoder"))  # type: ignore[arg-type]
            out = place / "-".join(key).replace(" ", "-")
            try:
                built[key] = bench.build(item.plan, backend, out, options).out
            except SodaError as error:
                built[key] = str(error)
            log.info("bundle: %s for %s %s", *key)
    return built


def save_plan(item: NamedPlan, place: Path) -> Path:
    """Write a plan for the systems that play it in torch."""
    assert item.plan is not None
    path = place / f"{item.wanted.label.replace(' ', '-')}.plan.json"
    path.write_bytes(plan_text(item.plan))
    return path


def ratio_of(item: NamedPlan, spec: ModelSpec) -> float:
    """FLOPs ratio of a plan, in the papers' convention."""
    assert item.plan is not None
    return flops_ratio(item.plan, spec)

"""From the arguments that build, profile and plan share to a workbench and a plan."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..models.load import DEFAULT_PARTS, ModelRequest, load_denoiser
from ..options import DEFAULTS, ProfileOptions, SamplerRequest
from ..pipeline import Progress, Workbench
from ..plan.plan import Plan, read_plan
from ..plan.solve import PlanOptions, SolvedPlan
from ..profile.sensitivity import SensitivityMap, read_map
from ..stages import StageStore

SHELF = Path("engines")


def open_workbench(
    model: ModelRequest, request: SamplerRequest, progress: Progress, given: Plan | SensitivityMap | None = None,
    parts: tuple[str, ...] = (*DEFAULT_PARTS, "text_encoder"),
) -> Workbench:  # fmt: skip
    """Load the model and freeze the sampler; what was not asked for follows the given plan or map."""
    loaded = load_denoiser(model, parts)
    if isinstance(given, Plan):
        options = request.resolve(given.sampler, given.guidance)
    elif given is not None:
        options = request.resolve(given.info.sampler, given.info.guidance)
    else:
        options = request.resolve(*DEFAULTS[loaded.denoiser.spec.family])
    return Workbench(loaded, options, StageStore(SHELF / ".work"), progress)


def given_map(path: Path | None) -> SensitivityMap | None:
    """The map of --map, if any."""
    return None if path is None else read_map(path)


def given_plan(path: Path | None) -> Plan | None:
    """The plan of --plan, if any."""
    return None if path is None else read_plan(path)


def solve(
    bench: Workbench, sensitivity: SensitivityMap | None, profile: ProfileOptions, options: PlanOptions | None
) -> SolvedPlan:
    """Profile unless a map is given, and plan."""
    if options is None:
        raise UsageError("--budget is missing: the number of steps that compute everything, e.g. --budget 17")
    bench.check_budget(options)
    return bench.plan(bench.profile(profile) if sensitivity is None else sensitivity, options)

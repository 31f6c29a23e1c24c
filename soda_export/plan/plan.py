"""The plan: a schedule, and what it was made for. plan.json is strict; docs/PLAN.md explains it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from soda_runtime.strict_json import StrictJsonError, parse_json

from ..errors import PlanError
from ..models.identity import ModelIdentity, SamplerIdentity, TokenScore, identify, rows_per_sample, same_model
from ..models.spec import STACK, ModelSpec
from . import old_versions
from .schedule import Schedule
from .steps import SiteOps, StepWord, read_step, write_step

FORMAT, VERSION = "soda-plan", 4
_NUMBERS = re.compile(rb"\[[-+.e\d,\s]*\]")
_MOST_TOKENS, _MOST_DECISIONS = 1 << 24, 10_000_000
MAX_GUIDANCE = 1e6
ObjectiveName = Literal["latents", "pixels", "lpips"]


class HeldOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a plan did on generations that played no part in making it. rmse: of their final latents, against everything
    computed; calibration_rmse: the same on those it was made with. prompts: how many different ones; 0 without.
    objective: what the errors are of."""

    rmse: float
    calibration_rmse: float
    samples: int
    prompts: int
    objective: ObjectiveName = "latents"

    @property
    def words(self) -> str:
        """For a line of a page or a log."""
        prompts = f" of {self.prompts} prompts" if self.prompts else ""
        of = "" if self.objective == "latents" else f" of {self.objective}"
        own = f"{self.calibration_rmse:.4g} on its own"
        return f"RMSE{of} {self.rmse:.4g} on {self.samples} unseen samples{prompts}, {own}"


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """plan.json as it is written."""

    format: str
    version: int
    model: ModelIdentity
    sampler: SamplerIdentity
    guidance: float
    steps: list[SiteOps | StepWord]
    token_score: TokenScore = "mean"
    map_hash: str = ""
    made_by: str = ""
    coefficients: list[list[float]] = []
    held_out: HeldOut | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, eq=False)
class Plan:
    """Frozen decisions. token_score names the quantity whose largest tokens are renewed. coefficients: of the sampler,
    fitted to the schedule, in place of its own: [S, columns] as in SamplerTable; None leaves it as it is. held_out: how
    it did on samples that it was not made with, where that was measured."""

    model: ModelIdentity
    sampler: SamplerIdentity
    guidance: float
    schedule: Schedule
    token_score: TokenScore = "mean"
    map_hash: str = ""
    made_by: str = ""
    coefficients: NDArray[np.float32] | None = None
    held_out: HeldOut | None = None

    @property
    def anchors(self) -> tuple[int, ...]:
        """Execution indices of the steps that compute everything."""
        return self.schedule.anchors

    @property
    def rows(self) -> int:
        """Rows of the model's batch for each sample: 2 with classifier-free guidance, else 1."""
        return rows_per_sample(self.guidance)


def plan_text(plan: Plan) -> bytes:
    """plan.json: a step that does one thing everywhere is one word, a kind of sites that does so, too; a row of numbers
    is one line."""
    steps = [write_step(plan.model, work) for work in plan.schedule.work]
    file = PlanFile(
        FORMAT, VERSION, plan.model, plan.sampler, plan.guidance, steps, plan.token_score, plan.map_hash, plan.made_by,
        exact_floats(plan.coefficients), plan.held_out or msgspec.UNSET,
    )  # fmt: skip
    text = msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
    return _NUMBERS.sub(lambda row: b"[" + b" ".join(row[0][1:-1].split()) + b"]", text)


def exact_floats(table: NDArray[np.float32] | None) -> list[list[float]]:
    """Rows of float32 as the shortest numbers that read back as the same."""
    return [] if table is None else [[float(str(value)) for value in row] for row in table]


def read_plan(path: Path) -> Plan:
    """Read plan.json, strictly. Raises PlanError naming the file, the step and the site."""
    try:
        return _plan_of(parse_json(path.read_bytes()))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}); `soda-export plan` writes one") from None
    except (StrictJsonError, msgspec.ValidationError) as error:
        raise PlanError(f"{path}: {error}; docs/PLAN.md describes the format") from None
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def check_fits(plan: Plan, spec: ModelSpec, sampler: SamplerIdentity, guidance: float) -> None:
    """Refuse a plan made for another model, sampler, step count or guidance."""
    if not same_model(plan.model, identify(spec)):
        raise PlanError(
            f"the plan is for model {plan.model.name} ({plan.model.hash[:12]}), not {spec.name} ({spec.hash[:12]}); "
            "plan again for this model"
        )
    if plan.sampler != sampler:
        raise PlanError(
            f"the plan is for {describe_sampler(plan.sampler)}, not {describe_sampler(sampler)}; "
            "plan again or pass its settings"
        )
    if plan.guidance != guidance:
        raise PlanError(f"the plan is for guidance {plan.guidance}, not {guidance}; plan again or pass its guidance")


def hash_of(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def describe_sampler(sampler: SamplerIdentity) -> str:
    """A sampler in words, for messages."""
    eta = f", eta {sampler.eta:g}" if sampler.eta else ""
    guided = f", {sampler.guided_channels} channels guided" if sampler.guided_channels else ""
    return f"{sampler.name} with {sampler.steps} steps{eta}{guided}"


def _plan_of(document: Any) -> Plan:
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(document, dict) and isinstance(version, int) and version not in (*old_versions.VERSIONS, VERSION):
        found = document.get("format")
        raise PlanError(f"format {found!r:.40} version {version}, expected {FORMAT!r} version {VERSION}")
    file: PlanFile | old_versions.OldPlanFile
    if version in old_versions.VERSIONS:
        file = msgspec.convert(document, old_versions.OldPlanFile)
        model = old_versions.identity_of(file.model)
    else:
        file = msgspec.convert(document, PlanFile)
        model = file.model
        check_model(model)
    steps = len(file.steps)
    if file.format != FORMAT:
        raise PlanError(f"format {file.format!r:.40} version {version}, expected {FORMAT!r} version {VERSION}")
    if steps != file.sampler.steps:
        raise PlanError(f"{steps} steps are listed, sampler.steps says {file.sampler.steps}")
    if not 0 < steps * len(model.names) <= _MOST_DECISIONS:
        raise PlanError("a plan needs at least one step and site, and at most 10 million of both together")
    if not 0.0 <= file.guidance <= MAX_GUIDANCE:
        raise PlanError(f"guidance {file.guidance:g} is outside 0 .. {MAX_GUIDANCE:g}")
    if isinstance(file, PlanFile):
        work = np.stack([read_step(model, t, ops) for t, ops in enumerate(file.steps)])
    else:
        work = old_versions.work_of(file, model)
    return Plan(
        model, file.sampler, file.guidance, Schedule(work), file.token_score, file.map_hash, file.made_by,
        _expand_coefficients(file.coefficients, steps), _held_out_of(file),
    )  # fmt: skip


def check_model(model: ModelIdentity) -> None:
    """Refuse sites that do not make up a model. Raises PlanError."""
    numbers = [k for kind in model.kinds.values() for k in kind]
    counts = {kind: len(names) for kind, names in model.sites.items()}
    if not numbers or not all(counts.values()) or counts != {kind: len(ks) for kind, ks in model.kinds.items()}:
        raise PlanError("model: needs sites, and for each kind as many names in sites as numbers in kinds")
    if sorted(numbers) != list(range(len(numbers))) or any(list(ks) != sorted(ks) for ks in model.kinds.values()):
        raise PlanError(f"model.kinds: must number the sites 0 .. {len(numbers) - 1}, each kind in rising order")
    if len(set(model.names)) != len(numbers):
        raise PlanError("model.sites: a name occurs twice")
    if counts.get(STACK, 1) != 1:
        raise PlanError(f"model.sites: there are {counts[STACK]} of kind {STACK}, which contains all others")
    for kind, tokens in model.tokens.items():
        each = [tokens] if isinstance(tokens, int) else tokens
        if kind not in counts or not (isinstance(tokens, int) or len(tokens) == counts[kind]):
            raise PlanError(f"model.tokens: {kind!r:.40} needs to be a kind, with one number or one for each site")
        if not all(0 <= count < _MOST_TOKENS for count in each):
            raise PlanError(f"model.tokens: {kind}: must be 0 .. {_MOST_TOKENS - 1}")


def _held_out_of(file: PlanFile | old_versions.OldPlanFile) -> HeldOut | None:
    return file.held_out if isinstance(file, PlanFile) and isinstance(file.held_out, HeldOut) else None


def _expand_coefficients(rows: list[list[float]], steps: int) -> NDArray[np.float32] | None:
    """The rows, or None. Whether they are this sampler's is seen where it is known (SamplerTable.with_coefficients)."""
    if not rows:
        return None
    if len(rows) != steps or len({len(row) for row in rows}) > 1 or not rows[0]:
        raise PlanError(f"coefficients: {len(rows)} rows for {steps} steps, or rows of several lengths")
    with np.errstate(over="ignore"):
        table = np.array(rows, np.float32)
    if not np.isfinite(table).all():
        raise PlanError("coefficients: a number is beyond float32")
    return table

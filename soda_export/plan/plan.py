"""The plan: how many tokens every (step, layer, module) computes. plan.json is strict; docs/PLAN.md explains it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from soda_runtime.strict_json import StrictJsonError, parse_json

from ..errors import PlanError
from ..models.identity import ModelIdentity, SamplerIdentity, TokenScore, identify, rows_per_sample, same_model
from ..models.spec import DenoiserSpec

FORMAT, VERSION = "soda-plan", 1
MAX_GUIDANCE = 1e6

Op = int | Literal["compute", "reuse"]
ModuleOps = dict[str, list[Op] | Literal["compute", "reuse"]]


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """plan.json as it is written."""

    format: str
    version: int
    model: ModelIdentity
    sampler: SamplerIdentity
    guidance: float
    steps: list[ModuleOps | Literal["compute", "reuse"]]
    token_score: TokenScore = "mean"
    map_hash: str = ""
    made_by: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """Frozen decisions. kept: int [S, L, M], the tokens each module computes.

    num_tokens = compute all, 0 = reuse the cached output, in between = prune: compute that many tokens and scatter
    them into the cached output. token_score names the quantity whose largest tokens are kept.
    """

    model: ModelIdentity
    sampler: SamplerIdentity
    guidance: float
    kept: NDArray[np.int64]
    token_score: TokenScore = "mean"
    map_hash: str = ""
    made_by: str = ""

    @property
    def anchors(self) -> tuple[int, ...]:
        """Execution indices of the steps that compute everything."""
        return tuple(int(t) for t in np.flatnonzero((self.kept == self.model.num_tokens).all(axis=(1, 2))))

    @property
    def rows(self) -> int:
        """Rows of the model's batch for each sample: 2 with classifier-free guidance, else 1."""
        return rows_per_sample(self.guidance)


def plan_text(plan: Plan) -> bytes:
    """plan.json: a step that does one thing everywhere is one word, a module that does so, too."""
    steps = [_compact_step(plan, t) for t in range(len(plan.kept))]
    file = PlanFile(
        FORMAT, VERSION, plan.model, plan.sampler, plan.guidance, steps, plan.token_score, plan.map_hash, plan.made_by
    )  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def read_plan(path: Path) -> Plan:
    """Read plan.json, strictly. Raises PlanError naming the file, the step, the layer and the module."""
    try:
        file = msgspec.convert(parse_json(path.read_bytes()), PlanFile)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}); `soda-export plan` writes one") from None
    except (StrictJsonError, msgspec.ValidationError) as error:
        raise PlanError(f"{path}: {error}; docs/PLAN.md describes the format") from None
    if (file.format, file.version) != (FORMAT, VERSION):
        raise PlanError(f"{path}: format {file.format!r} version {file.version}, expected {FORMAT!r} version {VERSION}")
    try:
        return _expand(file)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def check_fits(plan: Plan, spec: DenoiserSpec, sampler: SamplerIdentity, guidance: float) -> None:
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


def _compact_step(plan: Plan, step: int) -> ModuleOps | Literal["compute", "reuse"]:
    words: dict[int, Literal["compute", "reuse"]] = {plan.model.num_tokens: "compute", 0: "reuse"}

    def one_word(values: NDArray[np.int64]) -> Literal["compute", "reuse"] | None:
        first = int(values.flat[0])
        return words.get(first) if bool((values == first).all()) else None

    rows = plan.kept[step]
    ops: ModuleOps = {
        module: one_word(rows[:, m]) or [words.get(int(keep), int(keep)) for keep in rows[:, m]]
        for m, module in enumerate(plan.model.modules)
    }
    return one_word(rows) or ops


def _expand(file: PlanFile) -> Plan:
    model, steps = file.model, len(file.steps)
    if steps != file.sampler.steps:
        raise PlanError(f"{steps} steps are listed, sampler.steps says {file.sampler.steps}")
    if steps < 1 or not 1 <= model.num_layers <= 1000 or not 1 <= model.num_tokens <= 1 << 20 or not model.modules:
        raise PlanError("a plan needs at least one step and module, 1 .. 1000 layers and 1 .. 1048576 tokens")
    if not 0.0 <= file.guidance <= MAX_GUIDANCE:
        raise PlanError(f"guidance {file.guidance:g} is outside 0 .. {MAX_GUIDANCE:g}")
    kept = np.zeros((steps, model.num_layers, len(model.modules)), np.int64)
    for t, ops in enumerate(file.steps):
        for m, module in enumerate(model.modules):
            kept[t, :, m] = _expand_module(file, t, module, ops)
        if not isinstance(ops, str) and ops.keys() != set(model.modules):
            odd = sorted(ops.keys() - set(model.modules))
            raise PlanError(f"step {t}: unknown module {odd[0]!r}; the model has {', '.join(model.modules)}")
    return Plan(model, file.sampler, file.guidance, kept, file.token_score, file.map_hash, file.made_by)


def _expand_module(file: PlanFile, step: int, module: str, ops: ModuleOps | str) -> list[int]:
    model = file.model
    words = {"compute": model.num_tokens, "reuse": 0}
    if not isinstance(ops, str):
        if module not in ops:
            raise PlanError(f"step {step}: module {module!r} is missing")
        entry = ops[module]
        if not isinstance(entry, str):
            if len(entry) != model.num_layers:
                raise PlanError(f"step {step}, {module}: {len(entry)} entries for {model.num_layers} layers")
            for layer, op in enumerate(entry):
                if isinstance(op, int) and not 0 < op <= model.num_tokens:
                    raise PlanError(
                        f"step {step}, layer {layer}, {module}: keep={op} is outside 1 .. {model.num_tokens} tokens; "
                        'use "reuse" for 0'
                    )
            return [words[op] if isinstance(op, str) else op for op in entry]
        ops = entry
    return [words[ops]] * model.num_layers

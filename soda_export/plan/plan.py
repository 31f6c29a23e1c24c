"""The plan: a schedule, and what it was made for. plan.json is strict; docs/PLAN.md explains it."""

from __future__ import annotations

import hashlib
import re
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
from .schedule import BLOCKS_RUN, Schedule

FORMAT, VERSION = "soda-plan", 3
_OLD_VERSIONS = (1, 2)  # the same without coefficients; 1 without forecasts and reuse_stack, too
_NUMBERS = re.compile(rb"\[[-+.e\d,\s]*\]")
MAX_GUIDANCE = 1e6

Word = Literal["compute", "reuse", "reuse1", "reuse2"]
StackWord = Literal["reuse_stack", "reuse_stack1", "reuse_stack2"]
ModuleOps = dict[str, list[int | Word] | Word]
_REUSE: dict[str, int] = {"reuse": 0, "reuse1": -1, "reuse2": -2}
_STACK: dict[str, int] = {"reuse_stack": 0, "reuse_stack1": 1, "reuse_stack2": 2}


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """plan.json as it is written."""

    format: str
    version: int
    model: ModelIdentity
    sampler: SamplerIdentity
    guidance: float
    steps: list[ModuleOps | Word | StackWord]
    token_score: TokenScore = "mean"
    map_hash: str = ""
    made_by: str = ""
    coefficients: list[list[float]] = []


@dataclass(frozen=True, eq=False)
class Plan:
    """Frozen decisions. token_score names the quantity whose largest tokens a pruned module keeps. coefficients: of the
    sampler, fitted to the schedule, in place of its own: [S, columns] as in SamplerTable; None leaves it as it is."""

    model: ModelIdentity
    sampler: SamplerIdentity
    guidance: float
    schedule: Schedule
    token_score: TokenScore = "mean"
    map_hash: str = ""
    made_by: str = ""
    coefficients: NDArray[np.float32] | None = None

    @property
    def anchors(self) -> tuple[int, ...]:
        """Execution indices of the steps that compute everything."""
        return self.schedule.anchors(self.model.num_tokens)

    @property
    def rows(self) -> int:
        """Rows of the model's batch for each sample: 2 with classifier-free guidance, else 1."""
        return rows_per_sample(self.guidance)


def plan_text(plan: Plan) -> bytes:
    """plan.json: a step that does one thing everywhere is one word, a module that does so, too; a row of numbers is one
    line."""
    steps = [_compact_step(plan, t) for t in range(plan.schedule.steps)]
    file = PlanFile(
        FORMAT, VERSION, plan.model, plan.sampler, plan.guidance, steps, plan.token_score, plan.map_hash, plan.made_by,
        exact_floats(plan.coefficients),
    )  # fmt: skip
    text = msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
    return _NUMBERS.sub(lambda row: b"[" + b" ".join(row[0][1:-1].split()) + b"]", text)


def exact_floats(table: NDArray[np.float32] | None) -> list[list[float]]:
    """Rows of float32 as the shortest numbers that read back as the same."""
    return [] if table is None else [[float(str(value)) for value in row] for row in table]


def read_plan(path: Path) -> Plan:
    """Read plan.json, strictly. Raises PlanError naming the file, the step, the layer and the module."""
    try:
        file = msgspec.convert(parse_json(path.read_bytes()), PlanFile)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}); `soda-export plan` writes one") from None
    except (StrictJsonError, msgspec.ValidationError) as error:
        raise PlanError(f"{path}: {error}; docs/PLAN.md describes the format") from None
    if file.format != FORMAT or file.version not in (*_OLD_VERSIONS, VERSION):
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


def _compact_step(plan: Plan, step: int) -> ModuleOps | Word | StackWord:
    stack, rows = int(plan.schedule.stack[step]), plan.schedule.kept[step]
    if stack != BLOCKS_RUN:
        return next(word for word, order in _STACK.items() if order == stack)  # type: ignore[misc]
    words: dict[int, Word] = {value: word for word, value in _words(plan.model).items()}

    def one_word(values: NDArray[np.int64]) -> Word | None:
        first = int(values.flat[0])
        return words.get(first) if bool((values == first).all()) else None

    ops: ModuleOps = {
        module: one_word(rows[:, m]) or [words.get(int(keep), int(keep)) for keep in rows[:, m]]
        for m, module in enumerate(plan.model.modules)
    }
    return one_word(rows) or ops


def _words(model: ModelIdentity) -> dict[Word, int]:
    return {"compute": model.num_tokens, **_REUSE}  # type: ignore[dict-item]


def _expand(file: PlanFile) -> Plan:
    model, steps = file.model, len(file.steps)
    if steps != file.sampler.steps:
        raise PlanError(f"{steps} steps are listed, sampler.steps says {file.sampler.steps}")
    if steps < 1 or not 1 <= model.num_layers <= 1000 or not 1 <= model.num_tokens <= 1 << 20 or not model.modules:
        raise PlanError("a plan needs at least one step and module, 1 .. 1000 layers and 1 .. 1048576 tokens")
    if not 0.0 <= file.guidance <= MAX_GUIDANCE:
        raise PlanError(f"guidance {file.guidance:g} is outside 0 .. {MAX_GUIDANCE:g}")
    schedule = Schedule.of(np.zeros((steps, model.num_layers, len(model.modules)), np.int64))
    for t, ops in enumerate(file.steps):
        if isinstance(ops, str) and ops in _STACK:
            schedule.stack[t] = _STACK[ops]
            continue
        for m, module in enumerate(model.modules):
            schedule.kept[t, :, m] = _expand_module(model, t, module, ops)
        if not isinstance(ops, str) and ops.keys() != set(model.modules):
            odd = sorted(ops.keys() - set(model.modules))
            raise PlanError(f"step {t}: unknown module {odd[0]!r}; the model has {', '.join(model.modules)}")
    return Plan(
        model, file.sampler, file.guidance, schedule, file.token_score, file.map_hash, file.made_by,
        _expand_coefficients(file),
    )  # fmt: skip


def _expand_coefficients(file: PlanFile) -> NDArray[np.float32] | None:
    """The rows, or None. Whether they are this sampler's is seen where it is known (SamplerTable.with_coefficients)."""
    rows = file.coefficients
    if not rows:
        return None
    if len(rows) != len(file.steps) or len({len(row) for row in rows}) > 1:
        raise PlanError(f"coefficients: {len(rows)} rows for {len(file.steps)} steps, or rows of several lengths")
    with np.errstate(over="ignore"):
        table = np.array(rows, np.float32)
    if not np.isfinite(table).all():
        raise PlanError("coefficients: a number is beyond float32")
    return table


def _expand_module(model: ModelIdentity, step: int, module: str, ops: ModuleOps | str) -> list[int]:
    words: dict[Word, int] = _words(model)
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
    return [words[ops]] * model.num_layers  # type: ignore[index]

"""ECAD's schedules (arXiv 2506.15682): true or false for every step, block and component, true = compute.

Its files are JSON objects, `{"cache_schedule": {"schedule": {"000": {"0": {"attn1": true, ...}}}}}`; the paper's binary
tensor is read, too, as steps of blocks of components: `[["111", "101"], ...]`, or lists of 0 and 1 in place of the
strings. As in the released code (github.com/AniAggarwal/ecad), what the first step caches nothing of is computed there.
FLUX.1's single blocks have three components there and are one site here: a block whose output is computed is computed
whole.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from soda_runtime.strict_json import StrictJsonError, parse_json

from ...errors import PlanError
from ...models.identity import ModelIdentity
from ..schedule import Schedule
from .ones import Ones, check_steps, schedule_of

_KINDS = {
    "attn1": "attn", "attn2": "cross_attn", "ff": "ff", "full_attn": "joint_attn", "full_ff": "ff",
    "full_ff_context": "ff_context",
}  # fmt: skip
_TENSOR = ("attn1", "attn2", "ff")  # components of a row of the paper's tensor, without those the model lacks
_SINGLE, _SINGLE_PARTS, _SINGLE_OUTPUT = "single", {"single_attn", "single_proj_mlp"}, "single_proj_out"
_MOST_STEPS = 1 << 14
log = logging.getLogger(__name__)

Cell = tuple[str, int, str]
"""Kind and number of a site, and how messages call it."""


def read_ecad(content: bytes, model: ModelIdentity, steps: int, ones: Ones = "computed") -> Schedule:
    """The schedule of a file for this model and number of steps. Raises PlanError, naming step and block."""
    try:
        value = parse_json(content)
    except StrictJsonError as error:
        raise PlanError(str(error)) from None
    for key in ("cache_schedule", "schedule"):
        if isinstance(value, dict):
            value = value.get(key, value)
    by_step = _named_steps(value) if isinstance(value, dict) else value
    if not isinstance(by_step, list) or not by_step:
        raise PlanError('expected ECAD\'s file, or a list of steps of blocks, e.g. [["111", "101"], ["000", "010"]]')
    check_steps(len(by_step), steps, "schedule")
    computed = np.zeros((steps, len(model.names)), bool)
    for step, blocks in enumerate(by_step):
        _read_step(blocks, model, f"step {step}", computed[step])
    if ones == "cached":
        computed = ~computed
    leaves = np.array([k for kind in {*_KINDS.values(), _SINGLE} for k in model.kinds.get(kind, ())], np.int64)
    first = int((~computed[0, leaves]).sum())
    if first:
        log.info("import: modules computed in step 0 because nothing is cached yet, as ECAD's own code does: %d", first)
        computed[0] = True
    return schedule_of(computed, model)


def _named_steps(value: dict[str, Any]) -> list[Any]:
    """Steps in order, of keys like 000, 001."""
    numbers = {int(key): key for key in value if re.fullmatch(r"\d{1,6}", key, re.ASCII)}
    if len(numbers) != len(value) or sorted(numbers) != list(range(len(numbers))):
        raise PlanError(f"schedule: its keys must be steps 000, 001 and so on, not {', '.join(value)!r:.60}")
    return [value[numbers[step]] for step in range(len(numbers))]


def _read_step(blocks: Any, model: ModelIdentity, where: str, computed: NDArray[np.bool_]) -> None:
    """Fill computed [K] with what a step says. Raises PlanError unless it says something of every module once."""
    if isinstance(blocks, list):
        blocks = {str(number): _components(block, model) for number, block in enumerate(blocks)}
    if not isinstance(blocks, dict):
        raise PlanError(f"{where}: expected blocks")
    found: set[int] = set()
    for name, block in blocks.items():
        place = f"{where}, block {name!r:.20}"
        if not isinstance(block, dict):
            raise PlanError(f"{place}: expected components, each true or false")
        for (kind, number, component), one in _cells(name, block, place):
            sites = model.kinds.get(kind)
            if not sites:
                raise PlanError(f"{place}: the model has no {component!r:.30}, but {', '.join(model.kinds)}")
            if number >= len(sites):
                raise PlanError(f"{place}: the model has {kind} 0 .. {len(sites) - 1}")
            computed[sites[number]] = one
            found.add(sites[number])
    needed = [k for kind in {*_KINDS.values(), _SINGLE} for k in model.kinds.get(kind, ())]
    missing = sorted(set(needed) - found)
    if missing:
        raise PlanError(f"{where}: says nothing of {model.names[missing[0]]}")


def _cells(name: str, block: dict[str, Any], place: str) -> list[tuple[Cell, bool]]:
    """Sites that a block's components are, and whether each computes."""
    match = re.fullmatch(r"(single_)?(\d{1,6})", name, re.ASCII)
    if not match:
        raise PlanError(f"{place}: expected a number, or e.g. single_3")
    number = int(match[2])
    for component, one in block.items():
        if component.startswith("custom_"):
            how = one.get("name") if isinstance(one, dict) else one
            raise PlanError(f"{place}: {component} {how!r:.40} does more than compute or reuse; no plan can say it")
        if type(one) is not bool and one not in (0, 1):
            raise PlanError(f"{place}, {component!r:.30}: is {one!r:.40}; only true and false are possible")
    if match[1]:
        if set(block) != {*_SINGLE_PARTS, _SINGLE_OUTPUT}:
            raise PlanError(f"{place}: has {', '.join(block)!r:.80}, not {', '.join(sorted(_SINGLE_PARTS))} and "
                            f"{_SINGLE_OUTPUT}")  # fmt: skip
        return [((_SINGLE, number, _SINGLE), bool(block[_SINGLE_OUTPUT]))]
    unknown = [component for component in block if component not in _KINDS]
    if unknown:
        raise PlanError(f"{place}: {unknown[0]!r:.30} is none of {', '.join(_KINDS)}")
    return [((_KINDS[component], number, component), bool(one)) for component, one in block.items()]


def _components(row: Any, model: ModelIdentity) -> Any:
    """`101` or [1, 0, 1] -> component -> one, as the model has them; anything else as it is."""
    names = [name for name in _TENSOR if _KINDS[name] in model.kinds]
    ones = [int(digit) for digit in row] if isinstance(row, str) and re.fullmatch("[01]+", row) else row
    return dict(zip(names, ones, strict=True)) if isinstance(ones, list) and len(ones) == len(names) else row

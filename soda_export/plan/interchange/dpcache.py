"""DPCache's key steps (arXiv 2602.22654): a list of the steps that compute everything, counted from 0, the noisiest.

Between them the paper forecasts the last block's output by a Taylor expansion of order 2 at most from the key steps
before. Its code is not released, so a file is the list alone: `[0, 1, 2, 5, 9]`, or the numbers as text.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
from soda_runtime.strict_json import StrictJsonError, parse_json

from ...errors import PlanError
from ...models.decisions import COMPUTE, IDLE, MAX_ORDER
from ...models.identity import ModelIdentity
from ...models.spec import STACK
from ..schedule import Schedule
from .ones import Ones, forecast_order

_WHERE = "key steps"


def read_dpcache(content: bytes, model: ModelIdentity, steps: int, ones: Ones = "computed") -> Schedule:
    """Everything at the key steps, the stack forecast between them, or every site where there is no stack.

    ones: whether the list has the steps that are computed or those that are cached. Raises PlanError.
    """
    listed = _numbers(content)
    for step in listed:
        if not 0 <= step < steps:
            raise PlanError(f"{_WHERE}: {step} is outside 0 .. {steps - 1}; steps count from 0, --steps says how many")
    for before, after in pairwise(listed):
        if after <= before:
            raise PlanError(f"{_WHERE}: {after} comes after {before}; they must rise")
    computed = np.isin(np.arange(steps), listed) == (ones == "computed")
    if not computed[0]:
        other = "cached" if ones == "computed" else "computed"
        raise PlanError(
            f"{_WHERE}: step 0 must be computed, nothing is cached before it; if the list has the {other} steps, pass "
            f"--ones {other}"
        )
    stack = list(model.kinds.get(STACK, ()))
    work = np.full((steps, len(model.names)), COMPUTE, np.int64)
    for step, order in enumerate(forecast_order(computed, MAX_ORDER)):
        if not computed[step]:
            work[step] = IDLE if stack else -order
            work[step, stack] = -order
    return Schedule(work)


def _numbers(content: bytes) -> list[int]:
    text = content.decode(errors="replace").strip()
    if re.fullmatch(r"\d{1,6}([,\s]+\d{1,6})*", text, re.ASCII):
        return [int(word) for word in re.split(r"[,\s]+", text)]
    try:
        value = parse_json(content)
    except StrictJsonError as error:
        raise PlanError(f"{error}; expected a list of steps, e.g. [0, 1, 2, 5, 9]") from None
    if not isinstance(value, list) or not value or any(type(entry) is not int for entry in value):
        raise PlanError(f"{_WHERE}: expected a list of steps, e.g. [0, 1, 2, 5, 9]")
    return value

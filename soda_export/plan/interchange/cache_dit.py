"""cache-dit's step masks: a 0 or 1 a step for the whole transformer, 1 = compute, 0 = use the cache.

cache-dit (github.com/vipshop/cache-dit) takes them as `steps_computation_mask`: a list in Python or in a configuration
file, and prints them as digits, 1101. All of these are read; written is a configuration file in JSON, which its
load_configs reads as YAML. A cached step there adds the residual of the last computed blocks to its own input; here
every site reuses its output, which differs by the gates alone, which are the step's own.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from soda_runtime.strict_json import StrictJsonError, parse_json

from ...errors import PlanError
from ...models.identity import ModelIdentity
from ...models.spec import STACK
from ..schedule import Schedule
from .ones import computes, read_ones, schedule_of

_KEY, _SECTION, _STEPS = "steps_computation_mask", "cache_config", "num_inference_steps"


def read_cache_dit(content: bytes, model: ModelIdentity, steps: int) -> Schedule:
    """A mask as digits, as a JSON list, or in a JSON configuration. Raises PlanError."""
    digits = re.fullmatch(rb"\s*([01]+)\s*", content)
    if digits:
        mask: Any = [int(digit) for digit in digits[1].decode()]
    else:
        try:
            mask = _mask_of(parse_json(content))
        except StrictJsonError as error:
            raise PlanError(f"{error}; expected digits like 1101, a JSON list, or a configuration in JSON") from None
    computed = read_ones(mask, steps, _KEY)
    return schedule_of(np.repeat(computed[:, None], len(model.names), axis=1), model)


def cache_dit_text(schedule: Schedule, model: ModelIdentity) -> bytes:
    """The schedule as a configuration file. Raises PlanError where a step is neither computed nor reused as a whole."""
    computed = np.delete(computes(schedule, model, "cache-dit"), list(model.kinds.get(STACK, ())), axis=1)
    mixed = np.flatnonzero((computed != computed[:, :1]).any(axis=1))
    if mixed.size:
        raise PlanError(f"step {mixed[0]}: some modules compute and others reuse; a cache-dit mask has one word a step")
    mask = [int(one) for one in computed[:, 0]]
    section = {_STEPS: len(mask), _KEY: mask, "steps_computation_policy": "static"}
    return json.dumps({_SECTION: section}).encode() + b"\n"


def _mask_of(value: Any) -> Any:
    """The mask in a JSON document, whatever else a configuration says."""
    if isinstance(value, dict):
        section = value.get(_SECTION, value)
        if not isinstance(section, dict) or _KEY not in section:
            raise PlanError(f"{_KEY} is missing")
        value = section[_KEY]
    if isinstance(value, str):
        if not re.fullmatch("[01]+", value):
            raise PlanError(f"{_KEY}: {value!r:.40} is a policy of cache-dit's; give its mask of 0 and 1")
        value = [int(digit) for digit in value]
    return value

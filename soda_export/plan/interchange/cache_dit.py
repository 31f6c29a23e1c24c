"""cache-dit's step masks: a 0 or 1 a step for the whole transformer, 1 = compute, 0 = use the cache.

cache-dit (github.com/vipshop/cache-dit) takes them as `steps_computation_mask`: a list in Python or in a configuration
file, or the name of one of its own masks, and prints them as digits, 1101. All of these are read; written is a
configuration file in JSON, which its load_configs reads as YAML. In a configuration the first Fn and the last Bn blocks
of each list of blocks compute in cached steps, too, and TaylorSeer forecasts the others. A cached step there adds the
residual of the other blocks to its own input; here every site reuses its output, which differs by the gates alone,
which are the step's own.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ...models.decisions import COMPUTE, MAX_ORDER
from ...models.identity import ModelIdentity
from ...models.spec import STACK
from ..schedule import Schedule
from .cache_dit_masks import named_mask
from .ones import Ones, computes, forecast_order, read_digits, read_ones, schedule_of
from .yaml_text import parse_yaml

_KEY, _SECTION, _STEPS = "steps_computation_mask", "cache_config", "num_inference_steps"
_FIRST, _LAST = "Fn_compute_blocks", "Bn_compute_blocks"
_DEFAULTS = {_FIRST: 8, _LAST: 0}  # cache-dit's
_LEAST_FIRST = 1
_MOST = 1 << 20
_CANNOT = {
    "enable_foca": "FoCa's forecasts are not among a plan's; set enable_taylorseer instead, or neither",
    "enable_dmd": "DMD fits its forecasts at run time; set enable_taylorseer instead, or neither",
}
log = logging.getLogger(__name__)


def read_cache_dit(content: bytes, model: ModelIdentity, steps: int, ones: Ones = "computed") -> Schedule:
    """A mask as digits, as a list, or in a configuration, YAML or JSON. Raises PlanError."""
    digits = read_digits(content.decode(errors="replace"))
    value = digits or parse_yaml(content)
    if isinstance(value, str | list):
        return schedule_of(np.repeat(_mask(value, steps, ones)[:, None], len(model.names), axis=1), model)
    if not isinstance(value, dict):
        raise PlanError("expected digits like 1101, a list of 0 and 1, or a configuration")
    return _read_configuration(value, model, steps, ones)


def cache_dit_text(schedule: Schedule, model: ModelIdentity) -> bytes:
    """The schedule as a configuration file. Raises PlanError where a step is neither computed nor reused as a whole.

    Its Fn is 1, the least that cache-dit takes: there the first block computes in every step.
    """
    computed = np.delete(computes(schedule, model, "cache-dit"), list(model.kinds.get(STACK, ())), axis=1)
    mixed = np.flatnonzero((computed != computed[:, :1]).any(axis=1))
    if mixed.size:
        raise PlanError(f"step {mixed[0]}: some modules compute and others reuse; a cache-dit mask has one word a step")
    mask = [int(one) for one in computed[:, 0]]
    section = {
        _STEPS: len(mask), _KEY: mask, "steps_computation_policy": "static", _FIRST: _LEAST_FIRST, _LAST: 0,
    }  # fmt: skip
    return json.dumps({_SECTION: section}).encode() + b"\n"


def _read_configuration(value: dict[Any, Any], model: ModelIdentity, steps: int, ones: Ones) -> Schedule:
    section = value.get(_SECTION, value)
    if not isinstance(section, dict):
        raise PlanError(f"{_SECTION}: expected keys and values, {_KEY} among them")
    kind = section.get("cache_type", "DBCache")
    if kind != "DBCache":
        raise PlanError(f"cache_type: {kind!r:.40} decides at run time which blocks to prune; only DBCache is read")
    if _KEY not in section:
        raise PlanError(
            f"{_KEY} is missing: without it residual_diff_threshold decides at run time which steps to cache, and a "
            f"plan is frozen; add one, e.g. {_KEY}: fast"
        )
    for key, why in _CANNOT.items():
        if section.get(key):
            raise PlanError(f"{key}: {why}")
    given = section.get(_STEPS, steps)
    if given != steps:
        raise PlanError(f"{_STEPS}: is {given!r:.40}, the sampler has {steps} steps; pass --steps {given!r:.40}")
    if section.get("steps_computation_policy", "dynamic") != "static":
        log.warning(
            "import: every 0 of the mask is cached, as with steps_computation_policy static; with dynamic, "
            "cache-dit's default, residual_diff_threshold may let some of them compute"
        )
    computed = _mask(section[_KEY], steps, ones)
    order = _whole(section, "taylorseer_order", 1) if section.get("enable_taylorseer") else 0
    if order > MAX_ORDER:
        raise PlanError(f"taylorseer_order: is {order}; a plan has forecasts of order {MAX_ORDER} at most")
    always = _blocks_that_compute(model, *(_whole(section, key, default) for key, default in _DEFAULTS.items()))
    schedule = schedule_of(computed[:, None] | always[None], model)
    orders = np.array(forecast_order(computed, order))[:, None]
    return Schedule(np.where(schedule.work == COMPUTE, COMPUTE, -orders))


def _mask(value: Any, steps: int, ones: Ones) -> NDArray[np.bool_]:
    """[S]; a name or digits, too."""
    if isinstance(value, str):
        digits = read_digits(value)
        if digits is None:
            return np.array(named_mask(value, steps), bool)
        value = digits
    return read_ones(value, steps, _KEY, ones)


def _blocks_that_compute(model: ModelIdentity, first: int, last: int) -> NDArray[np.bool_]:
    """Whether each site is in one of the first or last blocks of its list of blocks, [K]. Raises PlanError."""
    places = [re.match(r"(.*?)\.(\d+)(?:\.|$)", name) for name in model.names]
    sizes: dict[str, int] = {}
    for place in places:
        if place:
            sizes[place[1]] = max(sizes.get(place[1], 0), int(place[2]) + 1)
    for blocks, size in sizes.items():
        if first + last >= size:
            raise PlanError(
                f"{_FIRST} {first} and {_LAST} {last}: leave none of the {size} {blocks} to be cached; without these "
                f"keys cache-dit takes {_DEFAULTS[_FIRST]} and {_DEFAULTS[_LAST]}"
            )
    return np.array([
        place is not None and not first <= int(place[2]) < sizes[place[1]] - last for place in places
    ])  # fmt: skip


def _whole(section: dict[Any, Any], key: str, default: int) -> int:
    value = section.get(key, default)
    if type(value) is not int or not 0 <= value <= _MOST:
        raise PlanError(f"{key}: is {value!r:.40}, not a whole number of 0 or more")
    return value

"""SmoothCache's schedule files (arXiv 2411.10510): JSON lists of 0 and 1 by component, or by component and block.

`{"attn": [1, 0, ...], "mlp": [...]}` holds for all blocks, `{"attn-0": [...], ...}` for one. As in the released code, a
block's own list goes first, then its component's, and what has neither is computed at every step. Entry 0 is the
noisiest step. The file names neither model nor sampler, so both are checked against what is given.
"""

from __future__ import annotations

import json
import re

import numpy as np
from numpy.typing import NDArray
from soda_runtime.strict_json import StrictJsonError, parse_json

from ...errors import PlanError
from ...models.identity import ModelIdentity
from ..schedule import Schedule
from .ones import computes, read_ones

_MODULES = {
    "attn": "attn", "attn1": "attn", "cross_attn": "cross_attn", "attn2": "cross_attn", "mlp": "ff", "ff": "ff",
}  # fmt: skip
"""Component -> module; attn1, attn2 and ff are diffusers' attributes."""
_COMPONENTS = {"attn": "attn", "cross_attn": "cross_attn", "ff": "mlp"}


def read_smoothcache(content: bytes, model: ModelIdentity, steps: int) -> Schedule:
    """The file's schedule for this model and number of steps. Raises PlanError, naming the list."""
    try:
        lists = parse_json(content)
    except StrictJsonError as error:
        raise PlanError(str(error)) from None
    if not isinstance(lists, dict) or not lists:
        raise PlanError('expected a JSON object of lists, e.g. {"attn": [1, 0], "mlp": [1, 0]}')
    computed = np.ones((steps, model.num_layers, len(model.modules)), bool)
    named: dict[tuple[str, int | None], str] = {}
    for key in sorted(lists, key=lambda key: _place(key, model)[1] is not None):  # components first, then blocks
        module, layer = place = _place(key, model)
        if place in named:
            raise PlanError(f"{key!r} and {named[place]!r} are the same module")
        named[place] = key
        layers = slice(None) if layer is None else layer
        ones = read_ones(lists[key], steps, key)
        computed[:, layers, model.modules.index(module)] = ones[:, None] if layer is None else ones
    return Schedule.of(np.where(computed, model.num_tokens, 0).astype(np.int64))


def smoothcache_text(schedule: Schedule, model: ModelIdentity) -> bytes:
    """The schedule as a file: a list a component where its blocks agree, else one a block. Raises PlanError."""
    computed = computes(schedule, model, "SmoothCache")
    lists: dict[str, list[int]] = {}
    for m, module in enumerate(model.modules):
        component, by_layer = _COMPONENTS[module], computed[:, :, m]
        if (by_layer == by_layer[:, :1]).all():
            lists[component] = _entries(by_layer[:, 0])
        else:
            lists |= {f"{component}-{layer}": _entries(by_layer[:, layer]) for layer in range(model.num_layers)}
    lines = [f"{json.dumps(key)}: {json.dumps(entries)}" for key, entries in lists.items()]
    return ("{" + ",\n ".join(lines) + "}\n").encode()


def _place(key: str, model: ModelIdentity) -> tuple[str, int | None]:
    """Module and layer of a key; no layer = all."""
    match = re.fullmatch(r"(\w+?)(?:-(0|[1-9]\d{0,5}))?", key, re.ASCII)
    module = _MODULES.get(match[1]) if match else None
    if match is None or module not in model.modules:
        known = ", ".join(name for name, module in _MODULES.items() if module in model.modules)
        raise PlanError(f"{key!r:.60}: not a component of the model; it has {known}, or e.g. attn-0 for one block")
    layer = None if match[2] is None else int(match[2])
    if layer is not None and layer >= model.num_layers:
        raise PlanError(f"{key!r}: the model has blocks 0 .. {model.num_layers - 1}")
    return module, layer


def _entries(computed: NDArray[np.bool_]) -> list[int]:
    return [int(one) for one in computed]

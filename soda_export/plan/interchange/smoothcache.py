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
from ...models.spec import STACK
from ..schedule import Schedule
from .ones import Ones, computes, read_ones, schedule_of

_KINDS = {
    "attn": "attn", "attn1": "attn", "cross_attn": "cross_attn", "attn2": "cross_attn", "mlp": "ff", "ff": "ff",
}  # fmt: skip
"""Component -> kind of sites; attn1, attn2 and ff are diffusers' attributes. Other kinds go by their own name."""
_COMPONENTS = {"attn": "attn", "cross_attn": "cross_attn", "ff": "mlp"}


def read_smoothcache(content: bytes, model: ModelIdentity, steps: int, ones: Ones = "computed") -> Schedule:
    """The file's schedule for this model and number of steps. Raises PlanError, naming the list."""
    try:
        lists = parse_json(content)
    except StrictJsonError as error:
        raise PlanError(str(error)) from None
    if not isinstance(lists, dict) or not lists:
        raise PlanError('expected a JSON object of lists, e.g. {"attn": [1, 0], "mlp": [1, 0]}')
    computed = np.ones((steps, len(model.names)), bool)
    named: dict[tuple[str, int | None], str] = {}
    for key in sorted(lists, key=lambda key: _place(key, model)[1] is not None):  # components first, then blocks
        kind, number = place = _place(key, model)
        if place in named:
            raise PlanError(f"{key!r} and {named[place]!r} are the same module")
        named[place] = key
        sites = model.kinds[kind] if number is None else model.kinds[kind][number : number + 1]
        computed[:, list(sites)] = read_ones(lists[key], steps, key, ones)[:, None]
    return schedule_of(computed, model)


def smoothcache_text(schedule: Schedule, model: ModelIdentity) -> bytes:
    """The schedule as a file: a list a component where its blocks agree, else one a block. Raises PlanError."""
    computed = computes(schedule, model, "SmoothCache")
    lists: dict[str, list[int]] = {}
    for kind in _leaf_kinds(model):
        component, by_site = _COMPONENTS.get(kind, kind), computed[:, list(model.kinds[kind])]
        if (by_site == by_site[:, :1]).all():
            lists[component] = _entries(by_site[:, 0])
        else:
            lists |= {f"{component}-{i}": _entries(by_site[:, i]) for i in range(by_site.shape[1])}
    lines = [f"{json.dumps(key)}: {json.dumps(entries)}" for key, entries in lists.items()]
    return ("{" + ",\n ".join(lines) + "}\n").encode()


def _leaf_kinds(model: ModelIdentity) -> list[str]:
    return [kind for kind in model.kinds if kind != STACK]


def _place(key: str, model: ModelIdentity) -> tuple[str, int | None]:
    """Kind and number of a key; no number = all."""
    kinds = {kind: kind for kind in _leaf_kinds(model)}
    known = {name: kind for name, kind in (kinds | _KINDS).items() if kind in kinds}
    match = re.fullmatch(r"(\w+?)(?:-(0|[1-9]\d{0,5}))?", key, re.ASCII)
    kind = known.get(match[1]) if match else None
    if match is None or kind is None:
        names = ", ".join(sorted(known, key=lambda name: (list(_KINDS).index(name) if name in _KINDS else 99, name)))
        raise PlanError(f"{key!r:.60}: not a component of the model; it has {names}, or e.g. attn-0 for one block")
    number = None if match[2] is None else int(match[2])
    if number is not None and number >= len(model.kinds[kind]):
        raise PlanError(f"{key!r}: the model has blocks 0 .. {len(model.kinds[kind]) - 1}")
    return kind, number


def _entries(computed: NDArray[np.bool_]) -> list[int]:
    return [int(one) for one in computed]

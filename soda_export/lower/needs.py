"""Walk a schedule slot by slot: which writes some later step reads, and how forecasts weigh what was computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PlanError
from ..plan.forecast import forecast_weights
from ..plan.schedule import MAX_ORDER

Weights = tuple[float, float, float]


@dataclass(frozen=True)
class SlotNeeds:
    """written: steps whose new value is read later. weights: step -> weights of a forecast there."""

    written: frozenset[int]
    weights: dict[int, Weights]


def needs_of_slot(work: Sequence[int], steps: Sequence[int], full: int, where: str) -> SlotNeeds:
    """work: what each of `steps` does with the slot: full = computes it, 0 < k < full = updates it, 0 = reads it,
    -o = forecasts it at order o. Raises PlanError, naming the step and `where`, for what was never computed."""
    written: set[int] = set()
    weights: dict[int, Weights] = {}
    computed: list[int] = []  # steps, newest first
    writer: list[int] = []  # for each, the last step that wrote the value
    for t, does in zip(steps, work, strict=True):
        if does == full:
            computed, writer = [t, *computed[:MAX_ORDER]], [t, *writer[:MAX_ORDER]]
            continue
        order = max(0, -does)
        if len(computed) <= order:
            raise PlanError(f"step {t}, {where}: {_missing(order, len(computed))}")
        written.update(writer[: order + 1])
        if does > 0:
            writer[0] = t
        if order:
            given = forecast_weights(t, computed, order)
            weights[t] = (given[0], given[1], given[2] if order > 1 else 0.0)
    return SlotNeeds(frozenset(written), weights)


def _missing(order: int, count: int) -> str:
    if not order:
        return "nothing is cached yet; the first step must compute everything"
    return f"a forecast of order {order} needs {order + 1} computed outputs, there are {count}"

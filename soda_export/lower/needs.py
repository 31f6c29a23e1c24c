"""Walk a schedule site by site: which writes some later step reads, and how forecasts weigh what was computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PlanError
from ..models.decisions import COMPUTE, IDLE, MAX_ORDER, is_renewal
from ..plan.forecast import forecast_weights

Weights = tuple[float, float, float]


@dataclass(frozen=True)
class SiteNeeds:
    """Of all outputs of a site. written: steps whose new values are read later. weights: step -> weights of a forecast
    there."""

    written: frozenset[int]
    weights: dict[int, Weights]


def needs_of_site(work: Sequence[int], where: str) -> SiteNeeds:
    """work: what each step does with the site, [S] (models/decisions.py). Raises PlanError for what was never computed,
    naming the step and `where`."""
    written: set[int] = set()
    weights: dict[int, Weights] = {}
    computed: list[int] = []  # steps, newest first
    writer: list[int] = []  # for each, the last step that wrote the value
    for t, does in enumerate(work):
        if does == IDLE:
            continue
        if does == COMPUTE:
            computed, writer = [t, *computed[:MAX_ORDER]], [t, *writer[:MAX_ORDER]]
            continue
        order = max(0, -does)
        if len(computed) <= order:
            raise PlanError(f"step {t}, {where}: {_missing(order, len(computed))}")
        written.update(writer[: order + 1])
        if is_renewal(does):
            writer[0] = t
        if order:
            given = forecast_weights(t, computed, order)
            weights[t] = (given[0], given[1], given[2] if order > 1 else 0.0)
    return SiteNeeds(frozenset(written), weights)


def _missing(order: int, count: int) -> str:
    if not order:
        return "nothing is cached yet; the first step must compute everything"
    return f"a forecast of order {order} needs {order + 1} computed outputs, there are {count}"

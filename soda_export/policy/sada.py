"""SADA (arXiv 2507.17135) as its authors released it, and with the paper's weights and time scale.

With e the guided prediction, x the latents in variance-preserving scale, and y = dx/dt of the probability-flow ODE
written with e, the released solvers compute at the end of step i

    xh = x_i - (5/8 y_i + 3/4 y_{i-1} - 3/8 y_{i-2}),    m = mean((x_{i+1} - xh) (y_i - 2 y_{i-1} + y_{i-2})),

per training step and times one: their time scale cancels to 1, where the step is t_i - t_{i+1} long. From 20 % to 48 %
of the run the next step is skipped where m <= 0, with the clean sample that belongs to e and xh; from there to 94 %
three of four steps are, with the polynomial through the clean samples of the last four steps i with i % 4 == 1. At most
four in a row. Flows: m = mean(-v_i + 2 v_{i-1} - v_{i-2}), a first skipped step takes 2 v_i - v_{i-1}, further ones
v_i, and there is no polynomial. In a row of skipped steps that m is 0, which the released code computes as rounding of
either sign. The paper (eq. 8) has weights 5/6, 5/6, -2/3 and the step's true length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from soda_runtime.policy import Rule

from ..errors import PlanError
from ..sampler import Levels, SamplerTable, lagrange_weights, levels_of, training_betas
from .adaptive import COMPUTE, AdaptivePolicy
from .forms import Form, WideState

_NODES, _PERIOD, _MAX_RUN = 4, 4, 4
_FIRST, _MULTISTEP, _MULTISTEP_OF_FLOWS, _LAST = 0.2, 0.48, 0.4, 0.94  # shares of the steps: 10, 24 (20), 47 of 50
_COMPUTED_LAST = 2  # steps
_LEAST_FIRST = 3  # third-order differences need three derivatives


@dataclass(frozen=True)
class Weights:
    """Of y_i, y_{i-1} and y_{i-2} in the estimate; true_length: whether a step is as long as its timesteps say."""

    name: str
    of_derivatives: tuple[float, float, float]
    true_length: bool


RELEASED = Weights("sada", (0.625, 0.75, -0.375), False)
PAPER = Weights("sada-paper", (5 / 6, 5 / 6, -2 / 3), True)


def make_sada(own: SamplerTable, config: dict[str, Any], weights: Weights = RELEASED) -> AdaptivePolicy:
    """SADA's policy for a frozen sampler. config: of the model's scheduler. Raises PlanError where it has none."""
    levels = levels_of(own, config, f"--policy {weights.name}")
    if levels.is_flow:
        return _make_flow(own, weights, 1.0 if levels.kind == "flow_prediction" else -1.0)
    if levels.kind not in ("epsilon", "v_prediction"):
        raise PlanError(f"--policy {weights.name}: not defined for prediction_type {levels.kind!r:.40}; use misfit")
    nodes = [f"node{k}" for k in range(_NODES)]
    wide = WideState(own, ["e1", "y1", "y2", "xh", *nodes])
    betas, tables, signals = training_betas(own, config), dict[str, list[Any]](full=[], skip=[], lagrange=[]), []
    known: list[int] = []
    for step in range(own.steps):
        y = {name: _derivative(wide, levels, step, betas[step], name) for name in ("e", "e1")}
        length = 1.0 if weights.true_length is False else _length(own, step)
        fills = {
            "full": (None, y["e"], wide.form(e=1.0)),
            "skip": (_stepwise(wide, levels, step), y["e1"], wide.form(e1=1.0)),
            "lagrange": (_multistep(wide, levels, step, known), y["e1"], wide.form(e1=1.0)),
        }
        is_node = step % _PERIOD == 1
        for name, (prediction, derivative, last) in fills.items():
            estimate = wide.form(x=levels.scale[step]) - length * (
                weights.of_derivatives[0] * derivative
                + wide.form(y1=weights.of_derivatives[1], y2=weights.of_derivatives[2])
            )
            changes = {"e1": last, "y1": derivative, "y2": wide.form(y1=1.0), "xh": estimate}
            if is_node:
                changes |= _shifted(wide, levels, step, nodes, prediction)
            tables[name].append(wide.row(step, changes, prediction))
        known = [step, *known[: _NODES - 1]] if is_node else known
        later = min(step + 1, own.steps - 1)
        residual = wide.signal(after={"x": levels.scale[later], "xh": -1.0})
        signals.append([[residual, wide.signal(before={"y1": -1.0, "y2": 1.0}, after={"y1": 1.0, "y2": -1.0})]])
    return AdaptivePolicy(
        weights.name, own, wide.size, {name: np.array(rows)[:, None] for name, rows in tables.items()},
        {"full": np.array(signals, np.float32)[:, None]}, _rules(own.steps, _MULTISTEP, 2), (False,), max_run=_MAX_RUN,
    )  # fmt: skip


def _make_flow(own: SamplerTable, weights: Weights, sign: float) -> AdaptivePolicy:
    """sign: of the prediction, 1 where it is noise - clean."""
    wide = WideState(own, ["v1", "v2", "v3"])
    shifted = {"v2": wide.form(v1=1.0), "v3": wide.form(v2=1.0)}
    full, line = {"v1": wide.form(e=1.0), **shifted}, wide.form(v1=2.0, v2=-1.0)
    skip = {"v1": wide.form(v1=1.0), **shifted}
    steps = range(own.steps)
    rows = {
        "full": np.array([wide.row(step, full) for step in steps])[:, None],
        "skip": np.array([wide.row(step, skip, line) for step in steps])[:, None],
    }
    of_full, one = wide.signal(after={"v1": -sign, "v2": 2 * sign, "v3": -sign}), wide.signal(constant=1.0)
    signals = {
        name: np.tile(np.array(forms, np.float32), (own.steps, 1, 1, 1, 1))
        for name, forms in {"full": (of_full, one), "skip": (wide.signal(), one)}.items()
    }
    return AdaptivePolicy(
        weights.name, own, wide.size, rows, signals, _rules(own.steps, _MULTISTEP_OF_FLOWS, 1), (False,),
        max_run=_MAX_RUN,
    )  # fmt: skip


def _rules(steps: int, multistep: float, last_action: int) -> tuple[Rule, ...]:
    first, last = max(round(_FIRST * steps), _LEAST_FIRST), min(round(_LAST * steps), steps - _COMPUTED_LAST - 1)
    middle = round(multistep * steps / _PERIOD) * _PERIOD
    return tuple(
        Rule(1, False, 0.0) if first <= step < middle
        else Rule(last_action, True, 0.0) if middle <= step < last and step % _PERIOD
        else COMPUTE
        for step in range(steps - 1)
    )  # fmt: skip


def _derivative(wide: WideState, levels: Levels, step: int, beta: float, prediction: str) -> Form:
    """dx/dt for one training step, with x in variance-preserving scale."""
    sigma = levels.sigma[step]
    if levels.kind == "epsilon":
        return wide.form(**{"x": -0.5 * beta * levels.scale[step], prediction: 0.5 * beta / sigma})
    return wide.form(**{prediction: 0.5 * beta * levels.alpha[step] / sigma})


def _stepwise(wide: WideState, levels: Levels, step: int) -> Form:
    """The prediction that gives, with x, the clean sample of the last prediction and the estimate xh."""
    sigma, scale = levels.sigma[step], levels.scale[step]
    if levels.kind == "epsilon":
        return wide.form(e1=1.0, x=scale / sigma, xh=-1.0 / sigma)
    if wide.own.name.startswith("euler"):  # the released Euler solver takes x itself for xh here
        return wide.form(e1=1.0)
    return wide.form(e1=1.0, x=levels.alpha[step] * scale / sigma, xh=-levels.alpha[step] / sigma)


def _multistep(wide: WideState, levels: Levels, step: int, known: Sequence[int]) -> Form:
    """The prediction that gives, with x, the polynomial through the nodes; the last prediction where there are none."""
    if not known:
        return wide.form(e1=1.0)
    alpha, sigma, scale = levels.alpha[step], levels.sigma[step], levels.scale[step]
    is_noise = levels.kind == "epsilon"
    of_x, of_clean = (scale / sigma, -alpha / sigma) if is_noise else (alpha * scale / sigma, -1 / sigma)
    weights = lagrange_weights(step, known)
    return wide.form(x=of_x, **{f"node{k}": of_clean * weight for k, weight in enumerate(weights)})


def _shifted(
    wide: WideState, levels: Levels, step: int, nodes: Sequence[str], prediction: Form | None
) -> dict[str, Form]:
    """The clean sample of this step becomes the latest node."""
    alpha, sigma, scale = levels.alpha[step], levels.sigma[step], levels.scale[step]
    of_x, of_e = (scale / alpha, -sigma / alpha) if levels.kind == "epsilon" else (alpha * scale, -sigma)
    clean = wide.form(x=of_x) + of_e * (wide.form(e=1.0) if prediction is None else prediction)
    return {nodes[0]: clean, **{name: wide.form(**{before: 1.0}) for before, name in pairwise(nodes)}}


def _length(own: SamplerTable, step: int) -> float:
    """Training steps from this step to the next."""
    following = own.timesteps[step + 1] if step + 1 < own.steps else 0.0
    return math.fabs(own.timesteps[step] - following)

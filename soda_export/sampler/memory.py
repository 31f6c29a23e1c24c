"""A sampler that remembers predictions: what a fitted schedule corrects by, and what a skipped step goes on from.

The state has tensors at its end for the guided predictions of steps that computed a new one, latest first. Where every
step calls the model, the latest is at hand, so they are those of the computations before it. Where steps are skipped
the latest stands first, and a skipped step puts a sum of them, its *fill*, in the place of a prediction:

    e* = sum of fill[k] * remembered[k],    z' = A z + b e*,

which is again linear in the state, so the model's output has no weight there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import PlanError
from .table import SamplerTable

MEMORY = 2
"""Earlier predictions that a step may use: of the computations before the latest one."""
MOST_STATE = 16
"""Tensors of a bundle's state."""
Fill = Callable[[int, int], tuple[float, ...]]
"""(how many steps in a row are skipped, this one included, how many predictions are known) -> weights of the remembered
predictions, latest first."""


def remembered(skips: Sequence[bool]) -> int:
    """How many predictions the state of such a schedule has."""
    return MEMORY + any(skips)


def hold(run: int, known: int) -> tuple[float, ...]:
    """The latest prediction as it is."""
    return (1.0,)


def with_memory(own: SamplerTable, renews: Sequence[bool], skips: Sequence[bool], fill: Fill = hold) -> SamplerTable:
    """The sampler over a state that remembers predictions. renews: for each step, whether its prediction is a new one.
    skips: whether it does not call the model. Raises PlanError where steps cannot be skipped."""
    check_skips(own, skips)
    n, m = own.state_size, own.state_size + remembered(skips)
    wide = own.widened(m)
    rows, run, known = wide.coefficients.copy(), 0, 0
    for step, row in enumerate(rows):
        a, b = row[1 : 1 + m * m].reshape(m, m), row[1 + m * m : 1 + m * m + m]
        a[n:, n:] = np.eye(m - n)
        if skips[step]:
            run += 1
            weights = fill(run, known)
            a[:n, n : n + len(weights)] += np.outer(b[:n], weights)
            b[:n] = 0.0
            continue
        run, known = 0, known + renews[step]
        # before a new prediction takes the place of the one at hand; of skipped steps none is at hand
        if renews[step] if any(skips) else step + 1 < len(renews) and renews[step + 1]:
            b[n] = 1.0
            a[n:, n:] = np.eye(m - n, k=-1)
    return wide.with_coefficients(rows)


def can_skip(own: SamplerTable) -> bool:
    """Whether this sampler can take steps that do not call the model."""
    try:
        check_skips(own, (False, True))
    except PlanError:
        return False
    return True


def check_fills(table: SamplerTable, skips: Sequence[bool]) -> None:
    """Refuse coefficients that give the model's output a weight where the model is not called. Raises PlanError."""
    n = table.state_size
    asked = np.array(skips) & table.coefficients[:, 1 + n * n : 1 + n * n + n].any(axis=1)
    if asked.any():
        raise PlanError(f"step {asked.argmax()}: skip: its coefficients give the prediction a weight, there is none")


def check_skips(own: SamplerTable, skips: Sequence[bool], tensors: int = MEMORY + 1) -> None:
    """Refuse a schedule whose skipped steps this sampler cannot take. tensors: what they need in the state. Raises
    PlanError."""
    if not any(skips):
        return
    first = list(skips).index(True)
    if not first:
        raise PlanError("step 0: skip: nothing has been predicted yet; the first step must compute everything")
    if own.learned_variance:
        raise PlanError(
            f"step {first}: skip: {own.name} takes the size of its noise from the model; choose another --sampler, "
            "e.g. ddim"
        )
    if own.state_size + tensors > MOST_STATE:
        raise PlanError(
            f"step {first}: skip: {own.name} would have a state of {own.state_size + tensors} tensors, more than "
            f"{MOST_STATE}; choose another --sampler, e.g. dpm-solver++"
        )

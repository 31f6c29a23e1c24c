"""Misfit: skip while what skipped steps go by was close to the model's prediction where both were last known.

A skipped step j, the r-th in a row, takes c1 e1 + c2 e2 + cx x for a prediction: of the last two computed predictions
and the latents, with weights of its own for every j, r, and distance g of those two computed steps. A computed step
finds out how far that would have been off, and the next steps are skipped while

    |e - (c1 e1 + c2 e2 + cx x)|^2 / |e|^2 * w^2 * ((r + 1) / d)^2  <=  threshold,

where d is the distance of the two latest computed steps, r how many have been skipped since, and w what an error at the
step weighs in the final sample. The weights come from calibration (search/gate.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from soda_runtime.policy import Rule

from ..sampler import SamplerTable
from .adaptive import COMPUTE, AdaptivePolicy
from .forms import WideState

MAX_RUN, GAP = 6, 7
EARLIEST = 2
"""The first step that may be skipped: two predictions are known before it."""


def variant_of(gap: int, run: int) -> int:
    """Where the row is of a step before which `run` were skipped, the two computed before those `gap` apart."""
    return (gap - 1) * (MAX_RUN + 1) + run


def make_misfit(
    own: SamplerTable, fills: NDArray[np.float64], weights: NDArray[np.float64], threshold: float,
    rows: Mapping[str, NDArray[np.float32]] | None = None, calls: float = 0.0,
) -> AdaptivePolicy:  # fmt: skip
    """fills: [S, variants, 3], (c1, c2, cx). weights: [S], w of a prediction's error at each step. rows: fitted ones,
    in place of those that the fills make."""
    wide = WideState(own, ["e1", "e2"])
    made: dict[str, list[list[NDArray[np.float32]]]] = {"full": [], "skip": []}
    signals = []
    for step in range(own.steps):
        full = wide.row(step, {"e1": wide.form(e=1.0), "e2": wide.form(e1=1.0)})
        made["full"].append([full] * len(fills[step]))
        made["skip"].append([wide.row(step, {}, wide.form(e1=c1, e2=c2, x=cx)) for c1, c2, cx in fills[step]])
        forms = []
        for variant, (c1, c2, cx) in enumerate(fills[step]):
            size = weights[step] / (variant % (MAX_RUN + 1) + 1)
            misfit = size * wide.signal(before={"e1": -c1, "e2": -c2, "x": -cx}, after={"e1": 1.0})
            forms.append([(misfit, misfit), (wide.signal(after={"e1": 1.0}),) * 2])
        signals.append(forms)
    tables = {name: np.array(table, np.float32) for name, table in made.items()}
    tests = range(EARLIEST - 1, own.steps - 2)  # the last step computes
    rules = tuple(Rule(1, False, threshold) if step in tests else COMPUTE for step in range(own.steps - 1))
    return AdaptivePolicy(
        "misfit", own, wide.size, rows or tables, {"full": np.array(signals, np.float32)}, rules, (True, True), power=2,
        max_run=MAX_RUN, gap=GAP, calls=calls,
    )  # fmt: skip

"""Misfit: skip while what skipped steps go by was close to the model's prediction where both were last known.

A skipped step j, the r-th in a row, takes c1 e1 + c2 e2 + cx x for a prediction: of the last two computed predictions
and the latents, with weights of its own for every j, r, and distance g of those two computed steps. A computed step
finds out how far that would have been off, |e - (c1 e1 + c2 e2 + cx x)|^2 / |e|^2. On calibration samples this misfit
has a mean M for every j, g and r, so that what was found at step i, with g and r, says what to expect of step j:

    found * M(j, g', r') / M(i, g, r) * (2 r' - 1)  <=  threshold(j),

where r' = 1 for the first skip of a row: errors of skips in a row add up, so that the r'-th adds 2 r' - 1 times its own
square. threshold(j) is one number over what an error at step j weighs in the final sample. All of these come from
calibration (search/gate.py); what a sample finds is what differs between samples.
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
    own: SamplerTable, fills: NDArray[np.float64], misfits: NDArray[np.float64], thresholds: NDArray[np.float64],
    rows: Mapping[str, NDArray[np.float32]] | None = None, calls: float = 0.0,
) -> AdaptivePolicy:  # fmt: skip
    """fills: [S, variants, 3], (c1, c2, cx). misfits: [S, variants], M, above 0. thresholds: [S], of the misfit that is
    expected of a step, for it to be skipped. rows: fitted ones, in place of those that the fills make."""
    wide, last = WideState(own, ["e1", "e2"]), own.steps - 1
    made: dict[str, list[list[NDArray[np.float32]]]] = {"full": [], "skip": []}
    signals: dict[str, list[list[object]]] = {"full": [], "skip": []}
    one, nothing, e1 = wide.signal(constant=1.0), wide.signal(), wide.signal(after={"e1": 1.0})
    for step in range(own.steps):
        full = wide.row(step, {"e1": wide.form(e=1.0), "e2": wide.form(e1=1.0)})
        made["full"].append([full] * len(fills[step]))
        made["skip"].append([wide.row(step, {}, wide.form(e1=c1, e2=c2, x=cx)) for c1, c2, cx in fills[step]])
        after: dict[str, list[object]] = {"full": [], "skip": []}
        following = min(step + 1, last)
        for variant, (c1, c2, cx) in enumerate(fills[step]):
            gap, run = variant // (MAX_RUN + 1) + 1, variant % (MAX_RUN + 1)
            misfit = wide.signal(before={"e1": -c1, "e2": -c2, "x": -cx}, after={"e1": 1.0})
            growth = misfits[following, variant_of(min(run + 1, GAP), 0)] / misfits[step, variant]
            after["full"].append([(misfit, misfit), (e1, e1), (wide.signal(constant=growth), one), (one, one)])
            first = misfits[max(0, step - run), variant_of(gap, 0)]
            more = min(run + 1, MAX_RUN)
            shrinks = first / (misfits[following, variant_of(gap, more)] * (2 * more + 1))
            after["skip"].append([(nothing, one)] * 3 + [(wide.signal(constant=shrinks), one)])
        for action, forms in after.items():
            signals[action].append(forms)
    tables = {name: np.array(table, np.float32) for name, table in made.items()}
    tests = range(EARLIEST - 1, own.steps - 2)  # the last step computes
    rules = tuple(Rule(1, False, float(thresholds[i + 1])) if i in tests else COMPUTE for i in range(own.steps - 1))
    return AdaptivePolicy(
        "misfit", own, wide.size, rows or tables,
        {name: np.array(forms, np.float32) for name, forms in signals.items()}, rules, (True, True, True, False),
        max_run=MAX_RUN, gap=GAP, calls=calls,
    )  # fmt: skip

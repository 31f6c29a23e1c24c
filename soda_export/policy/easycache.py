"""EasyCache (arXiv 2507.02860): skip while an accumulated estimate of the prediction's relative change stays small.

At a computed step i after the computed step k the model's gain is G = |e_i - e_k| / |u_i - u_k|, u its input. Before
each following step j the estimate grows by G |u_j - u_{j-1}| / |e_i|, and step j is skipped while the sum is at most a
threshold, up to 16 in a row; it takes u_j + (e_i - u_i) for a prediction. The first steps and the last are computed.
Norms here are root mean squares of the guided prediction, where the released code has mean absolute values of each
guidance branch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from soda_runtime.policy import MOST_RUN, Rule

from ..sampler import SamplerTable
from .adaptive import COMPUTE, AdaptivePolicy
from .forms import WideState

_FIRST = 5  # computed steps at the beginning, of the 50 that the published settings have


def make_easycache(own: SamplerTable, threshold: float) -> AdaptivePolicy:
    """threshold: of the accumulated relative change; 0.025 as published for HunyuanVideo."""
    wide = WideState(own, ["e1", "u1"])
    rows: dict[str, list[NDArray[np.float32]]] = {"full": [], "skip": []}
    signals = []
    for step in range(own.steps):
        scale = wide.scale(step)
        rows["full"].append(wide.row(step, {"e1": wide.form(e=1.0), "u1": wide.form(x=scale)}))
        rows["skip"].append(wide.row(step, {}, wide.form(x=scale, e1=1.0, u1=-1.0)))
        later = wide.scale(min(step + 1, own.steps - 1))
        forms = (
            wide.signal(before={"e1": -1.0}, after={"e1": 1.0}), wide.signal(before={"u1": -1.0}, after={"u1": 1.0}),
            wide.signal(before={"x": -scale}, after={"x": later}), wide.signal(after={"e1": 1.0}),
        )  # fmt: skip
        signals.append([(form, form) for form in forms])
    first = max(2, round(_FIRST * own.steps / 50))
    tests = range(first - 1, own.steps - 2)
    rules = tuple(Rule(1, False, threshold) if step in tests else COMPUTE for step in range(own.steps - 1))
    return AdaptivePolicy(
        "easycache", own, wide.size, {name: np.array(table)[:, None] for name, table in rows.items()},
        {"full": np.array(signals, np.float32)[:, None]}, rules, (True, True, False, False), root=True, accumulate=True,
        max_run=MOST_RUN,
    )  # fmt: skip

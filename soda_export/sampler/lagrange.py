"""Skipped steps that extrapolate the clean sample: SADA's multistep half (arXiv 2507.17135, and its released code).

The state's last tensors are *nodes*: what the computed steps i with i % 4 == 1 took for the clean sample, latest
first. A skipped step j puts the polynomial through the nodes in its place,

    x0* = sum_q w_q node_q,    w_q = prod_{r != q} (j - t_r) / (t_q - t_r),    t the steps of the nodes,

and the prediction that belongs to x0* and the state. With x = signal x0 + share noise, which starts.py probes, both are
linear in the state and the prediction, so they are rows of the table as all else is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import PlanError
from .levels import clean_sample, levels_of
from .memory import check_skips
from .table import SamplerTable

NODES, PERIOD = 4, 4


def with_nodes(own: SamplerTable, config: dict[str, Any], skips: Sequence[bool], eta: float = 0.0) -> SamplerTable:
    """The sampler with nodes in its state and fills for the skipped steps. config: of the model's scheduler. eta: as in
    freeze_sampler. Raises PlanError where this sampler has no clean sample to go by."""
    check_skips(own, skips, NODES)
    levels = levels_of(own, config, "--planner sada-static", eta)
    n, m = own.state_size, own.state_size + NODES
    known: list[int] = []  # steps of the nodes, latest first
    wide = own.widened(m)
    rows = wide.coefficients.copy()
    for step, row in enumerate(rows):
        a, b = row[1 : 1 + m * m].reshape(m, m), row[1 + m * m : 1 + m * m + m]
        a[n:, n:] = np.eye(NODES)
        shares = clean_sample(levels, step)
        if shares is None:
            raise PlanError(
                f"--planner sada-static: knows no clean sample of prediction_type {levels.kind!r:.40}; use zeus"
            )
        of_x, of_prediction = shares
        x_of, clean_of = -of_x / of_prediction, 1 / of_prediction
        if skips[step]:
            fill = np.zeros(m)
            fill[0] = x_of
            fill[n : n + len(known)] = [clean_of * weight for weight in lagrange_weights(step, known)]
            a[:n] += np.outer(b[:n], fill)
            b[:n] = 0.0
        elif step % PERIOD == 1:
            known = [step, *known[: NODES - 1]]
            a[n:, n:] = np.eye(NODES, k=-1)
            a[n, 0], b[n] = of_x, of_prediction
    return wide.with_coefficients(rows)


def lagrange_weights(step: int, nodes: Sequence[int]) -> list[float]:
    """Weights of the values at `nodes` in that of the polynomial through them at `step`. Without nodes, none."""
    return [math.prod((step - r) / (q - r) for r in nodes if r != q) for q in nodes]

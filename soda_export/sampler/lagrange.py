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
from .levels import Levels, levels_of
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
        of_x, of_prediction, x_of, clean_of = _clean_sample(levels, step)
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


def _clean_sample(levels: Levels, step: int) -> tuple[float, float, float, float]:
    """(p, q, u, v): the clean sample is p x + q prediction, the prediction u x + v clean sample."""
    alpha, sigma, scale = levels.alpha[step], levels.sigma[step], levels.scale[step]
    if levels.kind == "epsilon":
        return scale / alpha, -sigma / alpha, scale / sigma, -alpha / sigma
    if levels.kind == "sample":
        return 0.0, 1.0, 0.0, 1.0
    if levels.kind == "flow_prediction":  # noise - clean
        return 1.0, -sigma, 1 / sigma, -1 / sigma
    if levels.kind == "rflow_prediction":  # clean - noise
        return 1.0, sigma, -1 / sigma, 1 / sigma
    if levels.kind == "v_prediction":  # alpha noise - sigma clean
        return alpha * scale, -sigma, alpha * scale / sigma, -1 / sigma
    raise PlanError(f"--planner sada-static: knows no clean sample of prediction_type {levels.kind!r:.40}; use zeus")

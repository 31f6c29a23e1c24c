"""Plans for the toy models of tiny_models.py, as grids: [S, L, M] tokens that each module of a layer computes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from soda_export.models.decisions import COMPUTE
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import STACK, ModelSpec
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule
from tests.tiny_models import CLASSES, LAYERS, TOKENS, save_tiny_model, save_tiny_pixart

__all__ = ["CLASSES", "LAYERS", "TOKENS", "save_tiny_model", "save_tiny_pixart"]
BLOCKS_RUN = -1


class Grid(NamedTuple):
    """kept: [S, L, M] tokens that each module computes, all of them = everything; 0, -1, -2: reused, forecast. stack:
    [S] order at which all blocks are skipped, BLOCKS_RUN where they are not."""

    kept: NDArray[np.int64]
    stack: NDArray[np.int64]


def schedule_of(spec: ModelSpec, kept: NDArray[np.int64], stack: NDArray[np.int64] | None = None) -> Schedule:
    """A grid as a schedule of a model whose every layer has the same kinds of sites."""
    work = Schedule.full(spec, len(kept)).work
    kinds = [kind for kind in spec.kinds if kind != STACK]
    for m, kind in enumerate(kinds):
        for layer, k in enumerate(spec.kinds[kind]):
            work[:, k] = np.where(kept[:, layer, m] == spec.sites[k].outputs[0][0], COMPUTE, kept[:, layer, m])
    if stack is not None:
        skipped = stack != BLOCKS_RUN
        work[skipped] = COMPUTE
        work[skipped, spec.stack] = -stack[skipped]
    return Schedule.of(spec, work)


def make_plan(
    spec: ModelSpec, kept: NDArray[np.int64], sampler: str = "ddim", eta: float = 0.0, guidance: float = 1.5,
    guided_channels: int = 0, stack: NDArray[np.int64] | None = None,
) -> Plan:  # fmt: skip
    """A hand-made plan of a grid."""
    identity = SamplerIdentity(sampler, len(kept), eta, guided_channels)
    return Plan(identify(spec), identity, guidance, schedule_of(spec, kept, stack))


def mixed_kept(layers: int = LAYERS, tokens: int = TOKENS, modules: int = 2) -> NDArray[np.int64]:
    """Eight steps: full, reuse, prune all but attention, again more of it, reuse, full, attention pruned, full."""
    kept = np.full((8, layers, modules), tokens, np.int64)
    kept[[1, 2, 3, 4, 6]] = 0
    kept[2, :, 1:] = tokens // 4
    kept[3, :, 1:] = tokens // 2
    kept[6, :, 0] = tokens // 2
    return kept


def forecasting_schedule(layers: int = LAYERS, tokens: int = TOKENS, modules: int = 2) -> Grid:
    """Ten steps: full, full, forecast of order 1, all blocks skipped, full, forecast of order 2 beside pruned modules,
    blocks skipped at order 1, half of a step computed, blocks skipped at order 2, full."""
    kept = np.full((10, layers, modules), tokens, np.int64)
    stack = np.full(10, BLOCKS_RUN, np.int64)
    kept[2] = -1
    kept[5], kept[5, :, 1:] = -2, tokens // 4
    kept[7, layers // 2 :] = -2
    stack[[3, 6, 8]] = [0, 1, 2]
    kept[stack != BLOCKS_RUN] = 0
    return Grid(kept, stack)

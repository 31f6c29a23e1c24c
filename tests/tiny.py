"""Plans for the toy models of tiny_models.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import DenoiserSpec
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import BLOCKS_RUN, Schedule
from tests.tiny_models import CLASSES, LAYERS, TOKENS, save_tiny_model, save_tiny_pixart

__all__ = ["CLASSES", "LAYERS", "TOKENS", "save_tiny_model", "save_tiny_pixart"]


def make_plan(
    spec: DenoiserSpec, kept: NDArray[np.int64], sampler: str = "ddim", eta: float = 0.0, guidance: float = 1.5,
    guided_channels: int = 0, stack: NDArray[np.int64] | None = None,
) -> Plan:  # fmt: skip
    """A hand-made plan for kept tokens [S, L, M]; stack: as in a Schedule, default: the blocks always run."""
    schedule = Schedule.of(kept) if stack is None else Schedule(kept, stack)
    return Plan(identify(spec), SamplerIdentity(sampler, len(kept), eta, guided_channels), guidance, schedule)


def mixed_kept(layers: int = LAYERS, tokens: int = TOKENS, modules: int = 2) -> NDArray[np.int64]:
    """Eight steps: full, reuse, prune all but attention, again more of it, reuse, full, attention pruned, full."""
    kept = np.full((8, layers, modules), tokens, np.int64)
    kept[[1, 2, 3, 4, 6]] = 0
    kept[2, :, 1:] = tokens // 4
    kept[3, :, 1:] = tokens // 2
    kept[6, :, 0] = tokens // 2
    return kept


def forecasting_schedule(layers: int = LAYERS, tokens: int = TOKENS, modules: int = 2) -> Schedule:
    """Ten steps: full, full, forecast of order 1, all blocks skipped, full, forecast of order 2 beside pruned modules,
    blocks skipped at order 1, half of a step computed, blocks skipped at order 2, full."""
    kept = np.full((10, layers, modules), tokens, np.int64)
    stack = np.full(10, BLOCKS_RUN, np.int64)
    kept[2] = -1
    kept[5], kept[5, :, 1:] = -2, tokens // 4
    kept[7, layers // 2 :] = -2
    stack[[3, 6, 8]] = [0, 1, 2]
    kept[stack != BLOCKS_RUN] = 0
    return Schedule(kept, stack)

"""The sensitivity map: what reusing or pruning each (step, layer, module) would change. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import PlanError
from ..models.identity import ModelIdentity, SamplerIdentity, TokenScore

FORMAT, VERSION = "soda-map", 2
MAX_INTERVAL = 9
RATES = tuple(i / 8 for i in range(1, 8))  # share of tokens pruned, at which the prune error is measured
Metric = Literal["cosine", "l1", "l2"]


class MapInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured, and how: two maps with equal info hold equal numbers."""

    format: str
    version: int
    model: ModelIdentity
    sampler: SamplerIdentity
    guidance: float
    samples: int
    seed: int
    metric: Metric
    token_score: TokenScore


@dataclass(frozen=True, eq=False)
class SensitivityMap:
    """Means and spreads (standard deviations over samples); NaN where no value that old exists yet.

    reuse_error, reuse_spread: [S, L, M, I], last axis = interval 1..9. Error of reusing the output computed that
    many steps before (SODA's E_c).
    prune_error, prune_spread: [S, L, M, I, P], last axis = RATES. Error of computing only the best tokens (E_p).
    hidden_error: [S, I], reuse error of the last block's output (CEM's prior).
    stability: [I], rank correlation of the reuse errors of two disjoint halves of the samples, within each interval;
    NaN where there was one sample, or too few steps.
    """

    info: MapInfo
    reuse_error: NDArray[np.float32]
    reuse_spread: NDArray[np.float32]
    prune_error: NDArray[np.float32]
    prune_spread: NDArray[np.float32]
    hidden_error: NDArray[np.float32]
    stability: NDArray[np.float32] = field(default_factory=lambda: np.full(MAX_INTERVAL, np.nan, np.float32))

    def mean_reuse_error(self) -> NDArray[np.float64]:
        """Mean over layers and modules, [S, I], zero where undefined."""
        mean: NDArray[np.float64] = np.nan_to_num(self.reuse_error.astype(np.float64).mean(axis=(1, 2)))
        return mean

    def relative_standard_error(self) -> float:
        """Median of (spread / sqrt(samples)) / mean of the reuse errors: how far the map can be trusted."""
        mean, spread = self.reuse_error, self.reuse_spread
        valid = np.isfinite(mean) & (mean > 0)
        if not valid.any():
            return 0.0
        return float(np.median(spread[valid] / np.sqrt(self.info.samples) / mean[valid]))


def half_agreement(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rank correlation of two maps [S, L, M, I] within each interval: [I].

    Over all places at once it would be high for any two maps, since errors grow with the interval.
    """
    found = np.full(a.shape[-1], np.nan)
    for i in range(a.shape[-1]):
        x, y = a[i + 1 :, :, :, i].ravel(), b[i + 1 :, :, :, i].ravel()  # before, no value is that old
        if x.size > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
            found[i] = np.corrcoef(_ranks(x), _ranks(y))[0, 1]
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def map_bytes(sensitivity: SensitivityMap) -> bytes:
    """The map as a safetensors file, with its info as JSON under the metadata key `info`."""
    names = ("reuse_error", "reuse_spread", "prune_error", "prune_spread", "hidden_error", "stability")
    arrays = {name: np.ascontiguousarray(getattr(sensitivity, name), np.float32) for name in names}
    return bytes(save(arrays, metadata={"info": msgspec.json.encode(sensitivity.info).decode()}))


def read_map(path: Path) -> SensitivityMap:
    """Read a map file strictly. Raises PlanError."""
    try:
        with safe_open(str(path), "np") as file:
            info = msgspec.json.decode((file.metadata() or {}).get("info", ""), type=MapInfo)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise PlanError(f"{path}: no such file; `soda-export profile` makes a map") from None
    except (OSError, SafetensorError, msgspec.DecodeError) as error:
        raise PlanError(f"{path}: not a sensitivity map ({error}); make one with `soda-export profile`") from None
    shape = (info.sampler.steps, info.model.num_layers, len(info.model.modules), MAX_INTERVAL)
    shapes = {
        "reuse_error": shape, "reuse_spread": shape, "prune_error": (*shape, len(RATES)),
        "prune_spread": (*shape, len(RATES)), "hidden_error": (shape[0], MAX_INTERVAL), "stability": (MAX_INTERVAL,),
    }  # fmt: skip
    if (info.format, info.version) != (FORMAT, VERSION) or {k: v.shape for k, v in arrays.items()} != shapes:
        raise PlanError(f"{path}: not a version {VERSION} sensitivity map of its own model's size; profile again")
    return SensitivityMap(info, **arrays)

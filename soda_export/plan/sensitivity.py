"""The sensitivity map: what reusing or renewing each site at each step would change. No torch."""

from __future__ import annotations

from collections.abc import Sequence
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
from ..models.spec import STACK
from .plan import MAX_GUIDANCE, check_model

FORMAT, VERSION = "soda-map", 3
MAX_INTERVAL = 9
_MOST_SAMPLES, _MOST_STEPS = 1 << 31, 1000
_ROUNDING = 1e-3  # errors of nothing, computed in float32
RATES = tuple(i / 8 for i in range(1, 8))  # share of tokens pruned, at which the prune error is measured
Metric = Literal["cosine", "l1", "l2"]


class MapInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured, and how: two maps with equal info hold equal numbers. metric: of every site but the stack,
    where it is always cosine. samples: at least 1."""

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

    reuse_error, reuse_spread: [S, K, I], last axis = interval 1..9. Error of reusing the output computed that many
    steps before (SODA's E_c).
    prune_error, prune_spread: [S, K, I, P], last axis = RATES. Error of computing only the best tokens (E_p); NaN for
    sites whose tokens cannot be renewed singly.
    stability: [I], rank correlation of the reuse errors of two disjoint halves of the samples, within each interval;
    NaN where there was one sample, or too few steps.
    """

    info: MapInfo
    reuse_error: NDArray[np.float32]
    reuse_spread: NDArray[np.float32]
    prune_error: NDArray[np.float32]
    prune_spread: NDArray[np.float32]
    stability: NDArray[np.float32] = field(default_factory=lambda: np.full(MAX_INTERVAL, np.nan, np.float32))

    @property
    def hidden_error(self) -> NDArray[np.float32]:
        """Reuse error of the last block's output, [S, I] (CEM's prior). Raises PlanError where there is no stack."""
        if STACK not in self.info.model.kinds:
            raise PlanError(f"{self.info.model.name} has no stack, whose error CEM's cost is; use --cost sum")
        error: NDArray[np.float32] = self.reuse_error[:, self.info.model.kinds[STACK][0]]
        return error

    def mean_reuse_error(self, sites: Sequence[int] = ()) -> NDArray[np.float64]:
        """Mean over these sites, or all but the stack: [S, I], zero where undefined."""
        stack = self.info.model.kinds.get(STACK, ())
        chosen = list(sites) or [k for k in range(self.reuse_error.shape[1]) if k not in stack]
        mean: NDArray[np.float64] = np.nan_to_num(self.reuse_error[:, chosen].astype(np.float64).mean(axis=1))
        return mean

    def relative_standard_error(self) -> float:
        """Median of (spread / sqrt(samples)) / mean of the reuse errors: how far the map can be trusted."""
        mean, spread = self.reuse_error, self.reuse_spread
        valid = np.isfinite(mean) & (mean > 0)
        if not valid.any():
            return 0.0
        return float(np.median(spread[valid] / np.sqrt(self.info.samples) / mean[valid]))


def half_agreement(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rank correlation of two maps [S, K, I] within each interval: [I].

    Over all places at once it would be high for any two maps, since errors grow with the interval.
    """
    found = np.full(a.shape[-1], np.nan)
    for i in range(a.shape[-1]):
        x, y = a[i + 1 :, :, i].ravel(), b[i + 1 :, :, i].ravel()  # before, no value is that old
        if x.size > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
            found[i] = np.corrcoef(_ranks(x), _ranks(y))[0, 1]
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def map_bytes(sensitivity: SensitivityMap) -> bytes:
    """The map as a safetensors file, with its info as JSON under the metadata key `info`."""
    arrays = {name: np.ascontiguousarray(getattr(sensitivity, name), np.float32) for name in _shapes(sensitivity.info)}
    return bytes(save(arrays, metadata={"info": msgspec.json.encode(sensitivity.info).decode()}))


def read_map(path: Path) -> SensitivityMap:
    """Read a map file strictly. Raises PlanError."""
    try:
        with safe_open(str(path), "np") as file:
            text = (file.metadata() or {}).get("info", "")
            _check_version(msgspec.json.decode(text, type=_Head))
            info = msgspec.json.decode(text, type=MapInfo)
            _check_info(info)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise PlanError(f"{path}: no such file; `soda-export profile` makes a map") from None
    except (OSError, SafetensorError, msgspec.DecodeError, RecursionError) as error:
        raise PlanError(f"{path}: not a sensitivity map ({error}); make one with `soda-export profile`") from None
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    wrong = _wrong_with(info, arrays)
    if wrong:
        raise PlanError(f"{path}: {wrong}; profile again")
    return SensitivityMap(info, **arrays)


class _Head(msgspec.Struct):
    format: str
    version: int


def _check_version(head: _Head) -> None:
    if head.format == FORMAT and head.version < VERSION:
        raise PlanError(f"a map of version {head.version}, by layers and modules, is not read any more; profile again")
    if (head.format, head.version) != (FORMAT, VERSION):
        raise PlanError(f"format {head.format!r:.40} version {head.version}, expected {FORMAT!r} version {VERSION}")


def _check_info(info: MapInfo) -> None:
    check_model(info.model)
    for name, value, least, most in (
        ("samples", info.samples, 1, _MOST_SAMPLES), ("seed", info.seed, 0, 2**64 - 1),
        ("sampler.steps", info.sampler.steps, 1, _MOST_STEPS), ("guidance", info.guidance, 0, MAX_GUIDANCE),
    ):  # fmt: skip
        if not least <= value <= most:
            raise PlanError(f"{name} {value:g} is outside {least} .. {most:g}")


def _shapes(info: MapInfo) -> dict[str, tuple[int, ...]]:
    """Shape of each array of the file."""
    reuse = (info.sampler.steps, len(info.model.names), MAX_INTERVAL)
    prune = (*reuse, len(RATES))
    return {
        "reuse_error": reuse, "reuse_spread": reuse, "prune_error": prune, "prune_spread": prune,
        "stability": (MAX_INTERVAL,),
    }  # fmt: skip


def _wrong_with(info: MapInfo, arrays: dict[str, NDArray[np.float32]]) -> str:
    """What keeps the file from being a map, in words; nothing where it is one."""
    shapes = _shapes(info)
    if arrays.keys() != shapes.keys():
        return f"it holds {', '.join(sorted(arrays))}, not {', '.join(sorted(shapes))}"
    for name, array in arrays.items():
        if array.dtype != np.float32:
            return f"{name} is {array.dtype}, not float32"
        if array.shape != shapes[name]:
            return f"{name} is {array.shape}, not {shapes[name]} as its model, steps and intervals have it"
        low, high = (-1.0, 1.0) if name == "stability" else (0.0, float(np.finfo(np.float32).max))
        if np.isinf(array).any() or (array < low - _ROUNDING).any() or (array > high + _ROUNDING).any():
            return f"{name} has numbers outside {low:g} .. {high:g}"
    return ""

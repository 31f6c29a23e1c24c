"""Maps that were not profiled: a bare prior as CEM releases it, and the assumption that every place is alike."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.identity import SamplerIdentity, identify
from ..models.spec import ModelSpec
from .sensitivity import FORMAT, MAX_INTERVAL, RATES, VERSION, MapInfo, SensitivityMap

_ERROR = 0.01  # of reusing what is one step old; only its ratio to others counts


class PriorFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """reuse_error: distance "1".."9" -> one error a step, least noisy step first; 0 = undefined."""

    what: str
    source: str
    reuse_error: dict[str, list[float]]


def read_prior(path: Path, steps: int) -> NDArray[np.float64]:
    """Reuse error [S, I] in execution order (noisiest step first). Raises PlanError."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=PriorFile)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise PlanError(f"{path}: not a prior file ({error})") from None
    distances = range(1, len(file.reuse_error) + 1)
    if not distances or file.reuse_error.keys() != {str(d) for d in distances}:
        raise PlanError(f"{path}: reuse_error needs the distances 1, 2, ... without holes")
    columns = [file.reuse_error[str(d)] for d in distances]
    if any(len(column) != steps for column in columns):
        raise PlanError(f"{path}: has {len(columns[0])} steps, --steps is {steps}; pass --steps {len(columns[0])}")
    errors = np.array(columns, np.float64).T[::-1].copy()
    if not (errors >= 0).all():  # JSON has no infinity, and a number beyond float64 is refused
        raise PlanError(f"{path}: reuse_error must be 0 or more everywhere")
    return errors


def uniform_map(spec: ModelSpec, sampler: SamplerIdentity | str, steps: int, guidance: float) -> SensitivityMap:
    """A map to plan by without profiling: reuse errors grow with distance, equally at every step and site; renewing a
    share of the tokens takes away that share of the error."""
    identity = SamplerIdentity(sampler, steps) if isinstance(sampler, str) else sampler
    known = np.arange(1, MAX_INTERVAL + 1) <= np.arange(steps)[:, None]  # before, no value is that old
    by_distance = np.where(known, _ERROR * np.arange(1, MAX_INTERVAL + 1), np.nan)
    reuse = np.repeat(by_distance[:, None], len(spec.sites), axis=1)  # [S, K, I]
    renewable = np.array([site.tokens > 0 for site in spec.sites])
    prune = np.where(renewable[:, None, None], reuse[..., None] * np.array(RATES), np.nan)
    info = MapInfo(FORMAT, VERSION, identify(spec), identity, guidance, 1, 0, "cosine", "mean")
    arrays = (reuse, 0.0 * reuse, prune, 0.0 * prune)
    return SensitivityMap(info, *(array.astype(np.float32) for array in arrays))

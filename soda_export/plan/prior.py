"""Read a bare prior: the reuse error of a whole model by distance and step, as CEM releases it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError


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
    except msgspec.DecodeError as error:
        raise PlanError(f"{path}: not a prior file ({error})") from None
    distances = range(1, len(file.reuse_error) + 1)
    if not distances or file.reuse_error.keys() != {str(d) for d in distances}:
        raise PlanError(f"{path}: reuse_error needs the distances 1, 2, ... without holes")
    columns = [file.reuse_error[str(d)] for d in distances]
    if any(len(column) != steps for column in columns):
        raise PlanError(f"{path}: has {len(columns[0])} steps, --steps is {steps}; pass --steps {len(columns[0])}")
    return np.array(columns, np.float64).T[::-1].copy()

"""Values that a caller gives into arrays of a port's type, or a refusal that says what is wrong with them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .manifest import EmbeddingPort, HintPort, LabelPort, MaskPort, RequestPort, ScalarPort, TokenMaskPort


def rows_of(values: object, port: RequestPort, name: str) -> NDArray[np.generic]:
    """Values of a port [n, *shape] in its dtype, n at least 1. name: what the caller calls them."""
    if isinstance(port, LabelPort):
        return _classes(values, port.num_classes)
    if isinstance(port, ScalarPort):
        return _scalars(values, port, name)
    array = real_array(values, name) if isinstance(port, (EmbeddingPort, HintPort)) else as_array(values, name)
    if array.ndim != 1 + len(port.shape) or array.shape[1:] != port.shape or len(array) == 0:
        wanted = ", ".join(["samples", *map(str, port.shape)])
        raise RequestError(f"{name} has shape {list(array.shape)}, expected [{wanted}]")
    if isinstance(port, (EmbeddingPort, HintPort)):
        return array
    if isinstance(port, (MaskPort, TokenMaskPort)):
        if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
            raise RequestError(f"{name} is {array.dtype} {list(array.shape)}, expected values of 0 and 1 alone")
    elif array.dtype.kind not in "iu" or (array < 0).any():
        raise RequestError(f"{name}: token ids are whole numbers of 0 and more")
    return np.ascontiguousarray(array, np.int64)


def real_array(values: object, name: str) -> NDArray[np.float32]:
    """A finite float32 array."""
    array = as_array(values, name)
    if array.dtype.kind not in "fiu":
        raise RequestError(f"{name}: not an array of real numbers")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(result).all():
        raise RequestError(f"{name}: has values that are not finite float32 numbers")
    return result


def as_array(values: object, name: str) -> NDArray[Any]:
    """Whatever numpy makes of it."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors of other libraries, out of reach
        raise RequestError(f"{name}: not an array ({' '.join(str(error).split())})") from None


def brief(value: object) -> str:
    """A wrong value for a message, on one line. Python prints no number of thousands of digits."""
    try:
        return " ".join(repr(value).split())[:40]
    except (ValueError, RecursionError):
        return f"({type(value).__name__})"


def _classes(labels: Any, num_classes: int) -> NDArray[np.int64]:
    try:
        listed = [labels] if isinstance(labels, (int, np.integer)) else labels
        classes = [operator.index(label) for label in listed]
    except (TypeError, ValueError):
        raise RequestError(f"labels {brief(labels)}: give a whole number or a sequence of them") from None
    if not classes:
        raise RequestError("no labels; give one label, or one per sample")
    for label in classes:
        if not 0 <= label < num_classes:
            raise RequestError(f"label {brief(label)} is outside 0 .. {num_classes - 1}")
    return np.array(classes, np.int64)


def _scalars(values: object, port: ScalarPort, name: str) -> NDArray[np.float32]:
    array = np.atleast_1d(real_array(values, name))
    if array.ndim != 1 or not array.size:
        raise RequestError(f"{name} has shape {list(array.shape)}, expected a number, or one per sample")
    wrong = array[(array < np.float32(port.least)) | (array > np.float32(port.most))]
    if wrong.size:
        raise RequestError(f"{name}={wrong[0]:g} is outside {port.least:g} .. {port.most:g}")
    return array

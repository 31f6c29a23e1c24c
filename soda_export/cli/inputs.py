"""--input NAME=VALUE: what a request gives a port by name, a number or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from soda_runtime.manifest import HintPort, Manifest, ScalarPort

from ..errors import UsageError, first_line

_MASK = "mask="
_UNREADABLE = (OSError, ValueError, EOFError, BadZipFile)  # what numpy and Pillow have for files of other kinds


def parse_inputs(given: Sequence[str], manifest: Manifest) -> dict[str, Any]:
    """Port -> its value. Raises UsageError."""
    ports = {port.name: port for port in manifest.ports if isinstance(port, (HintPort, ScalarPort))}
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        port = ports.get(name)
        if not equals or port is None or name in found:
            has = ", ".join(ports) or "none"
            what = "given twice" if name in found else "write NAME=VALUE" if not equals else "no such number or picture"
            raise UsageError(f"--input {text}: {what}; this bundle takes {has}")
        found[name] = _number(text, value) if isinstance(port, ScalarPort) else _picture(text, Path(value), port.shape)
    return found


def read_latents(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Latents [n, *shape] of a .npy file, of one sample or several. Raises UsageError."""
    try:
        with path.open("rb") as file:
            values: NDArray[Any] = np.load(file, allow_pickle=False)
    except _UNREADABLE as error:
        raise UsageError(f"--start-latents {path}: cannot be read as .npy ({first_line(error)})") from None
    if not isinstance(values, np.ndarray) or values.shape[-len(shape) :] != shape or values.ndim > len(shape) + 1:
        found = list(values.shape) if isinstance(values, np.ndarray) else "an archive"
        raise UsageError(f"--start-latents {path}: is {found}, this bundle takes {list(shape)}, or one for each sample")
    return values.reshape(-1, *shape)


def _at_latents(mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A mask [1, 1, H, W] of the image's size at that of the latents, by nearest pixels as diffusers' pipelines do."""
    down, rest = divmod(mask.shape[-1], shape[-1])
    return mask[..., ::down, ::down] if down and not rest else mask


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"--input {text}: {value!r} is no number") from None


def _picture(text: str, path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """[1, C, H, W] in 0..1 of a picture, or the array of a .npy file."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                array: NDArray[Any] = np.load(file, allow_pickle=False)
            values = array if array.ndim > len(shape) else array[None]
        else:
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image.convert({1: "L", 3: "RGB"}.get(shape[0], "RGB")), np.float32) / 255
            values = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)[None]
            if text.startswith(_MASK):
                values = _at_latents(values, shape)
    except _UNREADABLE as error:
        raise UsageError(f"--input {text}: cannot be read as a picture or .npy ({first_line(error)})") from None
    if values.shape[1:] != shape:
        raise UsageError(f"--input {text}: is {list(values.shape[1:])}, this bundle takes {list(shape)}")
    return np.ascontiguousarray(values, np.float32)

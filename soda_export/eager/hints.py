"""Hints: pictures that ControlNets take, those of a folder or noise; regions that models for inpainting draw in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, first_line
from ..models.spec import MASK, MASKED_LATENTS, ModelSpec, Port
from .conditions import Conditions, Rows, own_conditions, random_texts

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class HintPort(Protocol):
    """What is asked of a port: its name, and its picture's shape (C, H, W)."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


AnyHint = TypeVar("AnyHint", bound=HintPort)


def hint_ports(spec: ModelSpec) -> tuple[Port, ...]:
    """Ports that take a picture, one a ControlNet, or a mask and masked latents."""
    return tuple(port for port in spec.ports if port.kind == "hint")


def picture_ports(ports: Sequence[AnyHint]) -> tuple[AnyHint, ...]:
    """Those of them that are ControlNets'."""
    return tuple(port for port in ports if port.name not in (MASK, MASKED_LATENTS))


def hint_files(folder: Path, ports: Sequence[HintPort]) -> dict[str, list[Path]]:
    """Port -> the pictures of the folder in the order of their names; where there are several ports, of the folder in
    it that has the port's name. Raises UsageError."""
    found = {}
    for port in ports:
        place = folder if len(ports) == 1 else folder / port.name
        files = sorted(file for file in place.glob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise UsageError(f"--hints {folder}: {place} has no pictures ({', '.join(SUFFIXES)})")
        found[port.name] = files
    return found


def read_hints(folder: Path, ports: Sequence[HintPort]) -> Rows:
    """Of ports of pictures: [n, C, H, W] in 0..1 each. Raises UsageError, also where one has another size."""
    files = hint_files(folder, ports)
    return {port.name: torch.stack([_read(path, port.shape) for path in files[port.name]]) for port in ports}


def noise_hints(ports: Sequence[HintPort], count: int, seed: int) -> Rows:
    """For models whose weights are random, too: pictures of noise, squares to draw in, and latents of noise around
    these: [count, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    return {port.name: _noise_hint(port, count, generator) for port in ports}


def random_conditions(spec: ModelSpec, count: int, seed: int, scalars: Mapping[str, float] | None = None) -> Conditions:
    """All that a model takes, for where its meaning does not matter: random texts and hints of noise, `count` each."""
    hints = Conditions(noise_hints(hint_ports(spec), count, seed), {})
    return own_conditions(spec, scalars) | random_texts(spec, count, seed) | hints


def _noise_hint(port: HintPort, count: int, generator: torch.Generator) -> Tensor:
    if port.name not in (MASK, MASKED_LATENTS):
        return torch.rand((count, *port.shape), generator=generator)
    squares = torch.zeros(count, *port.shape)
    half = port.shape[-1] // 2
    for i in range(count):
        top, left = (7 * i) % (half + 1), (11 * i + half // 2) % (half + 1)
        squares[i, :, top : top + half, left : left + half] = 1.0
    return squares if port.name == MASK else (1 - squares) * torch.randn(squares.shape, generator=generator)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor:
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32) / 255
    except (OSError, ValueError) as error:
        raise UsageError(f"--hints {path}: cannot be read as a picture ({first_line(error)})") from None
    if pixels.shape[:2] != (height, width):
        raise UsageError(f"--hints {path}: is {image.width} x {image.height}, the model takes {width} x {height}")
    return torch.from_numpy(pixels.reshape(height, width, -1).transpose(2, 0, 1).copy())

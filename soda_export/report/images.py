"""Generated images as picture files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UsageError

_NOT_TINY = 64  # pixels; a picture of this width needs no enlarging


def to_pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[B, H, W, 1 or 3] in 0..1 -> [B, H, W, 3] in 0..255."""
    pixels = np.clip(np.round(images * 255.0), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


def save_images(images: NDArray[np.float32], file: IO[bytes]) -> None:
    """Write images [B, H, W, 1 or 3] in 0..1 as one PNG, as `make_sheet` lays them out."""
    Image.fromarray(make_sheet(images)).save(file, format="PNG")


def make_sheet(images: NDArray[np.float32], columns: int = 8, side: int = 96) -> NDArray[np.uint8]:
    """Images [B, H, W, 1 or 3] in 0..1 as one picture [height, width, 3]: one as it is if it is not tiny, else a sheet,
    `columns` in a row, tiny ones enlarged to about `side` pixels."""
    if images.shape[3] not in (1, 3):
        raise UsageError(f"{images.shape[3]} channels are no picture; name a .npy file with --out instead")
    tiles = to_pixels(images)
    scale = max(1, side // tiles.shape[2])
    if len(tiles) == 1 and tiles.shape[2] >= _NOT_TINY:
        single: NDArray[np.uint8] = tiles[0]
        return single
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = tiles.shape[1] * scale, tiles.shape[2] * scale
    gap = max(2, scale // 2)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = np.kron(tile, np.ones((scale, scale, 1), np.uint8))
    return sheet


def save_comparison(samples: Mapping[str, NDArray[np.float32]], path: Path, columns: int = 10) -> None:
    """Write several sets of the same samples side by side, each under its title."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    count = len(next(iter(samples.values())))
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, panels = plt.subplots(1, len(samples), figsize=(0.55 * columns * len(samples), 0.55 * rows + 0.6))
    for panel, (title, images) in zip(np.atleast_1d(panels), samples.items(), strict=True):
        tiles = to_pixels(images)
        height, width = tiles.shape[1] + 1, tiles.shape[2] + 1
        sheet = np.full((rows * height + 1, columns * width + 1, 3), 255, np.uint8)
        for i, tile in enumerate(tiles):
            top, left = 1 + i // columns * height, 1 + i % columns * width
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        panel.imshow(sheet, interpolation="nearest")
        panel.set_title(title, fontsize=10)
        panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)

"""Pixels as the base64 text of a PNG file."""

from __future__ import annotations

import base64
import io

from .merge import Pixels


def png_base64(pixels: Pixels) -> str:
    """pixels: [H, W, 1 or 3] in 0..255."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")

"""Bundles behind diffusers' interfaces: a whole pipeline, or the denoiser inside an unmodified one."""

from __future__ import annotations

from .pipeline import SodaPipeline
from .transformer import SodaTransformer

__all__ = ["SodaPipeline", "SodaTransformer"]

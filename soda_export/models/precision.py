"""Numeric precision of a bundle's weights, activations and cache. No torch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "fp16", "bf16"]
"""Norms, softmax and the sampler's arithmetic stay in fp32 whatever is chosen."""

VALUE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}

"""Numeric precision of a bundle's weights, activations and cache. No torch."""

from __future__ import annotations

from typing import Literal

Compute = Literal["fp32", "fp16", "bf16"]
"""What activations and the cache are in. Norms, softmax and the sampler's arithmetic stay in fp32 in any case."""

Precision = Literal["fp32", "fp16", "bf16", "int8-weights"]
"""int8-weights: the layers' matrices in int8 with a scale for each output channel, the rest in bf16."""

COMPUTE: dict[Precision, Compute] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8-weights": "bf16"}
VALUE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}

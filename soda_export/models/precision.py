"""Numeric precision of a bundle's weights, activations and cache. No torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

Compute = Literal["fp32", "fp16", "bf16"]
"""What activations and the cache are in. Norms, softmax and the sampler's arithmetic stay in fp32 in any case."""

Precision = Literal["fp32", "fp16", "bf16", "int8-weights", "int8"]
"""int8-weights: the layers' matrices in int8 with a scale for each output channel, the rest in bf16. int8: what these
matrices are multiplied with is int8, too, with a scale for each token; on ONNX Runtime the rest is in fp32."""

VALUE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


class Numbers(NamedTuple):
    """What a precision means for graphs. int8_matrices: of the layers; int8_products: what these multiply, too."""

    compute: Compute
    int8_matrices: bool = False
    int8_products: bool = False


def numbers_of(precision: Precision, backend: str = "") -> Numbers:
    """For the backend's graphs: ONNX Runtime's CPU provider has products of int8, but nothing in bf16 around them."""
    if precision == "int8":
        return Numbers("fp32" if backend == "ort" else "bf16", int8_matrices=True, int8_products=True)
    if precision == "int8-weights":
        return Numbers("bf16", int8_matrices=True)
    return Numbers(precision)

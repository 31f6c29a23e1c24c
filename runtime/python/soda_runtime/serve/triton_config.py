"""What a bundle takes and gives as tensors of NVIDIA Triton: the one home of their names, types and shapes.

The fields are those of model_config.proto (github.com/triton-inference-server/common), in protobuf's text format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from .options import ServeOptions
from .servable import Servable

LABEL, SEED, GUIDANCE, POLICY, SIZE, IMAGE = "label", "seed", "guidance", "policy", "size", "image"


@dataclass(frozen=True)
class TritonTensor:
    """data_type: Triton's. dims: of one row of a batch, -1 where they differ. is_optional: a request may leave it
    out."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    is_optional: bool = False


def input_tensors(served: Servable) -> list[TritonTensor]:
    """One value a picture, each."""
    text = [TritonTensor(name, "TYPE_STRING", (1,), name != "prompt") for name in served.texts]
    text += [TritonTensor(f"negative_{name}", "TYPE_STRING", (1,), True) for name in served.texts if served.guided]
    label = [TritonTensor(LABEL, "TYPE_INT64", (1,))] if served.classes else []
    size = [TritonTensor(SIZE, "TYPE_STRING", (1,), True)] if len(served.sizes) > 1 else []
    scalars = [TritonTensor(port.name, "TYPE_FP32", (1,), True) for port in served.scalars]
    return [
        *text, *label, TritonTensor(SEED, "TYPE_UINT64", (1,), True), TritonTensor(GUIDANCE, "TYPE_FP32", (1,), True),
        TritonTensor(POLICY, "TYPE_STRING", (1,), True), *size, *scalars,
    ]  # fmt: skip


def output_tensors(served: Servable) -> list[TritonTensor]:
    """The picture, 0..255."""
    height, width = served.sizes[0] if len(served.sizes) == 1 else (-1, -1)
    return [TritonTensor(IMAGE, "TYPE_UINT8", (height, width, served.channels))]


def config_text(served: Servable, options: ServeOptions) -> str:
    """config.pbtxt. Triton's dynamic batcher gathers requests; the model puts those together that can be."""
    delay = round(1000 * options.wait_ms)
    return "\n".join(
        [
            f"name: {json.dumps(served.name)}", 'backend: "python"', f"max_batch_size: {options.batch}",
            *_block("input", input_tensors(served)), *_block("output", output_tensors(served)),
            "instance_group [ { count: 1 kind: KIND_CPU } ]",
            "dynamic_batching {",
            f"  max_queue_delay_microseconds: {delay}",
            f"  default_queue_policy {{ timeout_action: REJECT max_queue_size: {options.queue} }}",
            "}", "",
        ]
    )  # fmt: skip


def _block(kind: str, tensors: Sequence[TritonTensor]) -> list[str]:
    lines = [
        f"  {{ name: {json.dumps(tensor.name)} data_type: {tensor.data_type} dims: {list(tensor.dims)}"
        f"{' optional: true' * tensor.is_optional} }}"
        for tensor in tensors
    ]
    return [f"{kind} [", ",\n".join(lines), "]"]

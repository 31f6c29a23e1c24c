"""A diffusers module without the memory of its weights, for tracing and counting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FakeModel:
    """A module under a FakeTensorMode, and the real values of its buffers, by name."""

    module: nn.Module
    mode: Any
    buffers: Mapping[str, Tensor]


def make_fake(
    build: Callable[[Callable[[Tensor], Tensor]], nn.Module], dtype: torch.dtype, stored: Callable[[str], Tensor | None]
) -> FakeModel:
    """build: makes the module, with another tensor in the place of each parameter. dtype: of floating parameters and
    buffers. stored: a buffer's value where the checkpoint has one."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True, static_shapes=True)

    def fake(parameter: Tensor) -> Tensor:
        with mode:
            return torch.empty(parameter.shape, dtype=_cast(parameter, dtype))

    model = build(fake)
    buffers: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            full = f"{prefix}.{name}" if prefix else name
            found = stored(full)
            buffers[full] = (buffer if found is None else found).to(_cast(buffer, dtype))
            module._buffers[name] = mode.from_tensor(buffers[full])
    return FakeModel(model, mode, buffers)


def _cast(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype

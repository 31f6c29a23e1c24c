"""A diffusers module without the memory of its weights, for tracing and counting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError

Build = Callable[[Callable[[Tensor], Tensor]], nn.Module]


@dataclass(frozen=True)
class FakeModel:
    """A module under a FakeTensorMode, and the real values of its buffers, by name, where they have any."""

    module: nn.Module
    mode: Any
    buffers: Mapping[str, Tensor]


def make_fake(build: Build, dtype: torch.dtype) -> FakeModel:
    """A module whose buffers have no values either, which is enough to count. build: makes the module, with another
    tensor in the place of each parameter. dtype: of floating parameters and buffers."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True, static_shapes=True)

    def place(parameter: Tensor) -> Tensor:
        with mode:
            return torch.empty(parameter.shape, dtype=_cast(parameter, dtype))

    try:
        with mode:
            model = build(place)
    except ModelError:  # it may look at values while it is made; what is really wrong fails again
        model = build(place)
    for _, module, name, buffer in _buffers(model):
        with mode:
            module._buffers[name] = torch.empty(buffer.shape, dtype=_cast(buffer, dtype))
    return FakeModel(model, mode, {})


def with_buffers(fake: FakeModel, build: Build, stored: Callable[[str], Tensor | None]) -> FakeModel:
    """The same with the values of its buffers. stored: a buffer's value where the checkpoint has one; the others are
    computed by building the module once more."""
    places = _buffers(fake.module)
    values = {full: value for full, *_ in places if (value := stored(full)) is not None}
    if len(values) < len(places):
        computed = build(lambda parameter: torch.empty_like(parameter, device="meta"))
        values |= {full: buffer for full, buffer in computed.named_buffers() if full not in values}
    for full, module, name, fitting in places:
        values[full] = values[full].to(fitting.dtype)
        module._buffers[name] = fake.mode.from_tensor(values[full])
    return FakeModel(fake.module, fake.mode, values)


def _buffers(model: nn.Module) -> list[tuple[str, nn.Module, str, Tensor]]:
    """(full name, module that has it, name there, buffer) of each."""
    return [
        (f"{prefix}.{name}" if prefix else name, module, name, buffer)
        for prefix, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _cast(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype

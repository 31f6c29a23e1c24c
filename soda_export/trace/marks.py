"""Name values of a trace: hooks pass them through a `soda::Mark` node, so that nobody's code is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.arguments import bound_arguments
from ..models.paths import SiteModule

DOMAIN, OP = "soda", "Mark"


def mark(value: Tensor, name: str) -> Tensor:
    """The value itself; in a trace, behind a node that carries its name."""
    return torch.onnx.ops.symbolic(  # type: ignore[no-any-return]
        f"{DOMAIN}::{OP}", (value,), {"name": name}, dtype=value.dtype, shape=value.shape, version=1
    )


def input_mark(path: str, argument: str) -> str:
    """Name of what a site's module is given as `argument`."""
    return f"{path}({argument})"


def output_mark(path: str, number: int) -> str:
    """Name of one of a site's values."""
    return f"{path}#{number}"


@contextlib.contextmanager
def marked(sites: Sequence[SiteModule]) -> Iterator[None]:
    """While this lasts, every site's tensor arguments and outputs are named."""
    handles: list[Any] = []
    try:
        for site in sites:
            handles.append(site.module.register_forward_pre_hook(_name_inputs(site), with_kwargs=True))
            handles.append(site.module.register_forward_hook(_name_outputs(site), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _name_inputs(site: SiteModule) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not site.rule.renew:
            return None
        named = {
            name: mark(value, input_mark(site.path, name)) if isinstance(value, Tensor) else value
            for name, value in bound_arguments(module, args, kwargs).items()
        }
        return (), named

    hook.form = (_name_inputs.__qualname__, site.rule)  # type: ignore[attr-defined]  # for alike.py
    return hook


def _name_outputs(site: SiteModule) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if not site.rule.outputs:
            return mark(output, output_mark(site.path, 0))
        values = list(output)
        for number, position in enumerate(i for i in site.rule.outputs if values[i] is not None):
            values[position] = mark(values[position], output_mark(site.path, number))
        return tuple(values)

    hook.form = (_name_outputs.__qualname__, site.rule)  # type: ignore[attr-defined]
    return hook

"""Whether two modules, or two calls, do the same but for the numbers in their weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import Tensor, device, dtype, nn

_BY_VALUE = (type(None), bool, int, float, complex, str, bytes, dtype, device)
_BY_IDENTITY = (type, FunctionType, BuiltinFunctionType)
_TORCH = {"_parameters", "_buffers", "_modules"}  # of a module's attributes: looked at by their shapes
_DEEPEST = 12


def module_form(module: nn.Module) -> Hashable:
    """Equal for modules that have the same classes, shapes and attributes at the same places, and whose parts have
    hooks that say so of themselves (`form`). Hooks of the module itself are left out: they run around it. An attribute
    that cannot be compared is equal to nothing."""
    return tuple(
        (name, type(part), _shapes(part._parameters), _shapes(part._buffers), _attributes(part), hooks if name else ())
        for name, part in module.named_modules()
        for hooks in [_hook_forms([*part._forward_pre_hooks.values(), *part._forward_hooks.values()])]
    )


def state_form(value: Any, depth: int = 0) -> Hashable:
    """Equal for values that consist of the same, as pickling sees them. Tensors and modules are equal to nothing."""
    if isinstance(value, _BY_VALUE):
        return type(value), value
    if isinstance(value, _BY_IDENTITY):
        return value
    if isinstance(value, (Tensor, nn.Module)) or depth == _DEEPEST:
        return object()
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(state_form(entry, depth + 1) for entry in value)
    if isinstance(value, (list, tuple)):
        return type(value), tuple(state_form(entry, depth + 1) for entry in value)
    if isinstance(value, dict):
        return type(value), tuple((state_form(k, depth + 1), state_form(v, depth + 1)) for k, v in value.items())
    try:
        parts = value.__reduce_ex__(2)
    except Exception:  # a class may refuse with any
        return object()
    if isinstance(parts, str):
        return type(value), parts
    spread = [list(part) if i > 2 and part is not None else part for i, part in enumerate(parts)]  # from iterators
    return type(value), tuple(state_form(part, depth + 1) for part in spread)


def is_plain(value: Any) -> bool:
    """Whether equal values of a type are the same."""
    return isinstance(value, _BY_VALUE)


def _attributes(module: nn.Module) -> Hashable:
    own = {k: v for k, v in vars(module).items() if k not in _TORCH and not k.startswith("_forward_")}
    return state_form(own)


def _shapes(tensors: Mapping[str, Tensor | None]) -> Hashable:
    return tuple((name, None if t is None else (tuple(t.shape), t.dtype)) for name, t in tensors.items())


def _hook_forms(hooks: Iterable[Any]) -> Hashable:
    return tuple(getattr(hook, "form", hook) for hook in hooks)

"""Trace a block once: blocks like it are single nodes in the trace, and copies of its nodes in the graph (stamp.py)."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .alike import is_plain, module_form
from .stamp import border, into, out_of, repeat, stamp


@dataclass(frozen=True)
class _Traced:
    """A block that was traced. returned: its leaves; a tensor stands for others of its shape and type."""

    path: str
    returned: tuple[Any, ...]
    structure: TreeSpec


class Repeats:
    """While entered, a module of a ModuleList whose like was called before in the same way is traced as one node.

    Alike are modules of the same classes, attributes and shapes of weights, whose weights are nobody else's; calls are
    alike where all arguments but tensors are equal, and tensors have the same shapes and types.
    """

    def __init__(self, root: nn.Module, prefix: str = "") -> None:
        """prefix: with which the names of weights begin in the graph, where `root` is a part of what is traced."""
        self._prefix = prefix
        self._blocks = _repeated(root)
        self._traced: dict[Hashable, _Traced] = {}
        self._called: set[str] = set()
        self._copies: dict[str, str] = {}

    def __enter__(self) -> None:
        for path, (block, form) in self._blocks.items():
            block.forward = self._shortened(path, block.forward, form)

    def __exit__(self, *_: object) -> None:
        for block, _form in self._blocks.values():
            del block.forward

    def stamp(self, graph: ir.Graph) -> bool:
        """Put copies into the places of the nodes. False where that cannot be done (stamp.py)."""
        return stamp(graph, self._prefix)

    def forget(self) -> None:
        """From now on nothing is alike."""
        self._blocks, self._copies = {}, {}

    def traced_path(self, path: str) -> str:
        """Where a part of the root was traced: itself, or the part of another block that it is a copy of."""
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            first = self._copies.get(".".join(parts[:end]))
            if first is not None:
                return self.traced_path(".".join((first, *parts[end:])))
        return path

    def _shortened(self, path: str, forward: Any, form: Hashable) -> Any:
        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = tree_flatten((args, kwargs))
            given = _call_form(leaves)
            if given is None or path in self._called:
                return forward(*args, **kwargs)
            self._called.add(path)
            tensors, key = [leaf for leaf in leaves if isinstance(leaf, Tensor)], (form, given, structure)
            known = self._traced.get(key)
            if known is not None:
                self._copies[path] = known.path
                like = [leaf for leaf in known.returned if isinstance(leaf, Tensor)]
                made = repeat(path, known.path, tensors, like)
                return tree_unflatten(_replaced(known.returned, made), known.structure)
            inner = [border(tensor, into(path, i)) for i, tensor in enumerate(tensors)]
            versions = [tensor._version for tensor in inner]
            args, kwargs = tree_unflatten(_replaced(leaves, inner), structure)
            returned, structure = tree_flatten(forward(*args, **kwargs))
            changed = [i for i, version in enumerate(versions) if inner[i]._version != version]
            for i in changed:  # in place
                tensors[i].copy_(inner[i])
            if changed or _call_form(returned) is None:
                return tree_unflatten(returned, structure)
            made = [leaf for leaf in returned if isinstance(leaf, Tensor)]
            outer = [border(tensor, out_of(path, i)) for i, tensor in enumerate(made)]
            self._traced[key] = _Traced(path, tuple(returned), structure)
            return tree_unflatten(_replaced(returned, outer), structure)

        return call


def _repeated(root: nn.Module) -> dict[str, tuple[nn.Module, Hashable]]:
    """Modules of ModuleLists that have their like, by path, and what they have in common with it."""
    owners = Counter(id(t) for _, t in [*root.named_parameters(remove_duplicate=False),
                                        *root.named_buffers(remove_duplicate=False)])  # fmt: skip
    forms = {
        f"{path}.{name}" if path else name: (part, module_form(part))
        for path, whole in root.named_modules()
        if isinstance(whole, nn.ModuleList)
        for name, part in whole.named_children()
        if any(True for _ in part.children()) and "forward" not in vars(part)
        and all(owners[id(tensor)] == 1 for tensor in (*part.parameters(), *part.buffers()))
    }  # fmt: skip
    alike = Counter(form for _, form in forms.values())
    return {path: (part, form) for path, (part, form) in forms.items() if alike[form] > 1}


def _call_form(leaves: Sequence[Any]) -> Hashable:
    """What calls have in common that differ in their tensors' numbers; None where that cannot be said."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or len({id(tensor) for tensor in tensors}) < len(tensors):
        return None
    if any(tensor.is_complex() or tensor.layout != torch.strided for tensor in tensors):
        return None
    if not all(isinstance(leaf, Tensor) or is_plain(leaf) for leaf in leaves):
        return None
    return tuple(
        (leaf.dtype, tuple(map(str, leaf.shape))) if isinstance(leaf, Tensor) else (type(leaf), leaf) for leaf in leaves
    )


def _replaced(leaves: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    """The leaves with other tensors in the places of theirs."""
    left = iter(tensors)
    return [next(left) if isinstance(leaf, Tensor) else leaf for leaf in leaves]

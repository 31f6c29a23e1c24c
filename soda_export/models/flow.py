"""One run of a module as a graph of operations: what each costs, what it reads, and whether the latents reach it.

FLOPs are those of the papers' convention (flops.py): 2 a multiply-add, softmax 5 an entry, GELU 6 an entry.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SOFTMAX, GELU = 5, 6  # FLOPs an entry
aten = torch.ops.aten


@dataclass
class Operation:
    """parents: numbers of the operations whose results it reads. tainted: whether the latents reach it. counted: its
    FLOPs belong to a step, as those inside blocks do. once: they count once for all rows."""

    parents: tuple[int, ...]
    flops: int
    tainted: bool
    counted: bool
    once: bool


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation while it is active. Operations are numbered in the order of the run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._producer: dict[int, int] = {}
        self._alive: list[Tensor] = []  # so that no other tensor gets the same id
        self._counted, self._once = 0, 0

    def taint(self, tensor: Tensor) -> None:
        """Declare a tensor to be the latents."""
        self._record([tensor], (), 0, tainted=True)

    def mark(self, tensor: Tensor) -> int:
        """Give a tensor an operation of its own from here on; its number."""
        return self._record([tensor], (self.producer(tensor),), 0)

    def producer(self, tensor: Tensor) -> int:
        """Number of the operation that gave a tensor; a new one for a tensor that came from outside."""
        found = self._producer.get(id(tensor))
        return self._record([tensor], (), 0) if found is None else found

    @contextlib.contextmanager
    def counting(self, *, once: bool = False) -> Iterator[None]:
        """While this lasts, FLOPs belong to a step. once: they count once for all rows, tainted or not."""
        self._counted += not once
        self._once += once
        try:
            yield
        finally:
            self._counted -= not once
            self._once -= once

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = list(_tensors(result))
        if made:
            parents = [self._producer[id(t)] for t in _tensors((args, kwargs)) if id(t) in self._producer]
            count = _FLOPS.get(func.overloadpacket)
            self._record(made, tuple(dict.fromkeys(parents)), 0 if count is None else count(args, result))
        return result

    def _record(self, made: list[Tensor], parents: tuple[int, ...], flops: int, tainted: bool = False) -> int:
        number = len(self.operations)
        tainted = tainted or any(self.operations[parent].tainted for parent in parents)
        self.operations.append(Operation(parents, flops, tainted, bool(self._counted), bool(self._once)))
        for tensor in made:
            self._producer[id(tensor)] = number
            self._alive.append(tensor)
        return number


def live_masks(operations: list[Operation], wanted: Iterable[int], cuts: dict[int, int], count: int) -> list[int]:
    """For each operation a number whose bit k is set where `wanted` needs it although cut k is made; bit `count`: where
    none is made. cuts: operation -> the cut that gives its result."""
    masks = [0] * len(operations)
    for number in wanted:
        masks[number] = (1 << (count + 1)) - 1
    for number in range(len(operations) - 1, -1, -1):
        needed = masks[number]
        if number in cuts:
            needed &= ~(1 << cuts[number])
        if needed:
            for parent in operations[number].parents:
                masks[parent] |= needed
    return masks


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _product(a: Tensor, b: Tensor) -> int:
    """[..., m, k] x [..., k, n]"""
    return 2 * a.numel() * b.shape[-1]


def _attention(args: Any, result: Any) -> int:
    """Queries [R, heads, q, d], keys [R, heads, k, d], values [R, heads, k, e]."""
    query, key, value = args[:3]
    entries = math.prod(query.shape[:-1]) * key.shape[-2]
    return int(entries * (2 * query.shape[-1] + 2 * value.shape[-1] + SOFTMAX))


def _convolution(args: Any, result: Any) -> int:
    weight, transposed = args[1], bool(args[6])
    positions = args[0].shape[0] * math.prod((args[0] if transposed else result).shape[2:])
    return int(2 * positions * weight.numel())


_FLOPS: dict[Any, Callable[[Any, Any], int]] = {
    aten.mm: lambda args, result: _product(args[0], args[1]),
    aten.bmm: lambda args, result: _product(args[0], args[1]),
    aten.addmm: lambda args, result: _product(args[1], args[2]),
    aten.baddbmm: lambda args, result: _product(args[1], args[2]),
    aten.linear: lambda args, result: 2 * args[0].numel() * args[1].shape[0],
    aten.convolution: _convolution,
    aten.scaled_dot_product_attention: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
    aten._softmax: lambda args, result: SOFTMAX * result.numel(),
    aten._safe_softmax: lambda args, result: SOFTMAX * result.numel(),
    aten.gelu: lambda args, result: GELU * result.numel(),
}
"""Operation -> its FLOPs, from its arguments and result"""

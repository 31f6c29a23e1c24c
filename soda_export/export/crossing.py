"""Which values known before a step are handed to it: few bytes, few tensors.

A step needs values that the timestep or the request decides. Each is followed back through nodes that only rearrange
or offset it, as long as what crosses does not grow: six slices of one modulation cross as one tensor, and an expanded
value is expanded on the other side. Small values of a kind cross together, as columns of one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from soda_runtime.consistency import MAX_SIDE

from ..errors import ExportError
from ..trace.bind import CONSTANT, LATENTS, REQUEST, STEP, BindingTimes
from ..trace.walk import producers

_REARRANGE = {"Unsqueeze", "Squeeze", "Reshape", "Split", "Slice", "Expand", "Identity", "Mark", "Cast"}
_OFFSET = {"Add", "Mul", "Sub"}
_SMALL = 1 << 16  # entries of a row
FLOATS = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


class Crossing:
    """Finds the values that a step takes from before it."""

    def __init__(self, times: BindingTimes) -> None:
        self.times = times
        self._origin: dict[ir.Value, ir.Value] = {}

    def before(
        self, wanted: Iterable[ir.Value], given: Callable[[ir.Value], bool], later: int = LATENTS
    ) -> list[ir.Value]:
        """Values that cross where `wanted` is computed, in order of need. given: what is supplied otherwise. later: the
        values on this side are those known as late as all of these bits say."""
        found: dict[ir.Value, None] = {}
        for value in self.borders(wanted, given, later):
            found.setdefault(self.origin(value))
        return list(found)

    def borders(self, wanted: Iterable[ir.Value], given: Callable[[ir.Value], bool], later: int) -> list[ir.Value]:
        """Values known earlier that a node of this side takes."""
        found: dict[ir.Value, None] = {}

        def stop(value: ir.Value) -> bool:
            return given(value) or not self.is_late(value, later)

        ends = [value for value in wanted if not given(value)]
        for value in ends:
            if not self.is_late(value, later) and self.times.of(value) != CONSTANT:
                found.setdefault(value)
        for node in producers(ends, stop):
            for source in node.inputs:
                if source is None or given(source) or self.is_late(source, later):
                    continue
                if self.times.of(source) != CONSTANT:
                    found.setdefault(source)
        return list(found)

    def is_late(self, value: ir.Value, later: int) -> bool:
        """Whether a value belongs to this side."""
        known = self.times.of(value)
        return bool(known & LATENTS) if later == LATENTS else known == later

    def origin(self, value: ir.Value) -> ir.Value:
        """Where the value crosses: itself, or what it is a rearrangement of."""
        if value not in self._origin:
            at = value
            while (source := self._further(at)) is not None:
                at = source
            self._origin[value] = at
        return self._origin[value]

    def _further(self, value: ir.Value) -> ir.Value | None:
        node = value.producer()
        if node is None:
            return None
        moving = [v for v in node.inputs if v is not None and self.times.of(v) != CONSTANT]
        if len(moving) != 1 or node.op_type not in (_REARRANGE | _OFFSET) or not _may_cross(moving[0]):
            return None
        if node.op_type in _OFFSET and not _is_scalar_offset(node, moving[0]) and len(moving[0].uses()) < 2:
            return None  # a bias: it is added before, once
        size, source = sum(_entries(v) for v in node.outputs), _entries(moving[0])
        return moving[0] if source <= size else None


def _is_scalar_offset(node: ir.Node, moving: ir.Value) -> bool:
    others = [v for v in node.inputs if v is not None and v is not moving]
    return all(v.const_value is not None and v.const_value.size == 1 for v in others)


def _may_cross(value: ir.Value) -> bool:
    shape = value.shape
    return (
        value.producer() is not None and value.dtype in FLOATS and shape is not None and len(shape) > 1
        and _is_rows(shape[0]) and all(isinstance(size, int) for size in list(shape)[1:])
    )  # fmt: skip


def _is_rows(size: object) -> bool:
    """Whether an axis has as many entries as there are rows, and not a multiple of that: a lone symbol."""
    return not isinstance(size, int) and str(getattr(size, "value", size)).isidentifier()


def _entries(value: ir.Value) -> int:
    """Numbers of one row."""
    shape = value.shape
    if shape is None:
        raise ExportError(f"value {value.name}: the trace does not say its shape")
    return math.prod(size for size in list(shape)[1:] if isinstance(size, int))


def row_shape(value: ir.Value) -> tuple[int, ...]:
    """Shape of one row. Raises ExportError where the first axis is not the rows', or another one has no fixed size."""
    shape = list(value.shape or [])
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    if len(shape) < 2 or not _is_rows(shape[0]) or len(sizes) != len(shape) - 1:
        raise ExportError(f"value {value.name} of shape {shape} cannot be handed to the steps: it has no axis of rows")
    return tuple(sizes)


@dataclass(frozen=True)
class CrossingTensor:
    """A tensor that a step is handed. parts: the values that it holds, side by side in columns; one alone keeps its
    shape. rows: whether each row has its own. per_step: whether each step has."""

    name: str
    dtype: str
    rows: bool
    per_step: bool
    parts: tuple[ir.Value, ...]

    @property
    def packed(self) -> bool:
        """Whether values lie side by side."""
        return len(self.parts) > 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of each part."""
        return tuple(_entries(part) for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (sum(self.sizes),) if self.packed else row_shape(self.parts[0])


_NAMES = {STEP: "schedule", REQUEST: "context", STEP | REQUEST: "conditioning"}


def pack_crossing(values: Sequence[ir.Value], times: BindingTimes) -> tuple[CrossingTensor, ...]:
    """Small values of a binding time and type side by side, as many as a tensor may be wide; large ones alone."""
    packs: dict[tuple[int, str], list[list[ir.Value]]] = {}
    numbered: list[tuple[int, str, list[ir.Value]]] = []
    for value in values:
        row_shape(value)
        if value.dtype not in FLOATS:
            raise ExportError(f"value {value.name} of type {value.dtype} cannot be handed to the steps")
        known, dtype = times.of(value), FLOATS[value.dtype]
        if _entries(value) > _SMALL:
            numbered.append((known, dtype, [value]))
            continue
        of_kind = packs.setdefault((known, dtype), [[]])
        if sum(map(_entries, of_kind[-1])) + _entries(value) > MAX_SIDE:
            of_kind.append([])
        of_kind[-1].append(value)
    named: list[tuple[str, int, str, list[ir.Value]]] = []
    for (known, dtype), (first, *more) in packs.items():
        is_second = dtype != "float32" and (known, "float32") in packs
        named.append((f"{_NAMES[known]}_low" if is_second else _NAMES[known], known, dtype, first))
        numbered += [(known, dtype, parts) for parts in more]
    named += [(f"{_NAMES[known]}_{i}", known, dtype, parts) for i, (known, dtype, parts) in enumerate(numbered)]
    return tuple(
        CrossingTensor(name, dtype, bool(known & REQUEST), bool(known & STEP), tuple(parts))
        for name, known, dtype, parts in named
    )

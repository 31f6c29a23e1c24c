"""Prepare programs: what a request decides, once; what the steps' timesteps decide with it, for a window of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from soda_runtime.manifest import PrepareProgram
from soda_runtime.signature import ROWS_AXIS, WINDOW_AXIS

from ..models.spec import IS_NEGATIVE, ModelSpec
from ..trace.bind import REQUEST, STEP
from ..trace.denoiser import TIMESTEP
from ..trace.graph import DenoiserGraph
from ..trace.onnx import fixed_sizes
from ..trace.walk import producers
from .builder import GraphBuilder, Known
from .crossing import FLOATS, Crossing, CrossingTensor
from .index import sized_name
from .weights import ReadWeight, WeightsFile, read_stored

REQUEST_NAME, STEPS_NAME, TABLE = "request.onnx", "steps.onnx", "timestep_values"


@dataclass(frozen=True)
class Prepared:
    """How the crossing tensors come about. request, steps: those that each program makes. table: values of the timestep
    alone that the program of steps reads, as columns of one table."""

    request: tuple[CrossingTensor, ...]
    steps: tuple[CrossingTensor, ...]
    table: tuple[ir.Value, ...]

    @property
    def computed(self) -> list[ir.Value]:
        """Values that the prepare programs compute: what their weights follow from. What the table holds is not among
        what they are computed from."""
        return [part for tensor in (*self.request, *self.steps) if tensor.rows for part in tensor.parts]


def arrange_prepare(tensors: Sequence[CrossingTensor], crossing: Crossing) -> Prepared:
    """Which program makes which tensor, and what of the timestep it takes."""
    steps = tuple(tensor for tensor in tensors if tensor.per_step)
    table: dict[ir.Value, None] = {}
    for tensor in steps:
        for part in tensor.parts:
            if not tensor.rows:
                table.setdefault(part)
                continue
            for value in crossing.before([part], lambda _: False, STEP | REQUEST):
                if crossing.times.of(value) == STEP:
                    table.setdefault(value)
    return Prepared(tuple(t for t in tensors if not t.per_step), steps, tuple(table))


class PrepareWriter:
    """Writes the prepare programs of one model."""

    def __init__(
        self, graph: DenoiserGraph, spec: ModelSpec, crossing: Crossing, prepared: Prepared, weights: WeightsFile,
        rows: int,
    ) -> None:  # fmt: skip
        """rows: of each sample."""
        self._graph, self._spec, self._crossing, self._rows = graph, spec, crossing, rows
        self._prepared, self._weights = prepared, weights

    def write(self, folder: Path, suffix: str) -> tuple[PrepareProgram, ...]:
        """All of them, in the order in which they run. suffix: what their names end with."""
        request, steps = (folder / sized_name(name, suffix) for name in (REQUEST_NAME, STEPS_NAME))
        made = [self._write_request(request)] if self._prepared.request else []
        return (*made, self._write_steps(steps)) if self._prepared.steps else tuple(made)

    def _write_request(self, path: Path) -> PrepareProgram:
        builder, tensors = GraphBuilder("request", self._weights), self._prepared.request
        known = self._ports(builder, [part for tensor in tensors for part in tensor.parts])
        ports = self._given(known)
        for tensor in tensors:
            builder.emit(tensor.parts, known, self._graph.weights)
            packed = _pack(builder, tensor, known)
            builder.output(packed, tensor.name, tensor.dtype, [ROWS_AXIS, *tensor.shape])
        builder.save(path, "what a request is conditioned on -> what every step takes of it, once a request")
        return PrepareProgram(path.name, self._weights.name, ports, (), tuple(tensor.name for tensor in tensors))

    def _write_steps(self, path: Path) -> PrepareProgram:
        """Rows of the table [W, n] and the request [R, ...] -> each tensor [W, R or 1, ...]."""
        builder, prepared = GraphBuilder("steps", self._weights), self._prepared
        joint = [part for tensor in prepared.steps if tensor.rows for part in tensor.parts]
        before = self._ports(builder, joint)
        ports = self._given(before)
        sizes = [_row_size(value) for value in prepared.table]
        table = builder.input(TABLE, "float32", [WINDOW_AXIS, sum(sizes)])
        window = builder.node("Shape", [table], prefix="window", start=0, end=1)
        columns = list(builder.nodes("Split", [table, builder.ints(*sizes)], prefix=TABLE, outputs=len(sizes), axis=1))
        of_step: Known = {}
        for value, column in zip(prepared.table, columns, strict=True):
            assert value.dtype is not None
            column.type = ir.TensorType(ir.DataType.FLOAT)
            shaped = builder.node("Reshape", [column, builder.ints(-1, *_row(value))], prefix=TABLE)
            shaped.type = column.type
            of_step[value] = builder.cast(shaped, FLOATS[value.dtype])
        known = self._joined(builder, joint, before, of_step, window) if joint else {}
        for tensor in prepared.steps:
            packed = _pack(builder, tensor, known if tensor.rows else of_step)
            rows = [-1] if tensor.rows else [1]
            target = builder.node("Concat", [window, builder.ints(*rows, *tensor.shape)], prefix=tensor.name, axis=0)
            shaped = builder.node("Reshape", [packed, target], prefix=tensor.name)
            rows_axis: int | str = ROWS_AXIS if tensor.rows else 1
            builder.output(shaped, tensor.name, tensor.dtype, [WINDOW_AXIS, rows_axis, *tensor.shape])
        builder.save(path, "timesteps -> what each step takes of its own, in windows of steps, once a request")
        outputs = tuple(tensor.name for tensor in prepared.steps)
        return PrepareProgram(path.name, self._weights.name, ports, (TABLE,), outputs)

    def _joined(
        self, builder: GraphBuilder, wanted: Sequence[ir.Value], ports: Known, of_step: Known, window: ir.Value
    ) -> Known:
        """Values of step and request for all W x R pairs, step by step."""
        times, both = self._crossing.times, STEP | REQUEST
        borders = self._crossing.borders(wanted, lambda _: False, both)
        of_request = [value for value in borders if times.of(value) == REQUEST]
        builder.emit(of_request, ports, self._graph.weights)
        builder.emit([value for value in borders if times.of(value) == STEP], of_step, self._graph.weights)
        rows = builder.node("Shape", [ports[of_request[0]]], prefix="rows", start=0, end=1)
        known: Known = {}
        for value in borders:
            shape = builder.ints(*_row(value))
            pairs = builder.node("Concat", [window, rows, shape], prefix="pairs", axis=0)
            axis, source = (1, of_step[value]) if times.of(value) == STEP else (0, ports[value])
            raised = builder.node("Unsqueeze", [source, builder.ints(axis)], prefix="pairs")
            wide = builder.node("Expand", [raised, pairs], prefix="pairs")
            known[value] = builder.node("Reshape", [wide, builder.ints(-1, *_row(value))], prefix="pairs")
        builder.emit(wanted, known, self._graph.weights)
        return known

    def _ports(self, builder: GraphBuilder, wanted: Sequence[ir.Value]) -> Known:
        """Inputs for the ports that `wanted` follows from."""
        used = {v for node in producers(wanted, lambda _: False) for v in node.inputs} | set(wanted)
        known: Known = {}
        for port in self._spec.ports:
            value = self._graph.inputs[port.name]
            if value in used and port.kind != "row":
                known[value] = builder.input(port.name, port.dtype, [ROWS_AXIS, *port.shape])
        for port in self._spec.ports:
            value = self._graph.inputs[port.name]
            if value in used and port.kind == "row":
                known[value] = self._is_negative(builder, next(iter(known.values())))
        return known

    def _given(self, known: Known) -> tuple[str, ...]:
        """Names of the ports among values that `_ports` made: what a request gives."""
        rows = {port.name for port in self._spec.ports if port.kind == "row"}
        return tuple(str(value.name) for value in known if value.name not in rows)

    def _is_negative(self, builder: GraphBuilder, port: ir.Value) -> ir.Value:
        """[R]: 1 in the second half of the rows where there is guidance, else 0. port: any, for their number."""
        shape = builder.node("Shape", [port], prefix=IS_NEGATIVE, start=0, end=1)
        if self._rows == 1:
            return builder.node("Expand", [builder.constant(np.zeros(1, np.float32)), shape], prefix=IS_NEGATIVE)
        rows = builder.node("Squeeze", [shape], prefix=IS_NEGATIVE)
        zero, one, two = (builder.constant(np.array(number, np.int64)) for number in (0, 1, 2))
        numbers = builder.node("Range", [zero, rows, one], prefix=IS_NEGATIVE)
        twice = builder.node("Mul", [numbers, two], prefix=IS_NEGATIVE)
        later = builder.node("GreaterOrEqual", [twice, rows], prefix=IS_NEGATIVE)
        return builder.node("Cast", [later], prefix=IS_NEGATIVE, to=int(ir.DataType.FLOAT))


def evaluate_table(
    graph: DenoiserGraph, values: Sequence[ir.Value], timesteps: Sequence[float], read: ReadWeight
) -> NDArray[np.float32]:
    """What the timesteps alone decide, [S, n] in fp32 whatever the trace's precision: `values` side by side."""
    if not values:
        return np.zeros((len(timesteps), 0), np.float32)
    builder = GraphBuilder("timestep", None)
    known: Known = {graph.inputs[TIMESTEP]: builder.input(TIMESTEP, "float32", [WINDOW_AXIS])}
    for node in producers(values, lambda _: False):
        for value in node.inputs:
            if value is None:
                continue
            if value in graph.weights:
                stored = read_stored(read, graph.weights[value]).float().contiguous()
                known[value] = builder.constant(stored.numpy())
            elif value.const_value is not None and value.dtype in FLOATS:
                known[value] = builder.constant(np.array(value.const_value.numpy(), np.float32))
    builder.emit(values, known, graph.weights)
    for i, value in enumerate(values):
        flat = builder.node("Flatten", [known[value]], prefix=f"value.{i}", axis=1)
        builder.output(flat, f"value.{i}", "float32", [WINDOW_AXIS, _row_size(value)])
    model = builder.model()
    for node in model.graph:
        for value in node.outputs:
            value.type = ir.TensorType(ir.DataType.FLOAT) if value.dtype in FLOATS else value.type
        if node.op_type == "Cast" and node.attributes.get_int("to") in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    made: list[NDArray[np.float32]] = session.run(None, {TIMESTEP: np.array(timesteps, np.float32)})
    return np.concatenate(made, axis=1)


def _pack(builder: GraphBuilder, tensor: CrossingTensor, known: Known) -> ir.Value:
    """The tensor of its parts: as `unpack` of steps.py takes it apart."""
    parts = [known[part] for part in tensor.parts]
    if not tensor.packed:
        return parts[0]
    flat = [builder.node("Flatten", [part], prefix=tensor.name, axis=1) for part in parts]
    return builder.node("Concat", flat, prefix=tensor.name, axis=1)


def _row(value: ir.Value) -> list[int]:
    return list(fixed_sizes(list(value.shape or [])[1:]))


def _row_size(value: ir.Value) -> int:
    return int(np.prod(_row(value), dtype=np.int64))

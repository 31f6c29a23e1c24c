"""Make a float32 graph's products and tables low precision; sums, norms and softmax stay in float32."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from .onnx import TracedGraph
from .tidy import fp32_softmax

_MOVES = ("Reshape", "Transpose")
_FLOAT = ir.DataType.FLOAT


def narrow(traced: TracedGraph, dtype: ir.DataType, keep: Callable[[str], bool]) -> TracedGraph:
    """The same graph with products and tables of `dtype`. keep: names of weights whose products stay in float32."""
    low_tables(traced, dtype)
    low_products(traced, dtype, keep)
    fp32_softmax(traced)
    narrow_moves(traced, dtype)
    return traced.used()


def low_tables(traced: TracedGraph, dtype: ir.DataType) -> None:
    """Embedding tables of two axes are stored in `dtype`; what is looked up is widened."""
    stored: dict[ir.Value, ir.Value] = {}
    for node in list(traced.graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or table not in traced.weights or table.dtype != _FLOAT or node.inputs[1] is None:
            continue
        if node.inputs[1].const_value is not None:  # of positions: small, and added to scores
            continue
        node.replace_input_with(0, _stored_as(traced, table, dtype, stored))
        _widen_after(traced.graph, node, dtype)


def low_products(traced: TracedGraph, dtype: ir.DataType, keep: Callable[[str], bool]) -> None:
    """Matrix products of a float32 graph in another type, weights stored in it; sums, norms and softmax stay in
    float32. keep: names of weights whose products stay as they are. Run after transposed_weights."""
    graph = traced.graph
    stored: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type not in ("MatMul", "Attention") or any(traced.weights.get(v) and keep(traced.weights[v])
                                                                for v in node.inputs if v is not None):  # fmt: skip
            continue
        before = []
        for position, value in enumerate(node.inputs[:3]):
            if value is None or value.dtype != _FLOAT:
                continue
            if value in traced.weights:
                node.replace_input_with(position, _stored_as(traced, value, dtype, stored))
                continue
            narrow = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{node.name}.narrow{position}")
            narrow.outputs[0].type, narrow.outputs[0].shape = ir.TensorType(dtype), value.shape
            before.append(narrow)
            node.replace_input_with(position, narrow.outputs[0])
        if before:
            graph.insert_before(node, before)
        _widen_after(graph, node, dtype)


def narrow_moves(traced: TracedGraph, dtype: ir.DataType) -> None:
    """What is only moved between two products is never widened, and one cast of a value serves all that need it."""
    graph = traced.graph
    for node in list(graph):
        if node.op_type not in _MOVES or node.inputs[0] is None:
            continue
        wide = node.inputs[0].producer()
        if wide is None or not _widens(wide, dtype) or len(wide.outputs[0].uses()) > 1:
            continue
        node.replace_input_with(0, wide.inputs[0])
        _widen_after(graph, node, dtype)
        graph.remove(wide, safe=True)
    for node in list(graph):
        wide = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
        if wide is not None and _to(node) == dtype and _widens(wide, dtype):
            assert wide.inputs[0] is not None
            ir.convenience.replace_all_uses_with(node.outputs[0], wide.inputs[0])
            graph.remove(node, safe=True)
    model = ir.Model(graph, ir_version=10)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def _stored_as(
    traced: TracedGraph, weight: ir.Value, dtype: ir.DataType, stored: dict[ir.Value, ir.Value]
) -> ir.Value:
    """The weight in another type. stored: those made so far."""
    if weight not in stored:
        stored[weight] = ir.Value(name=weight.name, type=ir.TensorType(dtype), shape=weight.shape)
        traced.weights[stored[weight]] = traced.weights[weight]
    return stored[weight]


def _widen_after(graph: ir.Graph, node: ir.Node, dtype: ir.DataType) -> None:
    """The node's float32 output becomes `dtype`, and all that take it take its widened twin."""
    output = node.outputs[0]
    wide = ir.node("Cast", [output], {"to": int(_FLOAT)}, name=f"{node.name}.wide")
    wide.outputs[0].type, wide.outputs[0].shape = ir.TensorType(_FLOAT), output.shape
    ir.convenience.replace_all_uses_with(output, wide.outputs[0], replace_graph_outputs=True)
    wide.replace_input_with(0, output)
    output.type = ir.TensorType(dtype)
    graph.insert_after(node, [wide])


def _widens(node: ir.Node, dtype: ir.DataType) -> bool:
    return (
        node.op_type == "Cast" and _to(node) == _FLOAT and node.inputs[0] is not None and node.inputs[0].dtype == dtype
    )


def _to(node: ir.Node) -> int:
    return node.attributes.get_int("to", 0)

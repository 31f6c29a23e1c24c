"""Make a float32 graph's products and tables low precision; sums, norms and softmax stay in float32."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from .onnx import TracedGraph
from .tidy import fp32_softmax, low_products

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
        if table not in stored:
            stored[table] = ir.Value(name=table.name, type=ir.TensorType(dtype), shape=table.shape)
            traced.weights[stored[table]] = traced.weights[table]
        node.replace_input_with(0, stored[table])
        _widen_after(traced.graph, node, dtype)


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

"""Passes over a traced graph, each with one purpose; all keep what the graph computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from .onnx import TracedGraph

Pass = Callable[[TracedGraph], None]


def tidy(traced: TracedGraph) -> TracedGraph:
    """All passes, in order."""
    for run in (
        true_squeezes, widened_concats, permuting_einsums, static_reshapes, transposed_weights, spelled_attention,
        fp32_softmax,
    ):  # fmt: skip
        run(traced)
    remove_dead(traced)
    return traced


def true_squeezes(traced: TracedGraph) -> None:
    """torch squeezes an axis of another size than 1 by leaving it; ONNX refuses."""
    for node in list(traced.graph):
        if node.op_type != "Squeeze" or node.inputs[0] is None or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        source, axes = node.inputs[0], node.inputs[1].const_value
        if axes is None or source.shape is None:
            continue
        if all(source.shape[int(axis)] != 1 for axis in axes.numpy().reshape(-1)):
            _replace(node.outputs[0], source)
            traced.graph.remove(node, safe=True)


def widened_concats(traced: TracedGraph) -> None:
    """torch widens what it joins to one type; ONNX wants it to be one."""
    for node in list(traced.graph):
        if node.op_type != "Concat":
            continue
        wide = node.outputs[0].dtype
        for position, value in enumerate(node.inputs):
            if value is None or wide is None or value.dtype in (None, wide):
                continue
            cast = ir.node("Cast", [value], {"to": int(wide)}, name=f"{node.name}.wide{position}")
            cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(wide), value.shape
            traced.graph.insert_before(node, cast)
            node.replace_input_with(position, cast.outputs[0])


def permuting_einsums(traced: TracedGraph) -> None:
    """An Einsum that only permutes axes is a Transpose, which every type and library has."""
    for node in list(traced.graph):
        if node.op_type != "Einsum" or len(node.inputs) != 1:
            continue
        before, _, after = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
        if sorted(before) != sorted(after) or len(set(before)) != len(before):
            continue
        order = [before.index(axis) for axis in after]
        turned = ir.node("Transpose", list(node.inputs), {"perm": order}, name=node.name)
        turned.outputs[0].type, turned.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
        traced.graph.insert_before(node, turned)
        _replace(node.outputs[0], turned.outputs[0])
        traced.graph.remove(node, safe=True)


def static_reshapes(traced: TracedGraph) -> None:
    """A Reshape whose target is computed from shapes gets a constant one: 0 where a size is the input's own, -1 for the
    one other that is unknown."""
    for node in traced.graph:
        if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].const_value is not None:
            continue
        source, shape = node.inputs[0], node.outputs[0].shape
        assert source is not None
        if shape is None or source.shape is None:
            continue
        unknown = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
        own = [axis for axis in unknown if axis < len(source.shape) and source.shape[axis] == shape[axis]]
        if len(unknown) <= 1:
            own = []
        elif len(unknown) - len(own) > 1:
            continue
        target = [size if isinstance(size, int) else 0 if axis in own else -1 for axis, size in enumerate(shape)]
        node.attributes.pop("allowzero", None)
        node.replace_input_with(1, _constant(traced.graph, np.array(target, np.int64)))


def transposed_weights(traced: TracedGraph) -> None:
    """A weight that is used transposed is stored so, [in, out]: products find it as they need it. A Gemm with such a
    weight becomes MatMul and Add."""
    graph = traced.graph
    twins = {name: value for value, name in traced.weights.items() if name.endswith(TRANSPOSED)}
    for node in list(graph):
        if node.op_type == "Transpose" and node.inputs[0] in traced.weights and _swaps(node):
            stored = _transposed(traced, node.inputs[0], twins)  # type: ignore[arg-type]
            _replace(node.outputs[0], stored)
            graph.remove(node, safe=True)
        elif node.op_type == "Gemm" and node.inputs[1] in traced.weights and _plain_gemm(node):
            stored = _transposed(traced, node.inputs[1], twins)  # type: ignore[arg-type]
            product = ir.node("MatMul", [node.inputs[0], stored], name=f"{node.name}.product")
            product.outputs[0].type, product.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
            new = [product]
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                new.append(ir.node("Add", [product.outputs[0], node.inputs[2]], name=f"{node.name}.sum"))
                new[-1].outputs[0].type, new[-1].outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
            graph.insert_before(node, new)
            _replace(node.outputs[0], new[-1].outputs[0])
            graph.remove(node, safe=True)


def spelled_attention(traced: TracedGraph) -> None:
    """Attention with a mask, and attention to a side that does not change with the tokens, is spelled out: products and
    a softmax in fp32. ONNX Runtime refuses masks of one row a query set; the captions that have them are short
    (docs/decisions/0014)."""
    for node in list(traced.graph):
        if node.op_type == "Attention" and len(node.inputs) > 3 and node.inputs[3] is not None:
            _spell_out(traced.graph, node)


def fp32_softmax(traced: TracedGraph) -> None:
    """Attention in low precision takes its softmax in fp32."""
    for node in traced.graph:
        if node.op_type == "Attention" and node.inputs[0] is not None and node.inputs[0].dtype != ir.DataType.FLOAT:
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(ir.DataType.FLOAT))


def remove_dead(traced: TracedGraph) -> None:
    """Nodes that nothing needs."""
    common.RemoveUnusedNodesPass()(ir.Model(traced.graph, ir_version=10))


def _spell_out(graph: ir.Graph, node: ir.Node) -> None:
    query, key, value, mask = node.inputs[:4]
    assert query is not None
    assert key is not None
    assert value is not None
    assert mask is not None
    low, float32 = query.dtype, ir.DataType.FLOAT
    given = node.attributes.get_float("scale", 0.0)
    scale = given or float(query.shape[-1]) ** -0.5  # type: ignore[index,arg-type]
    new: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value], dtype: ir.DataType | None = low, **attributes: object) -> ir.Value:
        made = ir.node(op, inputs, attributes, name=f"{node.name}.{op}{len(new)}")  # type: ignore[arg-type]
        made.outputs[0].type = ir.TensorType(dtype) if dtype is not None else None
        new.append(made)
        return made.outputs[0]

    factor = _constant(graph, np.array(scale, np.float32))
    scaled = add("Mul", [query, factor if low == float32 else add("Cast", [factor], to=int(low))])  # type: ignore[arg-type]
    scaled.shape = query.shape
    turned = add("Transpose", [key], perm=[0, 1, 3, 2])
    turned.shape = ir.Shape([key.shape[i] for i in (0, 1, 3, 2)])  # type: ignore[index]
    scores = add("MatMul", [scaled, turned])
    wide = scores if low == float32 else add("Cast", [scores], float32, to=int(float32))
    if mask.dtype == ir.DataType.BOOL:
        masked = add("Where", [mask, wide, _constant(graph, np.array(_MASKED, np.float32))], float32)
    else:
        bias = mask if mask.dtype == float32 else add("Cast", [mask], float32, to=int(float32))
        bias.shape = mask.shape
        masked = add("Add", [wide, bias], float32)
    weights = add("Softmax", [masked], float32, axis=-1)
    narrow = weights if low == float32 else add("Cast", [weights], to=int(low))  # type: ignore[arg-type]
    result = add("MatMul", [narrow, value])
    result.shape = node.outputs[0].shape
    graph.insert_before(node, new)
    _replace(node.outputs[0], result)
    graph.remove(node, safe=True)


def _transposed(traced: TracedGraph, weight: ir.Value, twins: dict[str, ir.Value]) -> ir.Value:
    """The weight's transposed twin. twins: those that there are, by name."""
    name = f"{traced.weights[weight]}{TRANSPOSED}"
    if name not in twins:
        shape = ir.Shape(list(reversed(weight.shape)))  # type: ignore[arg-type]
        twins[name] = ir.Value(name=f"{weight.name}{TRANSPOSED}", type=weight.type, shape=shape)
        traced.weights[twins[name]] = name
    return twins[name]


_MASKED = float(np.finfo(np.float32).min)
TRANSPOSED = ".T"
"""Ends the name of a weight that is stored [in, out], where the checkpoint has [out, in]."""


def _swaps(node: ir.Node) -> bool:
    return tuple(node.attributes.get_ints("perm", ())) == (1, 0)


def _plain_gemm(node: ir.Node) -> bool:
    attributes = node.attributes
    return (
        attributes.get_int("transB", 0) == 1 and attributes.get_int("transA", 0) == 0
        and attributes.get_float("alpha", 1.0) == 1.0 and attributes.get_float("beta", 1.0) == 1.0
    )  # fmt: skip


def _constant(graph: ir.Graph, array: np.ndarray) -> ir.Value:  # type: ignore[type-arg]
    name = f"tidy_{len(graph.initializers)}"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.initializers.add(value)
    return value


def _replace(old: ir.Value, new: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

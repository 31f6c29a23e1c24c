"""Nodes of a trace that stand for blocks like an earlier one, and copies of that one's nodes in their place."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from .marks import DOMAIN, OP
from .walk import producers

_BORDER, _REPEAT = "Border", "Repeat"
_Places = dict[ir.Node, tuple[int, int]]
"""Where a node stands: number of a traced node, and for copies before it the order in which they were made."""
_AFTER_COPIES = 1 << 62
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def into(path: str, number: int) -> str:
    """Name of the border that a block's tensor argument crosses."""
    return f"{path}<{number}"


def out_of(path: str, number: int) -> str:
    """Name of the border that a value which a block returns crosses."""
    return f"{path}>{number}"


def border(value: Tensor, name: str) -> Tensor:
    """The value itself, behind a node with a name."""
    return torch.onnx.ops.symbolic(  # type: ignore[no-any-return]
        f"{DOMAIN}::{_BORDER}", (value,), {"name": name}, dtype=value.dtype, shape=value.shape, version=1
    )


def repeat(path: str, first: str, given: Sequence[Tensor], like: Sequence[Tensor]) -> Sequence[Tensor]:
    """What the block at `path` makes of `given`: as that at `first` does. like: values of the same shapes and types."""
    return torch.onnx.ops.symbolic_multi_out(  # type: ignore[no-any-return]
        f"{DOMAIN}::{_REPEAT}", given, {"path": path, "first": first}, dtypes=[value.dtype for value in like],
        shapes=[value.shape for value in like], version=1,
    )  # fmt: skip


def stamp(graph: ir.Graph, prefix: str) -> bool:
    """Replace each repeat by copies of the nodes between the first block's borders, with its own weights and marks, and
    remove the borders. prefix: of the names of weights. False where that cannot be done: what is taken of a block, but
    not of the first like it, is not in the graph, and nodes with graphs of their own are not copied.

    What a block takes from outside otherwise, such as the number of rows, is the same for all.
    """
    borders = {node.attributes.get_string("name", ""): node for node in graph if _is(node, _BORDER)}
    place: _Places = {node: (i, _AFTER_COPIES) for i, node in enumerate(graph)}
    for node in list(graph):
        if not _is(node, _REPEAT):
            continue
        first = node.attributes.get_string("first", "")
        known = {
            borders[name].outputs[0]: value
            for i, value in enumerate(node.inputs)
            if value is not None and (name := into(first, i)) in borders
        }
        ends = {value: borders.get(out_of(first, i)) for i, value in enumerate(node.outputs) if _is_taken(value)}
        sources = {value: source for value, end in ends.items() if end and (source := end.inputs[0])}
        if len(sources) < len(ends) or not _copy(graph, node, list(sources.values()), known, prefix, place):
            return False
        for value, source in sources.items():
            ir.convenience.replace_all_uses_with(value, known.get(source, source), replace_graph_outputs=True)
        graph.remove(node, safe=True)
    for node in borders.values():
        assert node.inputs[0] is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)
    return True


def _copy(
    graph: ir.Graph, at: ir.Node, wanted: Sequence[ir.Value], known: dict[ir.Value, ir.Value], prefix: str,
    place: _Places,
) -> bool:  # fmt: skip
    """Copy to before `at`, in their order, the nodes that values of the first block are computed from. known: value
    there -> value here; grows, as `place` does. A copy takes as long as its block, however many there are."""
    path, first = (at.attributes.get_string(name, "") for name in ("path", "first"))
    own = f"{prefix}{first}."

    def local(value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        if value not in known and value.producer() is None and str(value.name).startswith(own):
            known[value] = _weight(graph, f"{prefix}{path}.{str(value.name).removeprefix(own)}", value)
        return known.get(value, value)

    for node in sorted(producers(wanted, known.__contains__), key=place.__getitem__):
        inputs = [local(value) for value in node.inputs]
        if inputs == list(node.inputs):
            continue  # it is outside
        if _is(node, _BORDER):
            known[node.outputs[0]] = inputs[0]  # type: ignore[assignment]
            continue
        if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            return False
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if _is(node, OP):
            attributes["name"] = path + attributes["name"].removeprefix(first)
        outputs = [ir.Value(name=f"{v.name}/{path}", type=v.type, shape=v.shape) for v in node.outputs]
        copied = [ir.Attr(n, node.attributes[n].type, value) for n, value in attributes.items()]
        name = f"{node.name}/{path}"
        twin = ir.Node(
            node.domain, node.op_type, inputs, copied, overload=node.overload, outputs=outputs, version=node.version,
            name=name,
        )  # fmt: skip
        graph.insert_before(at, twin)
        place[twin] = (place[at][0], len(place))
        known |= dict(zip(node.outputs, outputs, strict=True))
    return True


def _weight(graph: ir.Graph, name: str, like: ir.Value) -> ir.Value:
    """The initializer of that name; where there is none, a new one like another."""
    if name not in graph.initializers:
        graph.initializers.add(ir.Value(name=name, type=like.type, shape=like.shape, const_value=like.const_value))
    return graph.initializers[name]


def _is_taken(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _is(node: ir.Node, op: str) -> bool:
    return node.domain == DOMAIN and node.op_type == op

"""Equal computations of a graph, once: layers repeat what they make of a mask, renewals the keys of a text."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import onnx_ir as ir

from .marks import DOMAIN

_COMPARED = 64  # entries of a constant; larger ones are equal where they are the same value
_PLAIN = (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT, ir.AttributeType.FLOATS,
          ir.AttributeType.STRING)  # fmt: skip


class Shared:
    """The nodes of a graph by what they compute. Two that take the same are one; marks of what a site is given are
    looked through, those of a site's outputs are not: a step may give them."""

    def __init__(self, graph: ir.Graph) -> None:
        self._outputs: dict[Hashable, Sequence[ir.Value]] = {}
        for node in list(graph):
            if node.domain == DOMAIN:
                continue
            known = self.find(node, node.inputs)
            if known is None:
                key = _key(node, node.inputs)
                if key is not None:
                    self._outputs[key] = node.outputs
                continue
            for old, new in zip(node.outputs, known, strict=True):
                ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            graph.remove(node, safe=True)

    def find(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value] | None:
        """Outputs of a node of the graph that computes what `node` would from `inputs`."""
        key = _key(node, inputs)
        return None if key is None else self._outputs.get(key)


def _key(node: ir.Node, inputs: Sequence[ir.Value | None]) -> Hashable:
    attributes = sorted(node.attributes.values(), key=lambda attribute: attribute.name)
    if any(attribute.type not in _PLAIN for attribute in attributes):
        return None
    named = tuple((attribute.name, attribute.value) for attribute in attributes)
    return node.domain, node.op_type, len(node.outputs), named, tuple(_source(value) for value in inputs)


def _source(value: ir.Value | None) -> Hashable:
    while value is not None and (mark := value.producer()) is not None and _is_given(mark):
        value = mark.inputs[0]
    if value is None or value.const_value is None or value.const_value.size > _COMPARED:
        return value
    constant = value.const_value
    return constant.dtype, tuple(constant.numpy().shape), constant.tobytes()


def _is_given(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.attributes.get_string("name", "").endswith(")")

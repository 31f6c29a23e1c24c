"""Equal computations are one, and only those that no step could tell apart."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from soda_export.trace.marks import DOMAIN, OP, input_mark, output_mark
from soda_export.trace.share import Shared


def graph_of(mark: str, factors: tuple[float, float] = (2.0, 2.0)) -> ir.Graph:
    """x * factor, twice, the second time of x behind a mark; their sum."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([3]))
    constants = [
        ir.Value(name=f"c{i}", const_value=ir.tensor(np.array(factor, np.float32))) for i, factor in enumerate(factors)
    ]
    marked = ir.Node(DOMAIN, OP, [x], [ir.AttrString("name", mark)])
    products = [ir.Node("", "Mul", [x, constants[0]]), ir.Node("", "Mul", [marked.outputs[0], constants[1]])]
    total = ir.Node("", "Add", [product.outputs[0] for product in products])
    return ir.Graph([x], total.outputs, nodes=[marked, *products, total], initializers=constants, name="toy")


def products(graph: ir.Graph) -> int:
    """How many are left where equal nodes are one."""
    Shared(graph)
    return sum(node.op_type == "Mul" for node in graph)


def test_what_a_site_is_given_is_the_value_itself() -> None:
    graph = graph_of(input_mark("blocks.0.attn", "mask"))
    assert products(graph) == 1
    total = graph.node(-1)
    assert total.inputs[0] is total.inputs[1]


@pytest.mark.parametrize(
    ("mark", "factors"),
    [(output_mark("blocks.0.attn", 0), (2.0, 2.0)), (input_mark("blocks.0.attn", "mask"), (2.0, 3.0))],
    ids=["a site's output, which a step may give", "another constant"],
)
def test_different_computations_stay_two(mark: str, factors: tuple[float, float]) -> None:
    assert products(graph_of(mark, factors)) == 2

"""Each pass does what its name says, and the graph computes what it did."""

from __future__ import annotations

from collections.abc import Callable, ItemsView

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from soda_export.errors import ModelError
from soda_export.trace.narrow import low_products
from soda_export.trace.onnx import OPSET, TracedGraph, trace_to_onnx
from soda_export.trace.tidy import (
    permuting_einsums,
    remove_dead,
    spelled_attention,
    static_reshapes,
    tidy,
    transposed_weights,
    true_squeezes,
)

D = 8


class Apply(nn.Module):
    """A function of x [R, N, D], and perhaps of a second tensor, beside two weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(D, D), nn.Parameter(torch.ones(D))
        self._function = function

    def forward(self, *given: Tensor) -> Tensor:
        return self._function(self, *given)


def traced(
    function: Callable[..., Tensor], shapes: dict[str, tuple[int, ...]], symbolic: tuple[int, ...] = (0,)
) -> TracedGraph:
    """The trace of a function, weights as names. symbolic: axes of any size."""
    mode = FakeTensorMode()
    with mode:
        module = Apply(function).eval().requires_grad_(False)
        examples = {name: torch.zeros(3, *shape) for name, shape in shapes.items()}
    return trace_to_onnx(module, examples, dict.fromkeys(examples, symbolic), mode, {}, "toy")


def played(graph: TracedGraph, weights: dict[str, Tensor], given: list[Tensor]) -> np.ndarray:
    """What ONNX Runtime makes of the graph."""
    for value, name in graph.weights.items():
        tensor = weights[name.removesuffix(".T")]
        array = (tensor.t() if name.endswith(".T") else tensor).contiguous().numpy()
        array = array.astype(np.float16) if value.dtype == ir.DataType.FLOAT16 else array
        value.const_value, value.name = ir.tensor(array, name=f"w.{name}"), f"w.{name}"
        if value not in graph.graph.initializers.values():
            graph.graph.initializers.add(value)
    model = ir.Model(graph.graph, ir_version=10)
    for name in list(graph.graph.initializers):
        if graph.graph.initializers[name].const_value is None:
            del graph.graph.initializers[name]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
    result: np.ndarray = session.run(None, feeds)[0]
    return result


def operators(graph: TracedGraph) -> list[str]:
    """Operators in order."""
    return [node.op_type for node in graph.graph]


def squeezed(module: Apply, x: Tensor) -> Tensor:
    return module.linear(x).squeeze(1)


def unpatched(module: Apply, x: Tensor) -> Tensor:
    return torch.einsum("nab->nba", module.linear(x))


def headed(module: Apply, x: Tensor) -> Tensor:
    return module.linear(x).view(x.shape[0], -1, 2, D // 2).transpose(1, 2)


def masked(module: Apply, x: Tensor, mask: Tensor) -> Tensor:
    q = module.linear(x).unsqueeze(1)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask[:, None, None, :])


@pytest.mark.parametrize(
    ("function", "run", "gone", "shapes"),
    [
        (squeezed, true_squeezes, "Squeeze", {"x": (4, D)}),
        (unpatched, permuting_einsums, "Einsum", {"x": (4, D)}),
        (headed, static_reshapes, "Shape", {"x": (4, D)}),
        (squeezed, transposed_weights, "Transpose", {"x": (4, D)}),
        (masked, spelled_attention, "Attention", {"x": (4, D), "mask": (4,)}),
    ],
    ids=["true_squeezes", "permuting_einsums", "static_reshapes", "transposed_weights", "spelled_attention"],
)
def test_a_pass_removes_what_it_is_for_and_keeps_the_result(
    function: Callable[..., Tensor], run: Callable[[TracedGraph], None], gone: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    graph = traced(function, shapes)
    if run is transposed_weights:
        true_squeezes(graph)
    run(graph)
    remove_dead(graph)
    assert gone not in operators(graph)
    torch.manual_seed(0)
    module = Apply(function).eval().requires_grad_(False)
    given = [torch.randn(2, *shape) for shape in shapes.values()]
    true_squeezes(graph)
    found = played(graph, dict(module.named_parameters()), given)
    np.testing.assert_allclose(found, module(*given).numpy(), atol=1e-5)


def test_a_reshape_of_any_rows_and_tokens_needs_no_sizes_of_its_own() -> None:
    def turned(module: Apply, x: Tensor) -> Tensor:
        return module.linear(x).transpose(1, 2).unflatten(1, (2, -1)).flatten(1, 2)

    graph = traced(turned, {"x": (4, D)}, symbolic=(0, 1))
    assert "Shape" in operators(graph)
    static_reshapes(graph)
    remove_dead(graph)
    assert "Shape" not in operators(graph)
    module = Apply(turned).eval().requires_grad_(False)
    x = torch.randn(2, 7, D)
    np.testing.assert_allclose(played(graph, dict(module.named_parameters()), [x]), module(x).numpy(), atol=1e-5)


def test_low_products_multiply_in_half_and_add_in_full() -> None:
    graph = tidy(traced(lambda module, x: module.linear(x) * module.table, {"x": (4, D)}))
    low_products(graph, ir.DataType.FLOAT16, lambda name: False)
    products = [node for node in graph.graph if node.op_type == "MatMul"]
    assert [node.outputs[0].dtype for node in products] == [ir.DataType.FLOAT16]
    assert all(node.outputs[0].dtype != ir.DataType.FLOAT16 for node in graph.graph if node.op_type in ("Add", "Mul"))
    torch.manual_seed(0)
    module = Apply(lambda module, x: module.linear(x) * module.table).eval().requires_grad_(False)
    given = [torch.randn(2, 4, D)]
    np.testing.assert_allclose(played(graph, dict(module.named_parameters()), given), module(*given), atol=5e-3)


def test_products_of_kept_weights_stay_in_full() -> None:
    graph = tidy(traced(lambda module, x: module.linear(x), {"x": (4, D)}))
    low_products(graph, ir.DataType.FLOAT16, lambda name: "linear" in name)
    assert "Cast" not in operators(graph)


def test_a_module_that_looks_at_its_data_is_refused_by_name() -> None:
    def branching(module: Apply, x: Tensor) -> Tensor:
        return module.linear(x) if float(x.sum()) > 0 else x

    with pytest.raises(ModelError, match="toy: cannot be traced: ") as caught:
        traced(branching, {"x": (4, D)})
    assert "\n" not in str(caught.value)


def test_graphs_are_of_the_stated_opset() -> None:
    assert OPSET == 23


class Looked(dict[ir.Value, str]):
    """Weights that count how often all of them are gone through."""

    times = 0

    def items(self) -> ItemsView[ir.Value, str]:
        self.times += 1
        return super().items()


@pytest.mark.parametrize("products", [2, 20])
def test_weights_are_gone_through_once_however_many_are_transposed(products: int) -> None:
    x, kind = ir.Value(name="x", shape=ir.Shape(["rows", D])), ir.TensorType(ir.DataType.FLOAT)
    weights, nodes = Looked(), list[ir.Node]()
    for i in range(products):
        weight = ir.Value(name=f"w{i // 2}", type=kind, shape=ir.Shape([D, D]))
        weights[weight] = f"w{i // 2}"  # each is there twice
        nodes.append(ir.node("Gemm", [nodes[-1].outputs[0] if nodes else x, weight], {"transB": 1}, name=f"gemm{i}"))
    graph = TracedGraph(ir.Graph([x], nodes[-1].outputs, nodes=nodes, name="row"), weights)
    transposed_weights(graph)
    assert weights.times <= 1
    assert [node.op_type for node in graph.graph] == ["MatMul"] * products
    assert len({node.inputs[1] for node in graph.graph}) == products // 2

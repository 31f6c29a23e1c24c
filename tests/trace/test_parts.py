"""Small modules traced, folded and narrowed: what cannot be traced says where, and passes keep what is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from soda_export.errors import ModelError
from soda_export.models.fake import FakeModel, make_fake
from soda_export.trace.fuse import fuse
from soda_export.trace.narrow import narrow
from soda_export.trace.onnx import OPSET, TracedGraph, trace_to_onnx
from soda_export.trace.tidy import TRANSPOSED, tidy

LOW, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def fake_of(make: Callable[[], nn.Module]) -> FakeModel:
    """What `make` makes, without its weights."""

    def build(parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        module = make().eval()
        for part in module.modules():
            for name, own in part._parameters.items():
                part._parameters[name] = None if own is None else nn.Parameter(parameter(own), requires_grad=False)
        return module

    return make_fake(build, torch.float32)


def _trace(make: Callable[[], nn.Module], example: Tensor, independent: bool = False) -> TracedGraph:
    fake = fake_of(make)
    with fake.mode:
        examples = {"x": example.clone()}
    return trace_to_onnx(fake.module, examples, {"x": (0,)}, fake.mode, {}, "Toy", independent)


def run_traced(traced: TracedGraph, state: dict[str, Tensor], x: Tensor) -> np.ndarray[Any, Any]:
    """With the weights of `state`."""
    graph = traced.graph
    for value, name in traced.weights.items():
        tensor = state[name.removesuffix(TRANSPOSED)]
        turned = tensor.t() if name.endswith(TRANSPOSED) else tensor
        value.const_value = ir.tensor(turned.to(torch.float16 if value.dtype == LOW else torch.float32).numpy())
        if value.name not in graph.initializers:
            graph.initializers.add(value)
    graph.opset_imports[""] = OPSET
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    result: np.ndarray[Any, Any] = ReferenceEvaluator(model).run(None, {"x": x.numpy()})[0]
    return result


def _ops(traced: TracedGraph) -> Counter[str]:
    return Counter(node.op_type for node in traced.graph)


class Norm(nn.Module):
    """As T5's and Llama's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Activated(nn.Module):
    """A norm, transformers' NewGELUActivation and an attention without scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = Norm(), nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

    def forward(self, *given: Tensor) -> Tensor:
        from transformers.activations import NewGELUActivation

        (x,) = given
        x = x + self.down(NewGELUActivation()(self.up(self.norm(x))))
        split = x.reshape(x.shape[0], -1, 2, 4).transpose(1, 2)
        mask = torch.zeros(1, 1, x.shape[1], x.shape[1])
        joined = nn.functional.scaled_dot_product_attention(split, split, split, attn_mask=mask, scale=1.0)
        return (joined.transpose(1, 2).reshape(x.shape) / 1.0).clamp(-1, 1)


def test_spelled_out_norms_and_activations_become_one_operator() -> None:
    torch.manual_seed(0)
    module, x = Activated().eval(), torch.randn(3, 5, 8)
    traced = fuse(tidy(_trace(Activated, x)))
    ops = _ops(traced)
    assert (ops["RMSNormalization"], ops["Gelu"], ops["Clip"]) == (1, 1, 1)
    assert not {"Pow", "Tanh", "Sqrt", "Reciprocal", "Mul", "Div", "Identity"} & ops.keys()
    with torch.no_grad():
        expected = module(x[:2]).numpy()
    np.testing.assert_allclose(run_traced(traced, module.state_dict(), x[:2]), expected, rtol=0, atol=1e-5)


def test_narrow_products_leave_sums_norms_and_softmax_in_float32() -> None:
    torch.manual_seed(0)
    module, x = Activated().eval(), torch.randn(3, 5, 8)
    traced = narrow(fuse(tidy(_trace(Activated, x))), LOW, lambda name: name.startswith("down"))
    for node in traced.graph:
        types = {value.dtype for value in node.inputs if value is not None and value.dtype in (LOW, FLOAT)}
        if node.op_type in ("RMSNormalization", "Add", "Softmax", "Gelu"):
            assert types == {FLOAT}, node.name
        if node.op_type == "MatMul":
            kept = any(traced.weights.get(value, "").startswith("down") for value in node.inputs if value is not None)
            assert types == ({FLOAT} if kept else {LOW}), node.name
    stored = {name: value.dtype for value, name in traced.weights.items()}
    assert stored == {"norm.weight": FLOAT, "up.weight.T": LOW, "up.bias": FLOAT, "down.weight.T": FLOAT}
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(run_traced(traced, module.state_dict(), x), expected, rtol=0, atol=0.02)


def test_what_is_only_moved_between_products_is_never_widened() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8, bias=False) for _ in range(3))

        def forward(self, *given: Tensor) -> Tensor:
            (x,) = given
            q, k, v = (part(x).reshape(x.shape[0], -1, 2, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
            return q @ k.transpose(2, 3) @ v

    torch.manual_seed(0)
    module, x = Attend().eval(), torch.randn(3, 5, 8)
    traced = narrow(fuse(tidy(_trace(Attend, x))), LOW, lambda name: False)
    assert _ops(traced)["Cast"] == 2  # of x, and of the result
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(run_traced(traced, module.state_dict(), x), expected, rtol=0, atol=0.02)


def test_a_table_is_stored_narrow_and_what_is_looked_up_is_widened() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 8)

        def forward(self, *given: Tensor) -> Tensor:
            return self.table(given[0])  # type: ignore[no-any-return]

    module, ids = Table().eval(), torch.tensor([[1, 2], [3, 6], [0, 0]])
    traced = narrow(tidy(_trace(Table, ids)), LOW, lambda name: False)
    assert [value.dtype for value in traced.weights] == [LOW]
    assert traced.graph.outputs[0].dtype == FLOAT
    found = run_traced(traced, module.state_dict(), ids)
    np.testing.assert_allclose(found, module(ids).detach(), rtol=1e-3, atol=1e-6)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity(), Branching()])

    def forward(self, *given: Tensor) -> Tensor:
        return self.blocks[1](given[0])  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_traced_is_one_line_with_module_and_source() -> None:
    message = r"^Toy: blocks\.1: cannot be traced: Could not guard .*test_parts\.py\", line \d+, in forward\)$"
    with pytest.raises(ModelError, match=message):
        _trace(Outer, torch.randn(3, 8))


@pytest.mark.parametrize("independent", [False, True])
def test_code_that_fixes_the_number_of_rows_is_refused(independent: bool) -> None:
    class Fixed(nn.Module):
        def forward(self, *given: Tensor) -> Tensor:
            return given[0].reshape(3, 2, 4)

    with pytest.raises(ModelError, match=r"^Toy: cannot be traced: .*(rows|axis 0)"):
        _trace(Fixed, torch.randn(3, 8), independent)

"""Blocks that are alike are traced once, and the graph is what it would be if each were traced."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from soda_export.models.load import ModelRequest, load_model
from soda_export.models.paths import site_modules
from soda_export.trace.denoiser import trace_denoiser
from soda_export.trace.graph import DenoiserGraph, join_graph
from soda_export.trace.marks import DOMAIN
from soda_export.trace.onnx import trace_to_onnx
from soda_export.trace.repeat import Repeats
from soda_export.trace.stamp import into, out_of, stamp
from soda_export.trace.walk import producers
from tests.tiny_models import save_tiny_sd3, save_tiny_unet
from tests.trace.test_parts import fake_of, run_traced

bodies: list[int] = []
"""Appended to whenever the code of a toy's block runs."""


class Block(nn.Module):
    """Two values of one; asks for its sizes, and may do something else."""

    def __init__(self, factor: float = 1.0, in_place: bool = False, shared: nn.Module | None = None) -> None:
        super().__init__()
        self.factor, self.in_place = factor, in_place
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8) if shared is None else shared
        self.register_buffer("offset", torch.rand(8))

    def forward(self, x: Tensor, time: Tensor | None = None, flag: bool = False) -> tuple[Tensor, Tensor | None, int]:
        bodies.append(1)
        rows, tokens, width = x.shape
        made = self.linear(self.norm(x)).reshape(rows, tokens * width).reshape(rows, tokens, width)
        made = made * self.factor + self.offset + (0 if time is None else 0.1 * time)
        if self.in_place:
            x.mul_(0.5)
        return x + made, (made.tanh() if flag else made.sigmoid()), 3


class Net(nn.Module):
    """Blocks in a row. flags: whether each is called so; summed: blocks whose second value is taken."""

    def __init__(
        self, blocks: list[nn.Module], flags: str = "0000", summed: str = "1111", twice: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.flags, self.summed, self.twice = flags, summed, twice

    def forward(self, *given: Tensor) -> Tensor:
        (x,) = given
        x, total = x + 1, torch.zeros(())
        for _ in range(1 + self.twice):
            for block, flag, summed in zip(self.blocks, self.flags, self.summed, strict=False):
                before = x
                x, second, count = block(x, flag=flag == "1", time=x.mean(1, keepdim=True) if flag == "0" else None)
                total = total + (second * count if summed == "1" else 0) + before
        return x + total


class Outer(nn.Module):
    """A block that has blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor, time: Tensor | None = None, flag: bool = False) -> tuple[Tensor, Tensor, int]:
        total = torch.zeros(())
        for block in self.inner:
            x, second, _ = block(x, time, flag)
            total = total + second
        return x, total, 2


def hooked() -> nn.Module:
    net = Net([Block() for _ in range(4)])
    net.blocks[2].linear.register_forward_hook(lambda module, args, output: output * 2)  # type: ignore[union-attr,operator]
    return net


def tied() -> nn.Module:
    shared = nn.Linear(8, 8)
    return Net([Block(shared=shared) for _ in range(4)])


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "alike": (lambda: Net([Block() for _ in range(4)]), 1),
    "attributes": (lambda: Net([Block(float(i > 1)) for i in range(4)]), 2),
    "calls": (lambda: Net([Block() for _ in range(4)], flags="0101"), 2),
    "nested": (lambda: Net([Outer() for _ in range(3)]), 1),
    "nested, others called": (lambda: Net([Outer() for _ in range(3)], flags="011"), 2),
    "hooks": (hooked, 2),
    "tied weights": (tied, 4),
    "in place": (lambda: Net([Block(in_place=True) for _ in range(4)]), 4),
    "called again": (lambda: Net([Block() for _ in range(4)], twice=True), 5),
    "what the first gives is not taken": (lambda: Net([Block() for _ in range(4)], summed="0011"), 5),
}
"""Name -> a net, and how often the code of its blocks runs."""


@pytest.mark.parametrize("name", NETS)
def test_a_block_is_traced_once_where_its_like_is_called_alike(name: str) -> None:
    make, expected = NETS[name]
    torch.manual_seed(0)
    real, fake = make().eval(), fake_of(make)
    with fake.mode:
        examples = {"x": torch.zeros(3, 4, 8)}
    bodies.clear()
    traced = trace_to_onnx(fake.module, examples, {"x": (0,)}, fake.mode, {}, "Toy", repeats=Repeats(fake.module))
    assert len(bodies) == expected
    assert not any(node.domain == "soda" for node in traced.graph)
    given = torch.randn(5, 4, 8)
    with torch.no_grad():
        wanted = real(given.clone())
    found = run_traced(traced, real.state_dict(), given)
    assert np.abs(found - wanted.numpy()).max() < 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("blocks", [8, 64])
def test_stamping_visits_a_node_a_few_times_however_many_blocks_there_are(
    blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, visited, real = row_of_blocks(blocks), [0], ir.Graph.__iter__

    def visiting(of: ir.Graph) -> Iterator[ir.Node]:
        for node in real(of):
            visited[0] += 1
            yield node

    monkeypatch.setattr(ir.Graph, "__iter__", visiting)
    assert stamp(graph, "")
    assert visited[0] < 10 * blocks
    monkeypatch.undo()
    assert [node.op_type for node in graph] == ["Add", "Mul"] * blocks
    weights = [str(node.inputs[1].name) for node in graph if node.inputs[1] is not None]
    assert weights == [f"blocks.{i}.{name}" for i in range(blocks) for name in ("a", "b")]


def row_of_blocks(count: int) -> ir.Graph:
    """x + a, times b, again and again; all blocks but the first are single nodes."""
    x, kind = ir.Value(name="x"), ir.TensorType(ir.DataType.FLOAT)
    weights = [ir.Value(name=f"blocks.0.{name}", type=kind, shape=ir.Shape([8])) for name in ("a", "b")]
    nodes = [ir.node("Border", [x], {"name": into("blocks.0", 0)}, domain=DOMAIN)]
    nodes.append(ir.node("Add", [nodes[-1].outputs[0], weights[0]]))
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0], weights[1]]))
    nodes.append(ir.node("Border", [nodes[-1].outputs[0]], {"name": out_of("blocks.0", 0)}, domain=DOMAIN))
    for i in range(1, count):
        names = {"path": f"blocks.{i}", "first": "blocks.0"}
        nodes.append(ir.node("Repeat", [nodes[-1].outputs[0]], names, domain=DOMAIN))
    return ir.Graph([x], [nodes[-1].outputs[0]], nodes=nodes, initializers=weights, name="row")


def form_of(graph: DenoiserGraph) -> dict[str, object]:
    """What each value that a plan may ask for is computed from, with the shapes on the way."""
    known: dict[ir.Value, str] = {}

    def of(value: ir.Value | None) -> str:
        if value is None or value in known:
            return "" if value is None else known[value]
        constant = value.const_value
        return graph.weights.get(value) or (repr(constant.numpy()) if constant is not None else str(value.name))

    def computed(value: ir.Value) -> str:
        for node in producers([value], known.__contains__):
            attributes = sorted(str(attribute) for attribute in node.attributes.values())
            for i, output in enumerate(node.outputs):
                what = (node.op_type, attributes, [of(v) for v in node.inputs], i, str(output.shape), str(output.dtype))
                known[output] = hashlib.sha256(repr(what).encode()).hexdigest()
        return of(value)

    sites = [
        [computed(value) for value in (*site.outputs, site.tokens, site.renewed) if value is not None]
        for site in graph.sites
    ]
    return {"prediction": computed(graph.prediction), "sites": sites, "order": graph.order,
            "weights": sorted(set(graph.weights.values()))}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("save", [save_tiny_sd3, save_tiny_unet])
def test_a_models_graph_is_the_same_as_if_every_block_were_traced(
    save: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(ModelRequest(str(save(tmp_path / "model"))))
    fake = loaded.fake(torch.float32)
    modules = {site.path: site for site in site_modules(fake.module, loaded.family)}
    kinds = [site.rule.kind for site in modules.values() if site.rule.renew]
    repeats = Repeats(fake.module)

    def traced() -> dict[str, object]:
        trace = trace_denoiser(fake, loaded.family, loaded.spec, loaded.constants, torch.float32, kinds)
        return form_of(join_graph(trace, [modules[site.name] for site in loaded.spec.sites]))

    shared = traced()
    monkeypatch.setattr("soda_export.trace.denoiser.Repeats", lambda *args: _none_alike(repeats))
    assert shared == traced()


def _none_alike(repeats: Any) -> Any:
    repeats.forget()
    return repeats

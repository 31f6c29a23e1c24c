"""Graphs can be read by other tools: every value has a shape, and each graph says what it is."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from soda_export import __version__
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.tiny_models import save_tiny_unet


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """Of a UNet and its decoder, which have GroupNormalization."""
    root = tmp_path_factory.mktemp("unet")
    bench = Workbench(
        str(save_tiny_unet(root / "model")), SamplerOptions("ddim", 2, 0.0, 5.0), StageStore(root / "work"),
        lambda *_: None,
    )  # fmt: skip
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, 2), "everything")
    out: Path = bench.build(plan, "ort", root / "bundle", BundleOptions(without=("text-encoder",))).out
    return {path.name: onnx.load(str(path), load_external_data=False) for path in out.glob("*.onnx")}


def test_every_value_has_a_type_and_a_shape(graphs: dict[str, onnx.ModelProto]) -> None:
    assert any(node.op_type == "GroupNormalization" for node in graphs["decoder.onnx"].graph.node)
    for name, model in graphs.items():
        graph = model.graph
        known = {v.name for v in (*graph.value_info, *graph.output) if v.type.tensor_type.HasField("shape")}
        assert [n.name for n in graph.node if n.output[0] not in known] == [], name


def test_each_says_what_it_is_and_who_made_it(graphs: dict[str, onnx.ModelProto]) -> None:
    for model in graphs.values():
        assert (model.producer_name, model.producer_version) == ("soda-export", __version__)
    step = graphs["program-00.onnx"].graph.doc_string
    assert step.startswith("denoising step: state -> the next state; of ")
    assert " 0 reused" in step
    assert graphs["decoder.onnx"].graph.doc_string == "latents -> images in 0..1"

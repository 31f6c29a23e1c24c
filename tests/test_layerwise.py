"""`verify --programs` agrees with a sound bundle, and names the layer where another begins to differ."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from soda_runtime.bundle import Bundle
from soda_runtime.signature import step_signature

from soda_export.bench import layerwise
from soda_export.bench.layerwise import (
    compare_programs,
    compare_values,
    example_inputs,
    run_engine,
    run_reference_model,
)
from soda_export.cli.engines import inspect_engines
from soda_export.cli.verify import verify
from soda_export.errors import UsageError
from tests.runtime.bundles import GOLDEN_V3, GOLDEN_V3_TEXT


@pytest.mark.parametrize("folder", [GOLDEN_V3, GOLDEN_V3_TEXT])
def test_every_program_of_the_golden_bundles_computes_what_onnx_defines(folder: Path) -> None:
    manifest = Bundle.open(folder, backend="null").manifest
    compared = compare_programs(folder, lambda *_: None)
    assert len(compared) == len(manifest.prepare) + len(manifest.programs) + len(manifest.finish)
    assert all(each.first_bad == "" and each.worst < 1e-5 for each in compared)
    assert sum(each.compared for each in compared) > 500
    assert not list(folder.glob(".*"))


def _values() -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """A step's values as they should be, and with one weight of its second layer wrong; the node that has it."""
    bundle = Bundle.open(GOLDEN_V3, threads=1)
    model = onnx.load(str(GOLDEN_V3 / "step-00.onnx"))
    feeds = example_inputs(bundle, step_signature(bundle.manifest, 0), 0)
    expected = run_reference_model(model, feeds)
    weight = next(t for t in model.graph.initializer if t.name.startswith("layers.1.ff.") and len(t.dims) == 2)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    target = next(t for t in wrong.graph.initializer if t.name == weight.name)
    target.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    node = next(node.name for node in model.graph.node if weight.name in node.input)
    return model, expected, run_reference_model(wrong, feeds), node


def test_the_first_layer_that_is_off_is_named() -> None:
    model, expected, found, node = _values()
    result = compare_values("step-00.onnx", model, expected, found, 1e-3)
    assert result.first_bad.split()[0] == node
    assert result.worst > 1e-2


@pytest.mark.parametrize("damage", ["nan", "shape", "inf"])
def test_values_that_are_not_finite_or_of_another_shape_are_off(damage: str) -> None:
    model, expected, _, _ = _values()
    node = model.graph.node[40]
    found = dict(expected)
    value = expected[node.output[0]].copy()
    if damage == "shape":
        value = value[..., None]
    else:
        value.reshape(-1)[0] = np.nan if damage == "nan" else np.inf
    found[node.output[0]] = value
    assert compare_values("x", model, expected, found, 1e-3).first_bad.split()[0] == node.name


def test_nan_on_both_sides_is_a_difference_and_a_mask_of_infinities_is_none() -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"], "layer")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    for value, bad in ((np.nan, "layer (Identity)"), (-np.inf, "")):
        both = {"x": np.zeros(2, np.float32), "y": np.array([1.0, value], np.float32)}
        assert compare_values("x", model, both, both, 1e-3).first_bad == bad
    other = {**both, "y": np.array([1.0, np.inf], np.float32)}
    assert compare_values("x", model, both, other, 1e-3).first_bad == "layer (Identity)"


def test_a_bad_layer_of_an_openvino_bundle_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = tmp_path / "bundle"
    shutil.copytree(GOLDEN_V3, folder)
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace('"backend": "ort"', '"backend": "openvino"'))
    model, _, _, node = _values()
    wrong_from = [n.name for n in model.graph.node].index(node)

    def wrong(graph: onnx.ModelProto, feeds: object) -> dict[str, np.ndarray]:
        values = run_reference_model(graph, feeds)
        return {n: value * 2 if value.dtype.kind == "f" and n in later else value for n, value in values.items()}

    later = {name for n in model.graph.node[wrong_from:] for name in n.output}
    monkeypatch.setattr(layerwise, "run_reference_model", wrong)
    bad = next(each for each in compare_programs(folder, lambda *_: None) if each.file == "step-00.onnx")
    assert bad.first_bad.split()[0] == node


def test_a_bundle_of_hard_links_is_compared(tmp_path: Path) -> None:
    """As `cp -al` and stores of packages make them: onnx.load refuses such external data."""
    shutil.copytree(GOLDEN_V3, tmp_path / "bundle", copy_function=shutil.copyfile)
    shutil.copytree(tmp_path / "bundle", tmp_path / "linked", copy_function=os.link)
    compared = compare_programs(tmp_path / "linked", lambda *_: None)
    assert all(each.first_bad == "" for each in compared)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_result_that_is_not_finite_is_off_though_the_reference_agrees(value: float) -> None:
    model, expected, _, _ = _values()
    wrong = {**expected, "state_out": np.full_like(expected["state_out"], value)}
    result = compare_values("step-00.onnx", model, wrong, wrong, 1e-3)
    assert result.first_bad
    assert result.worst == np.inf


def test_nan_within_a_program_is_off_and_a_mask_of_infinities_is_not() -> None:
    model, expected, _, _ = _values()
    name = model.graph.node[len(model.graph.node) // 2].output[0]
    values = np.zeros(4, np.float32)
    for value, is_off in ((np.nan, True), (-np.inf, False)):
        values[1] = value
        given = {**expected, name: values.copy()}
        assert bool(compare_values("step-00.onnx", model, given, given, 1e-3).first_bad) == is_off
    other = {**expected, name: -values}
    assert compare_values("step-00.onnx", model, {**expected, name: values}, other, 1e-3).first_bad


def test_other_tokens_of_equal_scores_end_the_comparison_and_are_not_an_error() -> None:
    scores = np.array([[0.5, 0.5, 0.1, 0.9]], np.float32)
    node = onnx.helper.make_node("TopK", ["scores", "k"], ["values", "indices"], "select")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    expected = {"scores": scores, "values": np.array([[0.9, 0.5]], np.float32), "indices": np.array([[3, 0]])}
    tied = {**expected, "indices": np.array([[3, 1]])}
    assert compare_values("x", model, expected, tied, 1e-3).stopped == "select"
    wrong = {**expected, "indices": np.array([[3, 2]])}
    assert compare_values("x", model, expected, wrong, 1e-3).first_bad.startswith("select")


def test_the_runtime_gives_what_the_comparison_gave() -> None:
    bundle = Bundle.open(GOLDEN_V3, threads=1)
    signature = step_signature(bundle.manifest, 0)
    feeds = example_inputs(bundle, signature, 0)
    expected = run_reference_model(onnx.load(str(GOLDEN_V3 / "step-00.onnx")), feeds)
    found = run_engine(bundle, bundle.engine(0), signature, feeds)
    assert found.keys() == signature.outputs.keys()
    assert all(np.allclose(found[name], expected[name], atol=1e-5) for name in found)


def test_the_verb_prints_every_program(capsys: pytest.CaptureFixture[str]) -> None:
    verify(str(GOLDEN_V3), programs=True, json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"]
    assert len(printed["programs"]) == 9
    verify(str(GOLDEN_V3), programs=True)
    assert "values, the worst off by" in capsys.readouterr().out


def test_engines_that_are_graphs_show_their_operators(capsys: pytest.CaptureFixture[str]) -> None:
    inspect_engines(GOLDEN_V3, json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["step-00.onnx"]["operators"]["MatMul"] == 13
    with pytest.raises(UsageError, match="--engines is for a bundle folder"):
        inspect_engines(GOLDEN_V3 / "nothing", json=True)

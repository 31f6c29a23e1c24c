"""The rewrites that TensorRT needs give what the graphs gave, in ONNX Runtime, which takes both forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from soda_runtime import Bundle
from soda_runtime.engine_index import EngineEntry

from soda_export.compile.content import graph_content, weights_file
from soda_export.compile.nvidia.rewrite import drop_softmax_precision, split_large_topk, weights_to_inputs
from soda_export.errors import CompileError
from tests.runtime.bundles import GOLDEN_V3, distance, fix_hashes, golden_request, golden_results
from tests.runtime.fake_cuda import FakeCuda, install_cuda
from tests.runtime.fake_tensorrt import FakeTensorRT, install_tensorrt, make_plan
from tests.runtime.nvidia_bundles import edit_index, make_nvidia_bundle


def _topk_model(tokens: int, keep: int, scores_too: bool = False) -> onnx.ModelProto:
    node = helper.make_node("TopK", ["scores", "k"], ["values", "indices"], "select", axis=1, largest=1, sorted=1)
    outputs = [helper.make_tensor_value_info("indices", TensorProto.INT64, ["batch", keep])]
    if scores_too:
        outputs.append(helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", keep]))
    graph = helper.make_graph(
        [node], "topk", [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", tokens])], outputs,
        [numpy_helper.from_array(np.array([keep], np.int64), "k")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(["indices"], feeds)[0]
    return result


@pytest.mark.parametrize(("tokens", "keep", "limit"), [(16, 12, 8), (64, 63, 8), (4096, 3904, 3840), (9, 8, 1)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_complement_selects_the_same_tokens(tokens: int, keep: int, limit: int, ties: bool) -> None:
    random = np.random.default_rng(tokens)
    scores = random.standard_normal((3, tokens)).astype(np.float32)
    if ties:  # of equal scores the lower index is kept
        scores = np.round(scores * 2)
    expected = _run(_topk_model(tokens, keep), {"scores": scores})
    model = _topk_model(tokens, keep)
    assert split_large_topk(model, limit) == 1
    onnx.checker.check_model(model)
    found = _run(model, {"scores": scores})
    assert np.array_equal(found, np.sort(expected, axis=1))


def test_a_selection_within_the_limit_stays() -> None:
    model = _topk_model(4096, 3840)
    assert split_large_topk(model) == 0
    assert [node.op_type for node in model.graph.node] == ["TopK"]


def test_a_selection_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(CompileError, match=r"keeps 4000 of 8192 tokens; TensorRT selects at most 3840"):
        split_large_topk(_topk_model(8192, 4000))
    with pytest.raises(CompileError, match="TopK of 4000 gives scores"):
        split_large_topk(_topk_model(4096, 4000, scores_too=True))


def test_attention_loses_its_softmax_precision_alone() -> None:
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], softmax_precision=1, is_causal=0)
    model = helper.make_model(helper.make_graph([node], "a", [], []))
    assert drop_softmax_precision(model) == 1
    assert [attribute.name for attribute in model.graph.node[0].attribute] == ["is_causal"]


def test_weights_become_inputs_but_those_of_a_convolution() -> None:
    model = onnx.load(str(GOLDEN_V3 / "step-00.onnx"), load_external_data=False)
    before = {tensor.name for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL}
    moved = set(weights_to_inputs(model))
    convolutions = {name for node in model.graph.node if node.op_type == "Conv" for name in node.input[1:]}
    assert moved == before - convolutions
    assert {value.name for value in model.graph.input} >= moved
    assert not moved & {tensor.name for tensor in model.graph.initializer}


def test_engines_play_on_one_device_copy_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install_cuda(monkeypatch, FakeCuda())
    install_tensorrt(monkeypatch, FakeTensorRT(cuda, "tensorrt_rtx"))
    folder = make_nvidia_bundle(tmp_path / "bundle", GOLDEN_V3)
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(str(GOLDEN_V3 / path.name), load_external_data=False)
        weights_to_inputs(model)
        rewritten = tmp_path / path.name
        (tmp_path / "weights.safetensors").write_bytes((GOLDEN_V3 / "weights.safetensors").read_bytes())
        rewritten.write_bytes(model.SerializeToString())
        path.write_bytes(make_plan(rewritten, graph_content(GOLDEN_V3 / path.name), ["sm89"]))
    entries = {
        path.name: EngineEntry(graph_content(GOLDEN_V3 / path.name), "weights.safetensors", 0).__dict__
        for path in folder.glob("*.onnx")
    }
    edit_index(folder, weights="inputs", engines=entries)
    fix_hashes(folder)
    with Bundle.open(folder) as bundle, bundle.session() as session:
        for _ in range(3):
            latents = session.generate(**golden_request(GOLDEN_V3))
            assert distance(latents, golden_results(GOLDEN_V3)["latents"]) < 1e-4
        held = bundle.backend.weights.nbytes  # type: ignore[attr-defined]
    assert held < 1.15 * (GOLDEN_V3 / "weights.safetensors").stat().st_size
    assert not cuda.device


def test_content_is_what_a_graph_computes_not_what_it_is_called(tmp_path: Path) -> None:
    original = GOLDEN_V3 / "step-00.onnx"
    model = onnx.load(str(original), load_external_data=False)
    model.graph.name = "another"
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(model.SerializeToString())
    weights = (GOLDEN_V3 / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(weights)
    assert graph_content(moved) == graph_content(original)
    assert weights_file(moved) == "weights.safetensors"
    changed = bytearray(weights)
    place = {entry.key: entry.value for entry in model.graph.initializer[0].external_data}
    for tensor in model.graph.initializer:
        if tensor.external_data:
            place = {entry.key: entry.value for entry in tensor.external_data}
    changed[int(place["offset"])] ^= 1
    other = tmp_path / "other"
    other.mkdir()
    (other / "moved.onnx").write_bytes(moved.read_bytes())
    (other / "weights.safetensors").write_bytes(changed)
    assert graph_content(other / "moved.onnx") != graph_content(original)

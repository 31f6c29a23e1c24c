"""What the exported files are like: one weights file, clean graphs, nothing duplicated."""

from __future__ import annotations

import onnx

from soda_export.export.arrange import program_name
from soda_export.export.prepare import STEPS_NAME
from soda_export.models.decisions import REUSE
from soda_export.trace.onnx import OPSET
from soda_export.workbench.pipeline import Built


def _graphs(built: Built) -> dict[str, onnx.ModelProto]:
    return {p.name: onnx.load(str(p), load_external_data=False) for p in sorted(built.out.glob("*.onnx"))}


def test_every_weight_lies_in_the_one_weights_file(tiny_bundle: Built) -> None:
    for name, model in _graphs(tiny_bundle).items():
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                assert entries["location"] == "weights.safetensors"
            else:
                assert len(tensor.raw_data) <= 1024, f"{name}: {tensor.name} is a weight inside the graph"


def test_graphs_use_only_standard_operators_of_the_stated_opset(tiny_bundle: Built) -> None:
    for model in _graphs(tiny_bundle).values():
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
        assert {node.domain for node in model.graph.node} == {""}
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def test_step_programs_have_no_trace_of_hoisted_work(tiny_bundle: Built) -> None:
    """Timestep and label embeddings and adaLN's linear layers run in their own program alone."""
    for name, model in _graphs(tiny_bundle).items():
        weights = {t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
        hoisted = [w for w in weights if ".norm1.linear" in w or ".emb." in w or "proj_out_1" in w]
        assert bool(hoisted) == (name == STEPS_NAME)


def test_a_reused_step_runs_no_matrix_product_but_the_heads(tiny_bundle: Built) -> None:
    reused = next(p for p in _reused(tiny_bundle))
    products = [n for n in reused.graph.node if n.op_type in ("MatMul", "Gemm", "Attention")]
    weights = {t.name for t in reused.graph.initializer}
    assert [next(i for i in n.input if i in weights) for n in products] == ["proj_out_2.weight.T"]


def _reused(built: Built) -> list[onnx.ModelProto]:
    graphs = _graphs(built)
    return [
        graphs[program_name(i)]
        for i, program in enumerate(built.table.programs)
        if all(work == REUSE for work in program.work[:-1])
    ]

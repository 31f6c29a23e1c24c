"""Bundles in half precision: near fp32, half the bytes, and fp32 where it matters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from soda_runtime import Embeds, EngineError, Noise, Session
from soda_runtime.backends.openvino import compute_precision, process_core
from soda_runtime.checks import open_manifest
from soda_runtime.request import example_request
from soda_runtime.tensors import TensorEntry, read_header, read_tensors
from torch import Tensor

from soda_export.errors import CompileError
from soda_export.export.export import export_programs
from soda_export.export.tensor_file import TensorSource
from soda_export.export.weights import quantized_sources
from soda_export.lower.lower import lower_plan
from soda_export.lower.program import ProgramTable
from soda_export.models.load import load_model
from soda_export.models.precision import Precision, numbers_of
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.plan import Plan
from soda_export.report.describe import describe_precision
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.export.selection import SelectionRecorder, follow_engine, label_rows
from tests.tiny import make_plan, mixed_kept

FP16_BOUND, BF16_BOUND, INT8_BOUND = 2e-3, 0.03, 0.04
"""Largest difference from fp32, relative to the largest value of the same tensor; measured
3e-4, 1e-2 and 1e-2."""
BATCH = 2
_TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16",
          onnx.TensorProto.BFLOAT16: "bfloat16", onnx.TensorProto.INT64: "int64"}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model, a plan with steps of every kind, and a request to it in the reference's and the session's words."""

    bench: Workbench
    plan: Plan
    rows: dict[str, Tensor]
    request: dict[str, Any]
    noise: Noise


@pytest.fixture(scope="module", params=[pytest.param("dit", marks=pytest.mark.long), "pixart"])
def case(
    request: pytest.FixtureRequest, tiny_model: Path, tiny_pixart: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    folder, sampler, guidance = (
        (tiny_model, "ddim", 1.5) if request.param == "dit" else (tiny_pixart, "dpm-solver++", 4.5)
    )
    loaded = load_model(str(folder))
    loaded = replace(loaded, scheduler_config={**loaded.scheduler_config, "beta_end": 0.002})
    store = StageStore(tmp_path_factory.mktemp("precision"))
    bench = Workbench(loaded, SamplerOptions(sampler, 8, 0.0, guidance), store, lambda *_: None)
    spec, rng = loaded.spec, np.random.default_rng(3)
    plan = make_plan(spec, mixed_kept(modules=len(spec.kinds) - 1), sampler, guidance=guidance)
    plan = replace(plan, token_score="cached")  # inputs of a single program then decide which tokens it keeps
    noise = Noise(rng.standard_normal((BATCH, *spec.latent_shape)).astype(np.float32))
    if request.param == "dit":
        return Case(bench, plan, label_rows([3, 7], bench), {"labels": [3, 7]}, noise)
    embeds = rng.standard_normal((2 * BATCH, 8, 16)).astype(np.float32)
    mask = (np.arange(8) < np.array([8, 3, 5, 1])[:, None]).astype(np.int64)
    given = Embeds(embeds[:BATCH], mask[:BATCH], embeds[BATCH:], mask[BATCH:])
    rows = {"embeds": torch.from_numpy(embeds), "attention_mask": torch.from_numpy(mask)}
    return Case(bench, plan, rows, {"embeds": given}, noise)


@pytest.fixture(scope="module")
def half(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp16 bundle, with every part that the model has."""
    out = tmp_path_factory.mktemp("shelf") / "fp16"
    return case.bench.build(case.plan, "ort", out, BundleOptions(precision="fp16")).out


def export(case: Case, precision: Precision, folder: Path, backend: str = "openvino") -> Path:
    """Graphs and weights alone."""
    folder.mkdir()
    numbers = numbers_of(precision, backend)
    table = lower_plan(case.plan, case.bench.loaded.spec, numbers.compute)
    export_programs(case.bench.loaded, case.bench.sampler, table, numbers, folder, lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def exports(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exports")
    return {p: export(case, p, root / p) for p in ("fp32", "bf16", "int8-weights", "int8")}  # type: ignore[arg-type]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def test_fp16_on_onnx_runtime_stays_near_the_fp32_reference(case: Case, half: Path, tmp_path: Path) -> None:
    """With the engine's own choice of tokens."""
    table = lower_plan(case.plan, case.bench.loaded.spec, "fp16")
    recorder = SelectionRecorder(case.bench, table, tmp_path / "debug", "fp16")
    expected = follow_engine(case.bench, table, case.rows, case.noise, recorder.record(case.rows, case.noise))
    found = Session.open(half).generate(**case.request, noise=case.noise)
    error = relative(found, expected)
    print(f"fp16 {case.bench.loaded.spec.family}: {error:.1e} of {np.abs(expected).max():.1f}")
    assert 0 < error <= FP16_BOUND


def test_all_compute_in_fp16_stays_near_the_fp32_reference(case: Case, half: Path) -> None:
    table = lower_plan(case.plan, case.bench.loaded.spec, "fp16")
    full = replace_steps(table)
    expected = follow_engine(case.bench, full, case.rows, case.noise, {})
    found = Session.open(half).generate(**case.request, noise=case.noise, accelerated=False)
    error = relative(found, expected)
    print(f"fp16 {case.bench.loaded.spec.family}, all computed: {error:.1e}")
    assert 0 < error <= FP16_BOUND


def replace_steps(table: ProgramTable) -> ProgramTable:
    """The table with its baseline program at every step."""
    return msgspec.structs.replace(table, step_programs=(table.baseline,) * len(table.step_programs))


def ports(graph: Path) -> dict[str, str]:
    """Type of every input and output of a graph."""
    model = onnx.load(str(graph), load_external_data=False)
    values = [*model.graph.input, *model.graph.output]
    return {value.name: _TYPES[value.type.tensor_type.elem_type] for value in values}


def expected_type(name: str, half_type: str) -> str:
    """What the format says an input or output has (runtime/BUNDLE.md)."""
    if name in ("labels", "attention_mask", "input_ids"):
        return "int64"
    is_half = name.startswith(("cache", "conditioning", "context", "schedule"))
    return half_type if is_half else "float32"


def test_cache_and_prepared_tensors_are_half_and_the_sampler_is_fp32(
    case: Case, half: Path, exports: dict[str, Path]
) -> None:
    for folder, half_type in ((half, "float16"), (exports["bf16"], "bfloat16")):
        graphs = sorted(folder.glob("*.onnx"))
        assert len(graphs) >= 6
        seen = set()
        for graph in graphs:
            for name, dtype in ports(graph).items():
                assert dtype == expected_type(name, half_type), f"{graph.name}: {name}"
                seen.add(name.partition(".")[0])
        assert {"state", "state_out", "coefficients", "guidance", "cache", "cache_out"} <= seen
        assert seen & {"conditioning", "schedule"}


def test_the_manifest_says_what_is_half(case: Case, half: Path) -> None:
    manifest, spec = Session.open(half).bundle.manifest, case.bench.loaded.spec
    assert manifest.precision == "fp16"
    for tensor in manifest.tensors:
        assert tensor.dtype == "float16"
    assert {slot.dtype for slot in manifest.slots} == {"float16"}
    full = lower_plan(case.plan, spec, "fp32").arena
    assert manifest.arena.bytes == full.bytes // 2


def checkpoint_entries(folder: Path) -> dict[str, TensorEntry]:
    """Entries of a weights file; without what the configuration decides, of which small ones lie in the graphs."""
    entries = read_header(folder / "weights.safetensors")
    return {name: entry for name, entry in entries.items() if not name.startswith("constants.")}


def test_weights_take_half_the_bytes(case: Case, half: Path, exports: dict[str, Path]) -> None:
    full = checkpoint_entries(exports["fp32"])
    for folder, dtype in ((half, "F16"), (exports["bf16"], "BF16")):
        entries = checkpoint_entries(folder)
        assert entries.keys() == full.keys()
        assert {entry.dtype for entry in entries.values()} == {dtype}
        sizes = [sum(entry.end - entry.begin for entry in header.values()) for header in (entries, full)]
        assert sizes[0] * 2 == sizes[1]


def test_the_decoder_and_the_sensitive_parts_of_the_text_encoder_stay_fp32(case: Case, half: Path) -> None:
    if not case.bench.components.has_text_encoder:
        pytest.skip("class labels, no VAE")
    assert {entry.dtype for entry in read_header(half / "decoder.safetensors").values()} == {"F32"}
    types = {name: entry.dtype for name, entry in read_header(half / "text-encoder.safetensors").items()}
    assert set(types.values()) == {"F16", "F32"}
    for name, dtype in types.items():
        in_fp32 = any(part in name for part in ("norm", ".wo.", "relative_attention_bias"))
        assert (dtype == "F32") == in_fp32, name


def test_graphs_in_half_precision_sum_nothing_large_in_half(case: Case, exports: dict[str, Path]) -> None:
    """Means and spelled-out softmaxes have fp32 inputs; layer norms reduce in fp32 (stash_type)."""
    for graph in sorted(exports["bf16"].glob("program-*.onnx")):
        model = onnx.shape_inference.infer_shapes(onnx.load(str(graph), load_external_data=False))
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        for node in model.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type in ("Softmax", "ReduceMean", "TopK"):
                assert types[node.input[0]] == onnx.TensorProto.FLOAT, f"{graph.name}: {node.name}"
            if node.op_type == "LayerNormalization":
                assert attributes.get("stash_type", 1) == onnx.TensorProto.FLOAT


def test_a_bf16_bundle_is_built_with_a_warning_and_refused_on_the_cpu_in_one_line(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = case.bench.build(case.plan, "ort", tmp_path / "bundle", BundleOptions(precision="bf16"))
    assert "CUDA provider" in caplog.text
    session = Session.open(built.out)
    assert session.bundle.manifest.precision == "bf16"
    with pytest.raises(EngineError, match="cannot open it") as refused:
        session.generate(**example_request(session.bundle, 1))
    assert "\n" not in str(refused.value).strip()


@pytest.mark.parametrize(
    ("precision", "bound"), [("bf16", BF16_BOUND), ("int8-weights", INT8_BOUND), ("int8", INT8_BOUND)]
)
def test_programs_equal_the_fp32_ones_in_openvino(
    case: Case, exports: dict[str, Path], precision: str, bound: float
) -> None:
    """Every program by itself, on inputs that bf16 holds exactly."""
    openvino = pytest.importorskip("openvino")
    core, worst = openvino.Core(), 0.0
    tables = read_tables(exports["fp32"])
    for graph in sorted(exports[precision].glob("*.onnx")):
        given = inputs_for(graph, tables)
        session = ort.InferenceSession(str(exports["fp32"] / graph.name), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        wide = {name: a.astype(np.float32) if a.dtype == ml_dtypes.bfloat16 else a for name, a in given.items()}
        expected = dict(zip(names, session.run(names, wide), strict=True))
        found = run_openvino(openvino, core, graph, given)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            error = relative(found[name], values)
            worst = max(worst, error)
            assert error <= bound, f"{graph.name}: {name}: {error:.1e}"
    print(f"{precision} {case.bench.loaded.spec.family}: {worst:.1e}")
    assert worst > 1e-4


@pytest.mark.parametrize("precision", ["int8-weights", "int8"])
def test_int8_matrices_are_a_byte_a_weight(case: Case, exports: dict[str, Path], precision: str) -> None:
    full, found = checkpoint_entries(exports["fp32"]), checkpoint_entries(exports[precision])
    before_the_steps = ("attn2.to_k", "attn2.to_v", "norm1.emb", "norm1.linear", "scale_shift_table")
    for name, entry in full.items():
        is_matrix = name.startswith("transformer_blocks.") and len(entry.shape) == 2
        is_matrix = is_matrix and not any(part in name for part in before_the_steps)
        assert found[name].dtype == ("I8" if is_matrix else "BF16"), name
        assert ((name + ".scale") in found) == is_matrix
        if is_matrix:
            assert found[name + ".scale"].shape == entry.shape[1:]


def test_quantization_is_within_half_a_step() -> None:
    matrix = torch.randn(30, 7, generator=torch.Generator().manual_seed(1)) * torch.arange(7)
    values, scale = quantized_sources(TensorSource("m", torch.float32, (30, 7), lambda: matrix))
    error = (values.make().float() * scale.make() - matrix).abs()
    assert (error <= 0.5001 * matrix.abs().amax(dim=0) / 127).all()
    assert values.make().abs().amax(dim=0).tolist() == [0, *[127] * 6]


@pytest.mark.parametrize(
    ("backend", "precision"), [("openvino", "int8-weights"), ("openvino", "int8"), ("ort", "int8")]
)
def test_an_int8_bundle_plays_near_the_fp32_one(
    case: Case, tmp_path: Path, backend: str, precision: Precision
) -> None:
    """All steps computed, so that no token is chosen."""
    pytest.importorskip("openvino")
    built = case.bench.build(case.plan, backend, tmp_path / "int8", BundleOptions(precision=precision))
    table = lower_plan(case.plan, case.bench.loaded.spec, "bf16")
    expected = follow_engine(case.bench, replace_steps(table), case.rows, case.noise, {})
    what = "products" if precision == "int8" else "matrices"
    assert describe_precision(built.out, open_manifest(built.out)).endswith(f", {what} in int8")
    found = Session.open(built.out).generate(**case.request, noise=case.noise, accelerated=False)
    error = relative(found, expected)
    print(f"{backend} {precision} {case.bench.loaded.spec.family}, all computed: {error:.1e}")
    assert 1e-4 < error <= INT8_BOUND


@pytest.mark.parametrize(("backend", "precision"), [("ort", "int8-weights"), ("trt", "int8"), ("trt_rtx", "int8")])
def test_int8_is_refused_where_it_would_not_be_fast(
    case: Case, tmp_path: Path, backend: str, precision: Precision
) -> None:
    with pytest.raises(CompileError, match=f"--precision {precision}: {backend} .*; add --backend openvino"):
        case.bench.build(case.plan, backend, tmp_path / "bundle", BundleOptions(precision=precision))


def test_both_libraries_multiply_int8_numbers_in_an_int8_program(
    case: Case, exports: dict[str, Path], tmp_path: Path
) -> None:
    """Every product with a matrix that is stored in int8, by what the libraries say of the graph they run."""
    pytest.importorskip("openvino")
    graph = exports["int8"] / "program-00.onnx"
    matrices = [n for n, e in read_header(exports["int8"] / "weights.safetensors").items() if e.dtype == "I8"]
    taken = {name for node in onnx.load(str(graph), load_external_data=False).graph.node for name in node.input}
    products = len(taken.intersection(matrices))
    assert products >= 8
    core = process_core()
    model = core.read_model(graph)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": compute_precision(core, model)})
    kinds = [str(node.get_rt_info()["primitiveType"].astype(str)) for node in compiled.get_runtime_model().get_ops()
             if "FullyConnected" in node.get_rt_info()["layerType"].astype(str)]  # fmt: skip
    assert sum(kind.lower().endswith("i8") for kind in kinds) == products
    folder = export(case, "int8", tmp_path / "ort", "ort")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(folder / "program-00.onnx"), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    assert [node.op_type for node in optimized.node].count("MatMulIntegerToFloat") == products


def read_tables(folder: Path) -> dict[str, np.ndarray]:
    return read_tensors(folder / json.loads((folder / "export.json").read_text())["tables_file"])


def inputs_for(graph: Path, tables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Random inputs of a program; slots' tokens have means far apart, so that rounding cannot change a selection."""
    rng, given = np.random.default_rng(0), {}
    for value in onnx.load(str(graph), load_external_data=False).graph.input:
        sizes = {"batch": BATCH, "rows": 2 * BATCH, "window": 3}
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name == "labels":
            array = rng.integers(0, 10, shape)
        elif value.name == "attention_mask":
            array = (np.arange(shape[1]) < np.array([8, 3, 5, 1])[:, None]).astype(np.int64)
        elif value.name == "coefficients":
            array = tables["coefficients"][4]
        elif value.name in tables:
            array = tables[value.name][:3]
        else:
            array = rng.standard_normal(shape)
            if value.name.startswith("cache."):
                array = array + rng.permutation(shape[1])[:, None] / 4 - array.mean(axis=-1, keepdims=True)
        kind = _TYPES[value.type.tensor_type.elem_type]
        given[value.name] = np.ascontiguousarray(array, np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind))
    return given


def run_openvino(openvino: Any, core: Any, graph: Path, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A program's outputs; openvino's Python hands bfloat16 around as the bits of float16."""
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    tensors = {}
    for name, array in given.items():
        if array.dtype == ml_dtypes.bfloat16:
            tensors[name] = openvino.Tensor(array.view(np.uint16), array.shape, openvino.Type.bf16)
        else:
            tensors[name] = openvino.Tensor(array)
    request = compiled.create_infer_request()
    request.infer(tensors)
    found = {}
    for port in compiled.outputs:
        values = request.get_tensor(port).data
        if port.element_type == openvino.Type.bf16:
            values = values.view(np.uint16).view(ml_dtypes.bfloat16)
        found[port.any_name] = values.astype(np.float32)
    return found

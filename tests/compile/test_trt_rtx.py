"""TensorRT-RTX really builds our programs, for GPUs that are not here. Skipped where tensorrt_rtx is not installed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import EngineError
from soda_runtime.backends.preflight import check_identity, check_machine
from soda_runtime.backends.trt_rtx import LIBRARY
from soda_runtime.bundle import Bundle
from soda_runtime.engine_index import read_index
from soda_runtime.signature import finish_programs, step_signature

pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx", exc_type=ImportError)

from soda_export.compile import check_backend
from soda_export.compile.nvidia.card import read_card
from soda_export.compile.options import EngineOptions
from soda_export.errors import CompileError
from soda_export.options import BundleOptions
from soda_export.workbench.engines import LAYERS_NAME
from soda_export.workbench.pipeline import Built, Workbench
from tests.conftest import OpenBench
from tests.runtime.bundles import fix_hashes
from tests.runtime.fake_cuda import FakeCuda, install_cuda
from tests.tiny import forecasting_schedule, make_plan, mixed_kept

SM89 = EngineOptions(target=("sm89",))
BOTH = EngineOptions(target=("sm89", "sm120"))


@pytest.fixture(scope="module")
def bench(open_bench: OpenBench) -> Workbench:
    return open_bench()


@pytest.fixture(scope="module")
def built(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every kind of step: full, reused, pruned, attention pruned; for two GPUs."""
    plan = make_plan(bench.loaded.spec, mixed_kept())
    return bench.build(plan, "trt_rtx", tmp_path_factory.mktemp("rtx") / "tiny", engine_options=BOTH)


def _check_ports(bench: Workbench, built: Built) -> None:
    """The engines' inputs and outputs are the manifest's: names, types and sizes."""
    bundle = Bundle.open(built.out, backend="null")
    engines = next(iter(sorted(bench.store.root.glob("engines-trt_rtx-*"), key=lambda p: -p.stat().st_mtime)))
    signatures = {p.file: step_signature(bundle.manifest, i) for i, p in enumerate(bundle.manifest.programs)}
    signatures |= {p.file: bundle.prepare_signature(p) for p in bundle.manifest.prepare}
    signatures |= finish_programs(bundle.manifest)
    for name, signature in signatures.items():
        card_file = engines / f"{name}.json"
        if not card_file.is_file():
            continue
        ports = read_card(card_file).ports
        expected = {
            port: (wanted.dtype, *(-1 if isinstance(n, str) else n for n in wanted.shape))
            for port, wanted in (signature.inputs | signature.outputs).items()
        }
        assert ports == expected, name


def test_every_kind_of_program_builds_and_takes_and_gives_what_the_manifest_says(
    bench: Workbench, built: Built
) -> None:
    index = read_index(built.out)
    manifest = Bundle.open(built.out, backend="null").manifest
    assert set(index.engines) == {p.file for p in (*manifest.programs, *manifest.prepare)}
    assert index.targets == ("sm120", "sm89")
    assert manifest.backend == "trt_rtx"
    _check_ports(bench, built)


def test_forecasting_programs_build(bench: Workbench, tmp_path: Path) -> None:
    schedule = forecasting_schedule()
    plan = make_plan(bench.loaded.spec, schedule.kept, stack=schedule.stack)
    forecasting = Workbench(
        bench.loaded, type(bench.options)("ddim", len(schedule.kept), 0.0, 1.5), bench.store, lambda *_: None
    )
    _check_ports(forecasting, forecasting.build(plan, "trt_rtx", tmp_path / "out", engine_options=SM89))


@pytest.mark.long
def test_a_whole_text_to_image_bundle_builds_in_half_precision(open_text_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_text_bench()
    plan = make_plan(
        bench.loaded.spec, mixed_kept(modules=3), sampler="dpm-solver++", guidance=4.5
    )
    built = bench.build(plan, "trt_rtx", tmp_path / "out", BundleOptions(precision="fp16"), SM89)
    names = set(read_index(built.out).engines)
    assert {"text-encoder.onnx", "decoder.onnx", "request.onnx", "steps.onnx", "program-00.onnx"} <= names
    _check_ports(bench, built)


def test_editing_one_step_builds_only_the_programs_whose_content_changed(
    bench: Workbench, built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = mixed_kept()
    kept[4, 0, 1] = 8  # a reused step now renews half of one feed-forward
    with caplog.at_level("INFO"):
        plan = make_plan(bench.loaded.spec, kept)
        edited = bench.build(plan, "trt_rtx", tmp_path / "out", engine_options=BOTH)
    count = re.search(r"compile: (\d+) of (\d+) engines built", caplog.text)
    assert count is not None
    before, after = read_index(built.out).engines, read_index(edited.out).engines
    known = {entry.content for entry in before.values()}
    new = {entry.content for entry in after.values()} - known
    assert int(count[1]) == len(new)
    assert 0 < len(new) < len(after)


def test_the_same_plan_again_builds_nothing(bench: Workbench, built: Built, tmp_path: Path) -> None:
    plan = make_plan(bench.loaded.spec, mixed_kept())
    again = bench.build(plan, "trt_rtx", tmp_path / "out", engine_options=BOTH)
    assert (again.out / "manifest.json").read_bytes() == (built.out / "manifest.json").read_bytes()
    other = bench.build(plan, "trt_rtx", tmp_path / "other", engine_options=SM89)
    assert read_index(other.out).targets == ("sm89",)


def test_engines_without_weights_take_them_as_inputs(bench: Workbench, built: Built, tmp_path: Path) -> None:
    plan = make_plan(bench.loaded.spec, mixed_kept())
    options = EngineOptions(target=("sm89",), engine_weights="inputs")
    slim = bench.build(plan, "trt_rtx", tmp_path / "out", engine_options=options)
    index = read_index(slim.out)
    assert index.weights == "inputs"
    assert {entry.weights_file for name, entry in index.engines.items() if name.startswith("step")} == {
        "weights.safetensors"
    }


def test_what_an_engine_is_made_of_is_in_the_bundle(built: Built) -> None:
    layers = json.loads((built.out / LAYERS_NAME).read_text())
    full = layers["program-00.onnx"]
    assert full["bytes"] == (built.out / "program-00.onnx").stat().st_size
    assert {"name", "kind", "tactic", "nodes"} == full["regions"][0].keys()
    fused = {node for region in full["regions"] for node in region["nodes"]}
    assert sum("MatMul" in node for node in fused) > 5


def test_a_real_engine_is_known_by_its_program(built: Built, tmp_path: Path) -> None:
    index = read_index(built.out)
    for name in index.engines:
        check_identity(built.out / name, (built.out / name).read_bytes(), index, LIBRARY)
    swapped = tmp_path / "program-00.onnx"
    shutil.copyfile(built.out / "program-01.onnx", swapped)
    with pytest.raises(EngineError, match=r"the file holds the program of program-01.onnx; .* run `soda-export build"):
        check_identity(swapped, swapped.read_bytes(), index, LIBRARY)


def test_a_gpu_that_the_engines_are_not_for(built: Built) -> None:
    index, path = read_index(built.out), built.out / "program-00.onnx"
    check_machine(path, index, LIBRARY, "1.7.1.116", "sm89")
    with pytest.raises(EngineError, match=r"for sm120, sm89, this machine has TensorRT-RTX 1\.7\.1 and sm86; run"):
        check_machine(path, index, LIBRARY, "1.7.1", "sm86")


@pytest.mark.parametrize("truncated", [False, True])
def test_the_real_library_is_asked_before_an_engine_is_opened(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truncated: bool
) -> None:
    """It finds no driver behind the stand-in for CUDA, and its own words are in the message."""
    folder = Path(shutil.copytree(built.out, tmp_path / "bundle"))
    if truncated:
        path = folder / "program-00.onnx"
        path.write_bytes(path.read_bytes()[:-4096])
        fix_hashes(folder)
    install_cuda(monkeypatch, FakeCuda())
    wanted = r"built by TensorRT-RTX .* for sm120, sm89, this machine .* and sm89"
    with (
        pytest.raises(EngineError, match=wanted) as caught,
        Bundle.open(folder) as bundle, bundle.session() as session,
    ):  # fmt: skip
        session.generate(3)
    said = str(caught.value)
    assert "is refused by the library" in said
    assert "[" in said
    assert said.isprintable()


def test_large_topk_builds(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soda_export.compile.nvidia import network, rewrite

    changed = []

    def split(model: object) -> int:
        changed.append(rewrite.split_large_topk(model, 4))  # type: ignore[arg-type]
        return changed[-1]

    monkeypatch.setattr(network, "split_large_topk", split)
    kept = mixed_kept()
    kept[2, :, 1] = 12  # 12 of 16 tokens, where 4 are the most: by the 4 that go
    kept[3, :, 1], kept[6, :, 0] = 0, 0
    options = EngineOptions(target=("sm89",), max_batch=2)
    bench.build(make_plan(bench.loaded.spec, kept), "trt_rtx", tmp_path / "out", engine_options=options)
    assert max(changed) >= 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (EngineOptions(), "no GPU at hand .*name one with --target"),
        (EngineOptions(target=("current",)), "no GPU at hand .*name one with --target"),
        (EngineOptions(target=("sm90",)), "--target sm90: TensorRT-RTX .* has none but sm75, sm80"),
        (EngineOptions(target=("sm89", "current")), "name the other targets alone"),
        (EngineOptions(target=("sm89",), engine_weights="stripped"), "proved on the GPU .*; use baked or inputs"),
        (EngineOptions(target=("sm89",), optimization_level=6), "--optimization-level 6: must be within 0 .. 5"),
        (EngineOptions(target=("sm89",), workspace=0), "--workspace 0: must be a number of GB above 0"),
        (EngineOptions(target=("sm89",), max_batch=0), "--max-batch 0: must be within"),
    ],
)
def test_what_cannot_be_built_here_says_why(
    options: EngineOptions, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(device: int = 0) -> str:
        raise EngineError("CUDA: no driver")

    monkeypatch.setattr("soda_export.compile.nvidia.targets.device_target", no_gpu)
    with pytest.raises(CompileError, match=said):
        check_backend("trt_rtx", options)


def test_onnx_runtime_takes_no_engine_options() -> None:
    with pytest.raises(CompileError, match="--backend ort: builds no engines of its own"):
        check_backend("ort", SM89)


def test_optimization_level_and_workspace_reach_the_builder(bench: Workbench, tmp_path: Path) -> None:
    options = EngineOptions(target=("sm89",), optimization_level=1, workspace=1.0)
    kept = np.full((8, 3, 2), 16)
    bench.build(make_plan(bench.loaded.spec, kept), "trt_rtx", tmp_path / "out", engine_options=options)


def test_attention_is_fused_in_half_precision(tmp_path: Path) -> None:
    """Heads of 64 in fp16, as big models have them: one kernel a layer, and none of the N x N scores stored."""
    from soda_export.options import SamplerOptions
    from soda_export.workbench.stages import StageStore
    from tests.tiny import save_tiny_model

    folder = save_tiny_model(tmp_path / "wide", num_layers=2, attention_head_dim=64, sample_size=16)
    bench = Workbench(str(folder), SamplerOptions("ddim", 8, 0.0, 1.5), StageStore(tmp_path / "store"), lambda *_: None)
    spec = bench.loaded.spec
    plan = make_plan(spec, np.full((8, 2, 2), spec.sites[0].tokens))
    built = bench.build(plan, "trt_rtx", tmp_path / "out", BundleOptions(precision="fp16"), SM89)
    layers = json.loads((built.out / LAYERS_NAME).read_text())
    assert layers["program-00.onnx"]["fused_attention"] == 2

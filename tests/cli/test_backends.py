"""Which backends there are, and which one `auto` takes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from soda_runtime import EngineError

from soda_export.bench.fastest import Place, choose_backend, places_for
from soda_export.bench.process import describe_process
from soda_export.compile import GRAPH_BACKENDS, REGISTRY, BackendStatus, backend_status
from soda_export.errors import CompileError
from soda_export.models.precision import Precision
from soda_export.options import BundleOptions
from tests.cli.conftest import Soda
from tests.conftest import OpenBench


def status(name: str, version: str = "1.0", devices: tuple[str, ...] = ("cpu",)) -> BackendStatus:
    return BackendStatus(name, version, devices, f"pip install {name}")


CPU = [Place("ort", "cpu"), Place("openvino", "cpu")]


def test_auto_takes_the_backend_that_is_faster(open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, expected in (((0.2, 0.1), "openvino"), ((0.1, 0.2), "ort")):
        found = dict(zip(CPU, seconds, strict=True))
        monkeypatch.setattr("soda_export.bench.fastest.step_seconds", lambda _, place, found=found: found[place])
        choice = choose_backend(open_bench(steps=4), BundleOptions())
        assert choice.backend == expected
        assert choice.why == ", ".join(f"{n} {1e3 * s:.1f} ms" for n, s in found.items()) + " an all-compute step"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_auto_measures_for_real(open_bench: OpenBench, precision: Precision) -> None:
    choice = choose_backend(open_bench(steps=4), BundleOptions(precision=precision))
    assert choice.backend in GRAPH_BACKENDS
    assert all(name in choice.why for name in GRAPH_BACKENDS)


def test_bfloat16_is_not_for_onnx_runtime_on_the_cpu(open_bench: OpenBench) -> None:
    found = {name: status(name) for name in GRAPH_BACKENDS}
    assert places_for("bf16", found) == [Place("openvino", "cpu")]
    found["ort"] = status("ort", devices=("cpu", "cuda"))
    assert places_for("bf16", found) == [Place("ort", "cuda"), Place("openvino", "cpu")]
    assert places_for("int8-weights", found) == [Place("openvino", "cpu")]
    assert places_for("int8", found) == [Place("ort", "cpu"), Place("openvino", "cpu")]
    choice = choose_backend(open_bench(steps=4), BundleOptions(precision="bf16"))
    assert (choice.backend, choice.why) == ("openvino", "the only one installed that runs bf16 on this machine")


def test_auto_without_an_able_backend_says_what_to_install() -> None:
    found = {"ort": status("ort"), "openvino": status("openvino", version="", devices=())}
    with pytest.raises(CompileError, match=r"no installed backend runs bf16 .*\(openvino: pip install openvino\)"):
        places_for("bf16", found)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, TensorRT-RTX and ONNX Runtime's CUDA provider; nothing of it computes."""
    monkeypatch.setattr("soda_export.compile.nvidia.targets.device_target", lambda *_: "sm89")
    places = {"ort": ("cpu", "cuda"), "openvino": ("cpu",), "trt": (), "trt_rtx": ("cuda",)}
    monkeypatch.setattr("soda_export.bench.fastest.backend_status", lambda name: status(name, devices=places[name]))


def test_auto_takes_a_gpu_where_that_is_faster(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, with_gpu: None
) -> None:
    bench, built = open_bench(steps=4), []

    def build(plan: object, backend: str, out: Path, *_: object) -> object:
        built.append(backend)
        return type("Built", (), {"out": out})

    monkeypatch.setattr(bench, "build", build)
    cuda, rtx = Place("ort", "cuda"), Place("trt_rtx", "cuda")
    seconds = {CPU[0]: 0.4, cuda: 0.02, CPU[1]: 0.3, rtx: 0.01}
    monkeypatch.setattr("soda_export.bench.fastest.step_seconds", lambda _, place: seconds[place])
    choice = choose_backend(bench, BundleOptions())
    assert (choice.backend, built) == ("trt_rtx", ["ort", "trt_rtx"])
    assert "ort on cuda 20.0 ms" in choice.why
    assert "trt_rtx on cuda 10.0 ms" in choice.why
    seconds[rtx] = 0.03
    choice = choose_backend(bench, BundleOptions())
    assert choice.backend == "ort"
    assert choice.why.endswith("an all-compute step; play it with --device cuda")


def test_auto_leaves_out_a_gpu_that_cannot_be_used(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, with_gpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    def seconds(path: Path, place: Place) -> float:
        if place.device == "cuda":
            raise EngineError("CUDA: no kernel image is available")
        return 0.1 if place.backend == "ort" else 0.2

    monkeypatch.setattr("soda_export.bench.fastest.step_seconds", seconds)
    bench = open_bench(steps=4)
    real = bench.build

    def build(plan: object, backend: str, *more: object) -> object:
        if backend == "trt_rtx":
            raise CompileError("TensorRT-RTX refuses the graph")
        return real(plan, backend, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "build", build)
    with caplog.at_level(logging.WARNING, "soda_export.bench.fastest"):
        assert choose_backend(bench, BundleOptions()).backend == "ort"
    said = [record.getMessage() for record in caplog.records]
    assert "backend: ort on cuda is left out: CUDA: no kernel image is available" in said
    assert "backend: trt_rtx on cuda is left out: TensorRT-RTX refuses the graph" in said


def test_auto_takes_no_engine_options(soda: Soda, tiny_model: Path) -> None:
    code, _, said = soda("build", "--model", tiny_model, "--budget", 4, "--backend", "auto", "--workspace", 1)
    assert (code, said) == (
        2, "soda-export: --backend auto: builds its engines with no options; leave the Engines options out\n"
    )  # fmt: skip


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: int) -> str:
        raise EngineError("CUDA: no device")

    monkeypatch.setattr("soda_export.compile.nvidia.targets.device_target", none)


@pytest.mark.parametrize("budget", [["--speedup", "2"], ["--latency-ms", "50"]])
def test_engines_that_cannot_run_here_cannot_be_timed_here(
    soda: Soda, tiny_model: Path, without_gpu: None, budget: list[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    code, out, said = soda(
        "build", "--model", str(tiny_model), "--backend", "trt_rtx", "--target", "sm89", "--steps", "12", *budget
    )
    assert (code, out) == (2, "")
    assert said.splitlines()[-1] == (
        "soda-export: --speedup and --latency-ms time the engines on the GPU that they are for: no GPU at hand "
        "(CUDA: no device); give --budget or --flops-ratio"
    )
    assert not Path("engines/.work").exists()  # nothing was profiled first


def test_doctor_says_why_engines_do_not_run_on_a_gpu(
    soda: Soda, monkeypatch: pytest.MonkeyPatch, without_gpu: None
) -> None:
    found = {each["name"]: each for each in json.loads(soda("doctor", "--json")[1])["backends"]}
    assert found["ort"]["no_gpu"] == "CUDA: no device"
    assert found["openvino"]["no_gpu"] == ""
    assert "cuda" not in found["ort"]["devices"]
    shown = soda("doctor")[1]
    assert shown.count("CUDA: no device") == 1
    assert "not on a GPU: ort" in shown
    monkeypatch.setattr("soda_export.compile.nvidia.targets.device_target", lambda *_: "sm89")
    if "cuda" not in backend_status("ort").devices:
        assert backend_status("ort").no_gpu == "run `pip install soda-runtime[ort-gpu]`"


def test_a_missing_library_is_reported_with_its_command(monkeypatch: pytest.MonkeyPatch, soda: Soda) -> None:
    def missing() -> str:
        raise CompileError("openvino is not installed")

    monkeypatch.setattr("soda_export.compile.openvino.library_version", missing)
    found = backend_status("openvino")
    assert (found.version, found.devices, found.install) == ("", (), "pip install soda-runtime[openvino]")
    assert soda("doctor", "--require", "openvino") == (2, "", "soda-export: openvino is not installed\n")
    assert soda("doctor", "--require", "ort")[0] == 0
    assert "trtt: not a backend" in soda("doctor", "--require", "trtt")[2]


def test_doctor_lists_every_backend(soda: Soda) -> None:
    code, out, _ = soda("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert [backend["name"] for backend in found["backends"]] == list(REGISTRY)
    assert all(backend["version"] and "cpu" in backend["devices"] for backend in found["backends"][:2])
    code, out, _ = soda("doctor")
    assert code == 0
    assert all(name in out for name in REGISTRY)


def test_doctor_says_what_the_process_is_given(
    soda: Soda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = json.loads(soda("doctor", "--json")[1])
    process = found["process"]
    assert process["usable_cores"] <= found["machine"]["cores"]
    assert process["temporary_free_bytes"] > 0
    assert "utf-8" in process["encoding"].lower()
    assert [each.split()[0] for each in process["onnxruntime_of"]] == ["onnxruntime"]
    shown = soda("doctor")[1]
    for row in ("locale", "processors", "home", "cache", "temporary space", "onnxruntime/ is of", "fork", "AMX"):
        assert row in shown
    monkeypatch.setattr("soda_export.bench.process.owners", lambda _: ("onnxruntime 1", "onnxruntime-openvino 1"))
    assert "overwrite each other" in " ".join(soda("doctor")[1].split())
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert json.loads(soda("doctor", "--json")[1])["process"]["home"] == ""
    assert "none: hashes of bundles are not remembered" in " ".join(soda("doctor")[1].split())


def test_a_quota_of_processor_time_is_read(tmp_path: Path) -> None:
    for text, cores in (("150000 100000", 1.5), ("max 100000", None), ("", None)):
        (tmp_path / "cpu.max").write_text(text)
        assert describe_process(tmp_path).quota_cores == cores
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert describe_process(tmp_path).usable_cores == 0.5

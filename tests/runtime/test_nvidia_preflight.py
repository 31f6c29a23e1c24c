"""Engines that are not for this machine, or not what they should be: an EngineError names both sides and the command.

On the stand-ins for TensorRT and CUDA; tests/compile/test_trt_rtx.py asks the real library where it can answer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from soda_runtime import Bundle, BundleError, EngineError, Session, SodaError

from .bundles import GOLDEN_V3, edit_manifest, fix_hashes, golden_request
from .fake_cuda import FakeCuda, install_cuda
from .fake_tensorrt import FakeTensorRT, install_tensorrt
from .nvidia_bundles import edit_index, make_nvidia_bundle

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_nvidia_bundle(tmp_path / "bundle", GOLDEN_V3)


def _refusal(patch: pytest.MonkeyPatch, folder: Path, capability: tuple[int, int] = (8, 9), version: str = "1.7.1.116",
             module: str = "tensorrt_rtx", backend: str = "") -> str:  # fmt: skip
    """What opening and playing the bundle says; nothing may be left on the device."""
    cuda = install_cuda(patch, FakeCuda(capability))
    install_tensorrt(patch, FakeTensorRT(cuda, module, version))
    with (
        pytest.raises(EngineError) as caught,
        Bundle.open(folder, backend=backend) as bundle, bundle.session() as session,
    ):  # fmt: skip
        session.generate(**golden_request(GOLDEN_V3))
    assert not cuda.device
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_another_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = _refusal(monkeypatch, folder, capability=(9, 0))
    assert "built by TensorRT-RTX 1.7.1.116 for sm120, sm89, this machine has TensorRT-RTX 1.7.1.116 and sm90" in said
    assert f"--plan {folder / 'plan.json'} --precision fp32 --backend trt_rtx --target sm90 --out {folder}`" in said


def test_another_version_of_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_nvidia_bundle(tmp_path / "bundle", GOLDEN_V3, "trt", "10.9.0.34", ("sm89",))
    said = _refusal(monkeypatch, folder, version="11.0.0.1", module="tensorrt")
    assert "built by TensorRT 10.9.0.34 for sm89, this machine has TensorRT 11.0.0.1 and sm89; run `soda-export" in said
    assert "--backend trt --out" in said


def test_another_version_of_tensorrt_rtx_is_for_the_library_to_judge(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_index(folder, library_version="1.6.0.1")
    cuda = install_cuda(monkeypatch, FakeCuda())
    install_tensorrt(monkeypatch, FakeTensorRT(cuda, "tensorrt_rtx"))
    with Bundle.open(folder) as bundle, bundle.session() as session:
        session.generate(**golden_request(GOLDEN_V3))


def test_an_engine_that_the_library_calls_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_nvidia_bundle(tmp_path / "bundle", GOLDEN_V3, library_version="1.9.0.1", targets=("sm120",))
    edit_index(folder, targets=["sm120", "sm89"])  # engines.json promises more than the engines have
    said = _refusal(monkeypatch, folder)
    assert "built by TensorRT-RTX 1.9.0.1 for sm120, sm89, this machine has TensorRT-RTX 1.7.1.116 and sm89" in said
    assert "is refused by the library (diagnostics 0x4)" in said
    assert "run `soda-export build" in said


def test_engines_of_the_other_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = _refusal(monkeypatch, folder, module="tensorrt", version="11.0.0.1", backend="trt")
    assert "built by trt_rtx 1.7.1.116 for sm120, sm89, this machine has TensorRT 11.0.0.1 and sm89" in said
    assert "--backend trt --out" in said


def test_a_truncated_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "step-02.onnx"
    path.write_bytes(path.read_bytes()[:-2])
    fix_hashes(folder)
    said = _refusal(monkeypatch, folder)
    assert said.startswith(f"{path}: {path.stat().st_size} bytes built by TensorRT-RTX 1.7.1.116 for sm120, sm89")
    assert "this machine has TensorRT-RTX 1.7.1.116 and sm89" in said
    assert "Magic tag or size of the plan does not match" in said
    assert "copy the bundle again or run `soda-export build" in said


@pytest.mark.parametrize("content", [b"", b"{}" * 9])
def test_an_engine_that_is_something_else(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    (folder / "step-02.onnx").write_bytes(content)
    fix_hashes(folder)
    assert "the file holds no program of soda-export; copy the bundle again or run" in _refusal(monkeypatch, folder)


def test_an_engine_of_another_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "step-02.onnx").write_bytes((folder / "step-01.onnx").read_bytes())
    fix_hashes(folder)
    said = _refusal(monkeypatch, folder)
    assert said.startswith(f"{folder / 'step-02.onnx'}: engines.json says program ")
    assert "the file holds the program of step-01.onnx; copy the bundle again or run `soda-export build" in said


def test_an_engine_of_another_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "step-02.onnx"
    path.write_bytes(path.read_bytes().replace(b"soda-program-", b"soda-program-0123")[: -4] + b"end")
    fix_hashes(folder)
    assert "the file holds another program ('0123" in _refusal(monkeypatch, folder)


def test_an_engine_with_other_slots_is_refused_by_its_ports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(manifest: dict) -> None:  # type: ignore[type-arg]
        manifest["model"]["latent_shape"] = [1, 8, 9]

    edit_manifest(folder, change)
    assert "'state' is FLOAT" in _refusal(monkeypatch, folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "not a soda-engines file of version 1"),
        ({"engines": {}}, "engines.json does not list this engine"),
        ({"weights": "elsewhere"}, "rebuild the bundle"),
        ({"library_version": "1 ; rm"}, "are no names"),
        ({"engines": {"a": {"content": "", "weights_file": "../a", "activation_bytes": 0}}}, "are no names"),
        ({"surplus": 1}, "rebuild the bundle"),
    ],
)
def test_a_damaged_index(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], said: str
) -> None:
    edit_index(folder, **change)
    assert said in _refusal(monkeypatch, folder)


def test_a_bundle_without_an_index(folder: Path) -> None:
    (folder / "engines.json").unlink()
    edit_manifest(folder, lambda manifest: manifest["files"].pop("engines.json"))
    with pytest.raises(BundleError, match=r"file 'engines.json' goes with backend 'trt_rtx' and is not listed"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("backend", "said"),
    [("trt", "TensorRT is not installed; run `pip install soda-runtime"),
     ("trt_rtx", "TensorRT-RTX is not installed; run `pip install soda-runtime")],
)  # fmt: skip
def test_a_missing_library_is_one_line_with_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, backend: str, said: str
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(EngineError, match=said):
        Bundle.open(folder, backend=backend)


def test_without_a_gpu_opening_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install_cuda(monkeypatch, FakeCuda())
    install_tensorrt(monkeypatch, FakeTensorRT(cuda, "tensorrt_rtx"))
    monkeypatch.setattr(cuda, "cudaSetDevice", lambda device: (2,), raising=False)
    with pytest.raises(EngineError, match=r"no CUDA device 0 here \(CUDA: cudaSetDevice failed: out of memory\)"):
        Bundle.open(folder)


def test_tensorrt_runs_on_cuda_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tensorrt(monkeypatch, FakeTensorRT(install_cuda(monkeypatch, FakeCuda()), "tensorrt_rtx"))
    for device in ("cpu", "cuda:x", ""):
        with pytest.raises(EngineError, match="TensorRT engines run on cuda, or cuda:N"):
            Bundle.open(folder, device=device)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_an_application_that_names_its_backend_refuses_engines_that_are_code(folder: Path, backend: str) -> None:
    """SECURITY.md"""
    pytest.importorskip({"ort": "onnxruntime"}.get(backend, backend))
    with pytest.raises(SodaError) as refused, Session.open(folder, backend=backend) as session:
        session.generate(**golden_request(GOLDEN_V3))
    assert any(path.name in str(refused.value) for path in folder.glob("*.onnx"))

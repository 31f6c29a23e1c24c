"""TensorRT's own side of building, on a stand-in: TensorRT-RTX behind the calls that TensorRT has instead.

No TensorRT took part: its libraries come from NVIDIA's index, and it builds on a GPU only.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from soda_runtime import EngineError

pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx", exc_type=ImportError)

import tensorrt_rtx as rtx

from soda_export.compile import check_backend, compile_engine
from soda_export.compile.nvidia.card import CARD_NAME, ENGINE_NAME, read_card
from soda_export.compile.options import EngineOptions
from soda_export.errors import CompileError
from tests.runtime.bundles import GOLDEN_V3


class Config:
    """IBuilderConfig with timing caches, without compute capabilities."""

    def __init__(self, real: Any, library: TensorRT) -> None:
        self.__dict__.update(real=real, library=library, cache=b"")

    def __getattr__(self, name: str) -> Any:
        if "compute_capabilit" in name:
            raise AttributeError(name)
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)

    def create_timing_cache(self, content: bytes) -> Any:
        return None if content.startswith(b"another library") else content

    def set_timing_cache(self, content: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "timings of another GPU say nothing"
        self.__dict__["cache"] = content
        self.library.begun_with.append(content)
        return True

    def get_timing_cache(self) -> Any:
        cache = self.cache + b"timings;"
        return type("Cache", (), {"serialize": lambda self: cache})()


class TensorRT(ModuleType):
    """The module `tensorrt`."""

    __version__ = "11.0.0.1"

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.begun_with: list[bytes] = []
        library = self

        class Builder:
            def __init__(self, logger: Any) -> None:
                self.real = rtx.Builder(logger)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.real, name)

            def create_builder_config(self) -> Config:
                return Config(self.real.create_builder_config(), library)

            def build_serialized_network(self, network: Any, config: Config) -> Any:
                config.real.num_compute_capabilities = 1
                config.real.set_compute_capability(rtx.ComputeCapability.SM89, 0)
                return self.real.build_serialized_network(network, config.real)

        self.Builder = Builder

    def __getattr__(self, name: str) -> Any:
        return getattr(rtx, name)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> TensorRT:
    fake = TensorRT()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", fake)
    for module in ("soda_export.compile.nvidia.targets",):
        monkeypatch.setattr(f"{module}.device_target", lambda device=0: "sm89")
    return fake


def _build(out: Path) -> Any:
    out.mkdir()
    compile_engine("trt", GOLDEN_V3 / "step-01.onnx", out, EngineOptions())
    return read_card(out / CARD_NAME)


def test_timings_are_kept_beside_the_engines_and_used_again(tensorrt: TensorRT, tmp_path: Path) -> None:
    first, second = _build(tmp_path / "first"), _build(tmp_path / "second")
    assert tensorrt.begun_with == [b"", b"timings;"]
    assert (tmp_path / "trt-timing.cache").read_bytes() == b"timings;timings;"
    assert first.content == second.content
    assert (first.library, first.library_version, first.targets) == ("trt", "11.0.0.1", ("sm89",))
    assert (tmp_path / "first" / ENGINE_NAME).stat().st_size == first.bytes


def test_timings_of_another_library_are_not_taken(tensorrt: TensorRT, tmp_path: Path) -> None:
    (tmp_path / "trt-timing.cache").write_bytes(b"another library's")
    _build(tmp_path / "first")
    assert tensorrt.begun_with == [b""]
    assert (tmp_path / "trt-timing.cache").read_bytes() == b"timings;"


@pytest.mark.parametrize(("target", "refused"), [("current", False), ("sm89", False), ("sm90", True)])
def test_tensorrt_builds_for_the_gpu_at_hand_only(tensorrt: TensorRT, target: Any, refused: bool) -> None:
    options = EngineOptions(target=(target,))
    if not refused:
        check_backend("trt", options)
        return
    with pytest.raises(CompileError, match="--target sm90: TensorRT builds for the GPU at hand only, which is sm89"):
        check_backend("trt", options)


def test_without_a_gpu_tensorrt_says_so(tensorrt: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu(device: int = 0) -> str:
        raise EngineError("CUDA: no driver")

    monkeypatch.setattr("soda_export.compile.nvidia.targets.device_target", no_gpu)
    with pytest.raises(CompileError, match=r"no GPU at hand .*--backend trt_rtx builds without one"):
        check_backend("trt", EngineOptions())


@pytest.mark.parametrize(("backend", "title"), [("trt", "TensorRT"), ("trt_rtx", "TensorRT-RTX")])
def test_a_missing_library_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, backend: str, title: str
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(CompileError, match=f"{title} is not installed; run `pip install soda-runtime"):
        check_backend(backend, EngineOptions(target=("sm89",)))

"""What a bundle takes on a device, as `bench` asks it: on the stand-ins for TensorRT and CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest
from soda_runtime.bundle import Bundle

from soda_export.bench.probe import probe
from soda_export.bench.result import BenchOptions
from tests.runtime.bundles import GOLDEN_V3
from tests.runtime.fake_cuda import FakeCuda, install_cuda
from tests.runtime.fake_ort_cuda import FakeOrt, install_ort
from tests.runtime.fake_tensorrt import FakeTensorRT, install_tensorrt
from tests.runtime.nvidia_bundles import make_nvidia_bundle


def test_a_bundle_on_a_device_is_measured_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tensorrt(monkeypatch, FakeTensorRT(install_cuda(monkeypatch, FakeCuda()), "tensorrt_rtx"))
    folder = make_nvidia_bundle(tmp_path / "bundle", GOLDEN_V3)
    found = probe(str(folder), BenchOptions(batch=2), True)["memory"]
    manifest = Bundle.open(GOLDEN_V3, backend="null").manifest
    assert found["arena"] == 2 * manifest.arena.bytes
    assert found["activations"] >= 256
    assert 0 <= found["weights_resident"] < 64 << 10  # the stand-in's engines hold none: tables and scratch


def test_onnx_runtime_on_a_device_is_measured_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install_cuda(monkeypatch, FakeCuda())
    ort = install_ort(monkeypatch, FakeOrt(cuda))
    found = probe(str(GOLDEN_V3), BenchOptions(batch=2, device="cuda"), True)["memory"]
    weights = sum(value.nbytes for value in ort.values)
    ort.values.clear()
    assert weights <= found["weights_resident"] < weights + (64 << 10)  # tables, too
    assert found["activations"] == 0  # the stand-in's sessions allocate none

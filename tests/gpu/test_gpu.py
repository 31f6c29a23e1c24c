"""What only a GPU can show: `make test-gpu`. Skipped, with the reason, where there is none or a library is missing.

None of this has run yet.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, DeviceOptions, EngineError
from soda_runtime.backends.cuda import checked_call, device_target

from soda_export.compile.options import EngineOptions
from tests.conftest import OpenBench
from tests.runtime.bundles import GOLDEN_V3, distance, golden_request, golden_results
from tests.tiny import make_plan, mixed_kept

BACKENDS = ("ort", "trt_rtx", "trt")


def _why_not(backend: str) -> str:
    """Why a backend cannot run here; "" where it can."""
    try:
        device_target()
    except EngineError as error:
        return f"no GPU: {error}"
    module = {"ort": "onnxruntime", "trt": "tensorrt", "trt_rtx": "tensorrt_rtx"}[backend]
    try:
        library: Any = importlib.import_module(module)
    except ImportError:
        return f"{module} is not installed"
    if backend == "ort" and "CUDAExecutionProvider" not in library.get_available_providers():
        return "this onnxruntime has no CUDA provider; pip install onnxruntime-gpu"
    if backend == "trt_rtx" and device_target().upper() not in library.ComputeCapability.__members__:
        return f"TensorRT-RTX has no {device_target()}"
    return ""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    reason = _why_not(request.param)
    if reason:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def built(backend: str, open_bench: OpenBench, tmp_path: Path) -> tuple[str, Path, Path]:
    """Backend, its bundle with every kind of step, and the same for ONNX Runtime's CPU provider."""
    bench = open_bench()
    plan = make_plan(bench.loaded.spec, mixed_kept())
    reference = bench.build(plan, "ort", tmp_path / "cpu").out
    if backend == "ort":
        return backend, reference, reference
    return backend, bench.build(plan, backend, tmp_path / "gpu", engine_options=EngineOptions()).out, reference


def _open(backend: str, folder: Path, graph: str = "auto") -> Bundle:
    return Bundle.open(folder, device="cuda", options=DeviceOptions(cuda_graph=graph))  # type: ignore[arg-type]


def test_numerics_against_the_cpu(built: tuple[str, Path, Path]) -> None:
    backend, folder, reference = built
    for batch in (1, 3):
        with _open(backend, folder) as bundle, bundle.session() as session:
            found = session.generate(list(range(batch)), seed=4)
        expected = Bundle.open(reference).session().generate(list(range(batch)), seed=4)
        assert distance(found, expected) < 1e-3 * np.abs(expected).max()


def test_the_golden_bundle_on_the_cuda_provider() -> None:
    reason = _why_not("ort")
    if reason:
        pytest.skip(reason)
    with Bundle.open(GOLDEN_V3, device="cuda") as bundle, bundle.session() as session:
        latents = session.generate(**golden_request(GOLDEN_V3))
    assert distance(latents, golden_results(GOLDEN_V3)["latents"]) < 1e-3


def test_the_arena_is_in_device_memory(built: tuple[str, Path, Path]) -> None:
    backend, folder, _ = built
    api = importlib.import_module("cuda.bindings.runtime")
    with _open(backend, folder) as bundle, bundle.session() as session:
        session.generate(3)
        attributes = checked_call(api, "cudaPointerGetAttributes", session.playback.arena.address)  # type: ignore[attr-defined]
        assert attributes.type == api.cudaMemoryType.cudaMemoryTypeDevice


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_cuda_graph_gives_what_the_steps_give(built: tuple[str, Path, Path], mode: str) -> None:
    backend, folder, _ = built
    with _open(backend, folder, "off") as bundle, bundle.session() as session:
        expected = [session.generate([3, 7], seed=seed) for seed in range(3)]
    with _open(backend, folder, mode) as bundle, bundle.session() as session:
        found = [session.generate([3, 7], seed=seed) for seed in range(3)]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_thousand_generations_take_no_more_memory(built: tuple[str, Path, Path]) -> None:
    backend, folder, _ = built
    api = importlib.import_module("cuda.bindings.runtime")

    def free_bytes() -> int:
        return int(api.cudaMemGetInfo()[1])

    with _open(backend, folder) as bundle, bundle.session() as session:
        for seed in range(3):
            session.generate(3, seed=seed)
        before = free_bytes()
        for seed in range(1000):
            session.generate(3, seed=seed)
        assert before - free_bytes() < 4 << 20


def test_torch_takes_the_latents_where_they_are(built: tuple[str, Path, Path]) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    backend, folder, _ = built
    with _open(backend, folder) as bundle, bundle.session() as session:
        latents = session.generate(3, seed=1)
        tensor = torch.from_dlpack(session.latents_on_device())
        assert tensor.is_cuda
        assert np.array_equal(tensor.cpu().numpy(), latents)

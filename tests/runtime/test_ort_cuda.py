"""ONNX Runtime's CUDA provider through stand-ins for it and for CUDA; on a real GPU only `make test-gpu` runs it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
from soda_runtime import Bundle, DeviceOptions, EngineError
from soda_runtime.tensors import read_header

pytest.importorskip("onnxruntime")

from .bundles import GOLDEN_V3, GOLDEN_V3_TEXT, distance, golden_request, golden_results
from .fake_cuda import ALLOCATES, WAITS, FakeCuda, install_cuda
from .fake_ort_cuda import FakeOrt, install_ort


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install_cuda(monkeypatch, FakeCuda())


@pytest.fixture
def ort(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOrt]:
    fake = install_ort(monkeypatch, FakeOrt(cuda))
    yield fake
    fake.values.clear()


def test_the_golden_requests_on_the_cuda_provider(ort: FakeOrt) -> None:
    with Bundle.open(GOLDEN_V3, device="cuda") as bundle, bundle.session() as session:
        for _ in range(2):
            latents = session.generate(**golden_request(GOLDEN_V3))
            assert distance(latents, golden_results(GOLDEN_V3)["latents"]) < 1e-4


def test_prompts_and_images_on_the_cuda_provider(ort: FakeOrt) -> None:
    pytest.importorskip("tokenizers")
    with Bundle.open(GOLDEN_V3_TEXT, device="cuda:0") as bundle, bundle.session() as session:
        session.generate(**golden_request(GOLDEN_V3_TEXT))
        assert distance(session.images(), golden_results(GOLDEN_V3_TEXT)["images"]) < 1e-3


def test_sessions_share_one_device_copy_of_the_weights(ort: FakeOrt) -> None:
    with Bundle.open(GOLDEN_V3, device="cuda") as bundle, bundle.session() as session:
        session.generate(**golden_request(GOLDEN_V3))
        assert len(ort.sessions) > 3
        assert all(each.initializers == ort.sessions[0].initializers for each in ort.sessions)
        assert len(ort.values) == len(ort.sessions[0].initializers)
        sizes = [entry.end - entry.begin for entry in read_header(GOLDEN_V3 / "weights.safetensors").values()]
        assert sum(value.nbytes for value in ort.values) == sum(size for size in sizes if size >= 1024)


def test_weights_of_the_text_encoder_do_not_reach_other_programs(ort: FakeOrt) -> None:
    pytest.importorskip("tokenizers")
    with Bundle.open(GOLDEN_V3_TEXT, device="cuda") as bundle, bundle.session() as session:
        session.generate(**golden_request(GOLDEN_V3_TEXT))
        sets = [frozenset(each.initializers) for each in ort.sessions]
        assert len(set(sets)) == 2
        assert not set.intersection(*map(set, set(sets)))


def test_nothing_is_waited_for_in_the_loop(ort: FakeOrt, cuda: FakeCuda) -> None:
    with Bundle.open(GOLDEN_V3, device="cuda") as bundle, bundle.session() as session:
        for _ in range(2):
            session.start([3, 7], seed=5)
            begin = len(cuda.log)
            session.run_steps()
            assert not (WAITS | ALLOCATES) & set(cuda.log[begin:])
            session.latents()


def test_the_loop_is_recorded_where_that_is_asked_for(ort: FakeOrt, cuda: FakeCuda) -> None:
    cuda.zeros_will_do = True
    options = DeviceOptions(cuda_graph="on")
    with Bundle.open(GOLDEN_V3, device="cuda", options=options) as bundle, bundle.session() as session:
        latents = [session.generate(**golden_request(GOLDEN_V3)) for _ in range(2)]
    assert cuda.log.count("cudaGraphLaunch") == 2
    assert np.array_equal(*latents)


def test_closing_frees_everything_once(ort: FakeOrt, cuda: FakeCuda) -> None:
    with Bundle.open(GOLDEN_V3, device="cuda") as bundle, bundle.session() as session:
        session.generate(**golden_request(GOLDEN_V3))
    ort.values.clear()
    ort.sessions.clear()
    del bundle, session
    gc.collect()
    assert not cuda.device
    assert not cuda.streams
    assert cuda.log.count("cudaFree") == cuda.log.count("cudaMalloc")


def test_the_tensorrt_provider_has_the_cuda_provider_behind_it(ort: FakeOrt) -> None:
    with Bundle.open(GOLDEN_V3, device="tensorrt") as bundle, bundle.session() as session:
        session.generate(**golden_request(GOLDEN_V3))
    names = [[name for name, _ in each.providers] for each in ort.sessions]
    assert names == [["TensorrtExecutionProvider", "CUDAExecutionProvider"]] * len(names)
    assert not ort.values


def test_cuda_options_are_refused_on_the_cpu() -> None:
    with pytest.raises(EngineError, match="cuda_graph and stream are for CUDA; backend 'ort' on cpu has neither"):
        Bundle.open(GOLDEN_V3, options=DeviceOptions(cuda_graph="on"))

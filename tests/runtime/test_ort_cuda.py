"""ONNX Runtime's CUDA provider through stand-ins for it and for CUDA; on a real GPU only `make test-gpu` runs it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from soda_runtime import Bundle, DeviceOptions, EngineError
from soda_runtime.tensors import read_header

pytest.importorskip("onnxruntime")

from tests.cpp.chunks_toy import ChunksToy

from .bundles import GOLDEN_V3, GOLDEN_V3_TEXT, GOLDEN_V5_CHUNKS, distance, golden_request, golden_results
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


def test_a_video_in_chunks_on_the_cuda_provider(ort: FakeOrt, cuda: FakeCuda) -> None:
    request = golden_request(GOLDEN_V5_CHUNKS)
    cuda.zeros_will_do = True  # what the first call takes from none before it
    with Bundle.open(GOLDEN_V5_CHUNKS, device="cuda") as bundle, bundle.session() as session:
        for other in ({**request, "seed": 1}, request):
            expected = ChunksToy().finish(session.generate(**other))
            assert distance(np.concatenate(list(session.chunks()), axis=1), expected) < 1e-5


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


@pytest.fixture
def recording(ort: FakeOrt, cuda: FakeCuda) -> Iterator[Bundle]:
    cuda.zeros_will_do = True  # steps are recorded before there is a request
    with Bundle.open(GOLDEN_V3, device="cuda", options=DeviceOptions(cuda_graph="on")) as bundle:
        yield bundle


def test_every_step_is_recorded_before_the_first_request(recording: Bundle, ort: FakeOrt, cuda: FakeCuda) -> None:
    steps = recording.manifest.sampler.steps
    with recording.session() as session:
        for _ in range(3):
            session.start(**golden_request(GOLDEN_V3))
            begin = len(cuda.log)
            session.run_steps()
            assert cuda.log[begin:].count("session's graph") == steps
            assert not (WAITS | ALLOCATES) & set(cuda.log[begin:])
            assert distance(session.latents(), golden_results(GOLDEN_V3)["latents"]) < 1e-4
    assert ort.recordings == steps
    assert "cudaStreamBeginCapture" not in cuda.log  # nobody else may record a session


def test_another_batch_size_is_recorded_anew_and_the_old_graphs_go(recording: Bundle, ort: FakeOrt) -> None:
    steps = recording.manifest.sampler.steps
    with recording.session() as session:
        for batch in (1, 2, 1):
            session.generate(3, batch=batch)
        gc.collect()
        assert ort.recordings == 3 * steps
        assert sum(len(each.recorded) for each in ort.sessions) == steps
        session.start([1, 2, 3])
        session.run_steps()
        session.close()  # with work in the stream
    assert not ort.released_early


def test_a_thread_without_graphs_of_its_own_runs_without(recording: Bundle, ort: FakeOrt, cuda: FakeCuda) -> None:
    with recording.session() as session:
        expected = session.generate(3, seed=1)
        found: list[np.ndarray] = []
        begin = len(cuda.log)
        thread = threading.Thread(target=lambda: found.append(session.generate(3, seed=1)))
        thread.start()
        thread.join()
        assert np.array_equal(found[0], expected)
        assert "session's graph" not in cuda.log[begin:]
        assert ort.recordings == recording.manifest.sampler.steps


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_nothing_is_recorded_unless_it_is_asked_for(ort: FakeOrt, cuda: FakeCuda, mode: str) -> None:
    options = DeviceOptions(cuda_graph=mode)  # type: ignore[arg-type]
    with Bundle.open(GOLDEN_V3, device="cuda", options=options) as bundle, bundle.session() as session:
        for _ in range(2):
            session.generate(**golden_request(GOLDEN_V3))
    assert ort.recordings == 0
    assert not any(each.graphs for each in ort.sessions)
    assert "cudaStreamBeginCapture" not in cuda.log


def test_sessions_that_cannot_be_recorded_are_a_warning_and_run(ort: FakeOrt, cuda: FakeCuda) -> None:
    ort.refuse_graphs = True
    options = DeviceOptions(cuda_graph="on")
    with (
        pytest.warns(RuntimeWarning, match=r"no CUDA graph of step-\d+\.onnx: This session cannot use"),
        Bundle.open(GOLDEN_V3, device="cuda", options=options) as bundle, bundle.session() as session,
    ):  # fmt: skip
        latents = session.generate(**golden_request(GOLDEN_V3))
    assert distance(latents, golden_results(GOLDEN_V3)["latents"]) < 1e-4
    with (
        pytest.warns(RuntimeWarning, match="TensorrtExecutionProvider is not recorded"),
        Bundle.open(GOLDEN_V3, device="tensorrt", options=options),
    ):
        pass


def test_pips_cuda_is_loaded_quietly_and_weights_take_what_they_need(
    ort: FakeOrt, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []
    exact, log = object(), []
    ort.preload_dlls = lambda: print("Failed to load libcublas")  # type: ignore[attr-defined]
    ort.set_default_logger_severity = log.append  # type: ignore[attr-defined]
    binding = SimpleNamespace(
        ArenaExtendStrategy=SimpleNamespace(kSameAsRequested=exact), set_arena_extend_strategy=asked.append
    )
    ort.capi = SimpleNamespace(_pybind_state=binding)  # type: ignore[attr-defined]
    Bundle.open(GOLDEN_V3, device="cuda").close()
    assert (asked, log) == ([exact], [3, 2])
    assert capfd.readouterr() == ("", "")


def test_weights_that_cannot_lie_on_the_device_say_what_to_install(
    ort: FakeOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> object:
        raise RuntimeError("CUDA Provider not available, can't get interface for it")

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", missing)
    with (
        pytest.raises(EngineError, match=r"cannot load its CUDAExecutionProvider: .*soda-runtime\[ort-gpu\]"),
        Bundle.open(GOLDEN_V3, device="cuda") as bundle, bundle.session() as session,
    ):  # fmt: skip
        session.generate(3)


def test_a_provider_whose_libraries_are_missing_is_an_error_and_not_the_cpu(ort: FakeOrt) -> None:
    ort.lacks_libraries = True
    with (
        pytest.raises(EngineError, match=r"cannot load its CUDAExecutionProvider: .*soda-runtime\[ort-gpu\]"),
        Bundle.open(GOLDEN_V3, device="cuda") as bundle, bundle.session() as session,
    ):  # fmt: skip
        session.generate(3)


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

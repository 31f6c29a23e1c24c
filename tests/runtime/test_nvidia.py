"""The TensorRT backends on recording stand-ins for the library and for CUDA: results, order, addresses, lifetimes.

No GPU and no TensorRT took part: what a real driver or library does differently is not tested here, but by
`make test-gpu` where there is one.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, DeviceOptions, EngineError, Noise, Session
from soda_runtime.philox import INITIAL_STREAM, latent_noise

from .bundles import GOLDEN_V3, GOLDEN_V3_TEXT, GOLDEN_V5_START, distance, golden_request, golden_results
from .fake_cuda import ALLOCATES, WAITS, FakeCuda, install_cuda
from .fake_tensorrt import FakeTensorRT, install_tensorrt
from .nvidia_bundles import make_nvidia_bundle

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
VERSIONS = {"trt_rtx": ("tensorrt_rtx", "1.7.1.116"), "trt": ("tensorrt", "11.0.0.1")}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install_cuda(monkeypatch, FakeCuda())


@pytest.fixture
def library(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install_tensorrt(monkeypatch, FakeTensorRT(cuda, "tensorrt_rtx"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nvidia_bundle(tmp_path_factory.mktemp("nvidia") / "labels", GOLDEN_V3)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nvidia_bundle(tmp_path_factory.mktemp("nvidia") / "text", GOLDEN_V3_TEXT)


@pytest.fixture
def session(folder: Path, library: FakeTensorRT) -> Iterator[Session]:
    with Bundle.open(folder) as bundle, bundle.session() as session:
        yield session


def _request(session: Session, **more: object) -> np.ndarray:
    return session.generate(**{**golden_request(GOLDEN_V3), **more})


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_the_golden_request_gives_the_golden_latents(folder: Path, library: FakeTensorRT, mode: str) -> None:
    library.cuda.zeros_will_do = mode == "on"  # it is recorded before there is a request
    with Bundle.open(folder, options=DeviceOptions(cuda_graph=mode)) as bundle, bundle.session() as session:  # type: ignore[arg-type]
        for _ in range(3):  # the first, the one that is recorded, the one that is launched
            assert distance(_request(session), golden_results(GOLDEN_V3)["latents"]) < 1e-4
    assert library.cuda.log.count("cudaGraphLaunch") == {"auto": 2, "on": 3, "off": 0}[mode]


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_a_request_that_starts_from_latents(tmp_path: Path, library: FakeTensorRT, mode: str) -> None:
    library.cuda.zeros_will_do = mode == "on"
    folder, request = make_nvidia_bundle(tmp_path / "start", GOLDEN_V5_START), golden_request(GOLDEN_V5_START)
    with Bundle.open(folder, options=DeviceOptions(cuda_graph=mode)) as bundle, bundle.session() as session:  # type: ignore[arg-type]
        for _ in range(3):
            assert distance(session.generate(**request), golden_results(GOLDEN_V5_START)["latents"]) < 1e-4
        session.start(**request)
        for step in range(request["start_step"], bundle.manifest.sampler.steps):
            session.step(step)
        assert distance(session.latents(), golden_results(GOLDEN_V5_START)["latents"]) < 1e-4


def test_prompts_and_images(text_folder: Path, library: FakeTensorRT) -> None:
    pytest.importorskip("tokenizers")
    with Bundle.open(text_folder) as bundle, bundle.session() as session:
        latents = session.generate(**golden_request(GOLDEN_V3_TEXT))
        wanted = golden_results(GOLDEN_V3_TEXT)
        assert distance(latents, wanted["latents"]) < 1e-3 * np.abs(wanted["latents"]).max()
        assert distance(session.images(), wanted["images"]) < 1e-3
        again = session.generate(**golden_request(GOLDEN_V3_TEXT))
        assert np.array_equal(again, latents)


@pytest.mark.parametrize("accelerated", [True, False])
def test_nothing_is_waited_for_and_nothing_allocated_between_the_first_and_the_last_step(
    session: Session, cuda: FakeCuda, library: FakeTensorRT, accelerated: bool
) -> None:
    for _ in range(3):
        session.start([3, 7], seed=5, accelerated=accelerated)
        begin, addresses, contexts = len(cuda.log), library.set_addresses, library.contexts
        session.run_steps()
        loop = cuda.log[begin:]
        assert not WAITS & set(loop)
        assert not ALLOCATES & set(loop)
        assert (library.set_addresses, library.contexts) == (addresses, contexts)
        session.latents()


def test_a_request_step_by_step_waits_for_nothing_either(session: Session, cuda: FakeCuda) -> None:
    session.start([3, 7], seed=5)
    session.step(0)
    begin = len(cuda.log)
    for index in range(1, session.bundle.manifest.sampler.steps):
        session.step(index)
    assert not (WAITS | ALLOCATES) & set(cuda.log[begin:])
    assert distance(session.latents(), _request(session, labels=[3, 7], seed=5)) == 0.0


def test_host_memory_is_copied_at_the_start_and_the_end_only(session: Session, cuda: FakeCuda) -> None:
    session.start(3)
    begin = len(cuda.log)
    session.run_steps()
    loop = [name for name in cuda.log[begin:] if name != "cudaSetDevice"]
    copies = [name for name in loop if name.startswith("cudaMemcpyAsync")]
    noise = 1 if session.bundle.manifest.sampler.stochastic else 0
    assert copies.count("cudaMemcpyAsync cudaMemcpyHostToDevice") == noise
    assert "cudaMemcpyAsync cudaMemcpyDeviceToHost" not in copies
    assert loop[0].endswith("HostToDevice") or not noise


def test_a_recorded_loop_gives_what_the_steps_give(session: Session) -> None:
    first = [_request(session, labels=[label, 4], seed=label) for label in range(4)]
    again = [_request(session, labels=[label, 4], seed=label) for label in range(4)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_another_batch_size_is_recorded_anew(session: Session, cuda: FakeCuda) -> None:
    for batch in (1, 2, 1):
        for _ in range(2):
            _request(session, labels=3, batch=batch)
    assert cuda.log.count("cudaStreamBeginCapture") == 3
    assert cuda.log.count("cudaGraphExecDestroy") == 2
    assert len(cuda.graphs) == 1


def test_a_refused_recording_is_a_warning_and_the_steps_run(folder: Path, library: FakeTensorRT) -> None:
    library.cuda.refuse_capture = True
    with Bundle.open(folder) as bundle, bundle.session() as session:
        first = _request(session)
        with pytest.warns(RuntimeWarning, match="no CUDA graph, steps are launched one by one: .*not permitted"):
            second = _request(session)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            third = _request(session)
    assert np.array_equal(first, second)
    assert np.array_equal(first, third)


def test_a_thousand_generations_take_no_more_memory(session: Session, cuda: FakeCuda) -> None:
    _request(session)
    _request(session)
    before = (len(cuda.device), len(cuda.pinned), len(cuda.graphs), sum(b.bytes.size for b in cuda.device.values()))
    allocated = sum(cuda.log.count(name) for name in ALLOCATES)
    for seed in range(20):  # every request does the same calls: twenty tell as much as a thousand
        _request(session, seed=seed)
    after = (len(cuda.device), len(cuda.pinned), len(cuda.graphs), sum(b.bytes.size for b in cuda.device.values()))
    assert after == before
    assert sum(cuda.log.count(name) for name in ALLOCATES) == allocated


def test_engines_share_one_block_of_activations_as_large_as_the_largest_needs(session: Session) -> None:
    _request(session)
    backend = session.bundle.backend
    engines = session.bundle._shared.engines.opened
    assert backend.activations.nbytes == max(engine._engine.device_memory_size for engine in engines)


def test_waiting_lets_the_stream_run_dry(session: Session, cuda: FakeCuda) -> None:
    session.start(3)
    session.step(0)
    assert cuda.pending
    session.wait()
    assert not cuda.pending


def test_given_noise_is_the_seeds(session: Session) -> None:
    steps, shape = session.bundle.manifest.sampler.steps, session.bundle.manifest.model.latent_shape
    noise_of_steps = np.stack([latent_noise(11, 1 + i, 2, shape) for i in range(steps)])
    noise = Noise(latent_noise(11, INITIAL_STREAM, 2, shape), noise_of_steps)
    assert np.array_equal(_request(session, labels=[3, 7], seed=11), _request(session, labels=[3, 7], noise=noise))


def test_another_library_may_change_the_threads_device(session: Session, cuda: FakeCuda) -> None:
    _request(session)
    cuda.current_device = 3  # as torch.cuda.set_device would
    session.start(3, batch=2)
    session.run_steps()
    session.latents()
    assert cuda.current_device == 0


def test_two_sessions_take_turns(folder: Path, library: FakeTensorRT) -> None:
    with Bundle.open(folder) as bundle, bundle.session() as one, bundle.session() as other:
        alone = _request(one, seed=1)
        one.start(**{**golden_request(GOLDEN_V3), "seed": 1})
        other.start(**{**golden_request(GOLDEN_V3), "seed": 2})
        for index in range(bundle.manifest.sampler.steps):
            one.step(index)
            other.step(index)
        assert np.array_equal(one.latents(), alone)
        assert not np.array_equal(other.latents(), alone)


def _nothing_is_left(cuda: FakeCuda) -> None:
    gc.collect()
    assert not cuda.device, f"{len(cuda.device)} device blocks are left"
    assert not cuda.pinned
    assert not cuda.graphs
    assert not cuda.streams


@pytest.mark.parametrize("folder_name", ["folder", "text_folder"])
def test_closing_frees_everything_once(
    folder_name: str, library: FakeTensorRT, cuda: FakeCuda, request: pytest.FixtureRequest
) -> None:
    bundle = Bundle.open(request.getfixturevalue(folder_name))
    session = bundle.session()
    golden = GOLDEN_V3 if folder_name == "folder" else GOLDEN_V3_TEXT
    for _ in range(2):
        session.generate(**golden_request(golden))
    session.close()
    bundle.close()
    session.close()
    bundle.close()
    _nothing_is_left(cuda)
    assert cuda.log.count("cudaFree") == cuda.log.count("cudaMalloc")


def test_without_close_everything_is_freed_with_the_last_reference(
    folder: Path, library: FakeTensorRT, cuda: FakeCuda
) -> None:
    session = Session.open(folder)
    _request(session)
    _request(session)
    del session
    _nothing_is_left(cuda)
    assert cuda.log.count("cudaFree") == cuda.log.count("cudaMalloc")


@pytest.mark.parametrize("where", ["step-02.onnx", "conditioning.onnx"])
def test_a_failing_engine_names_its_step_and_everything_is_freed_once(
    folder: Path, library: FakeTensorRT, cuda: FakeCuda, where: str
) -> None:
    library.fail_at = where
    with (
        pytest.raises(EngineError, match=rf"{where}: the engine failed: made to fail"),
        Bundle.open(folder) as bundle, bundle.session() as session,
    ):  # fmt: skip
        _request(session)
    _nothing_is_left(cuda)
    assert cuda.log.count("cudaFree") == cuda.log.count("cudaMalloc")


@pytest.mark.parametrize(
    ("call", "count"),
    [("cudaMalloc", 3), ("cudaMalloc", 9), ("cudaMemsetAsync", 5), ("engine step-00.onnx", 1),
     ("cudaStreamBeginCapture", 0), ("cudaGraphInstantiate", 0), ("cudaGraphLaunch", 0), ("cudaStreamSynchronize", 2),
     ("cudaHostAlloc", 0)],
)  # fmt: skip
def test_ctrl_c_anywhere_frees_everything_once(
    folder: Path, library: FakeTensorRT, cuda: FakeCuda, call: str, count: int
) -> None:
    cuda.interrupt_after = {call: count}
    with pytest.raises(KeyboardInterrupt), Bundle.open(folder) as bundle, bundle.session() as session:
        [_request(session) for _ in range(3)]
    assert not cuda.interrupt_after
    cuda.recorded = None
    _nothing_is_left(cuda)
    assert len(cuda.freed) == cuda.log.count("cudaMalloc") - (call == "cudaMalloc")


def test_a_request_after_ctrl_c_is_whole(session: Session, cuda: FakeCuda) -> None:
    expected = _request(session)
    cuda.interrupt_after = {"engine step-00.onnx": 1}
    with pytest.raises(KeyboardInterrupt):
        session.generate(**{**golden_request(GOLDEN_V3), "batch": 0, "accelerated": True, "seed": 9})
    assert np.array_equal(_request(session), expected)


def test_too_little_device_memory_is_an_engine_error_and_frees_what_was_had(
    folder: Path, library: FakeTensorRT, cuda: FakeCuda
) -> None:
    cuda.device_bytes = 20_000
    with (
        pytest.raises(EngineError, match=r"device memory cannot be had .*out of memory.*; use a smaller batch"),
        Bundle.open(folder) as bundle, bundle.session() as session,
    ):  # fmt: skip
        _request(session)
    _nothing_is_left(cuda)


def test_a_driver_that_is_too_old_for_cuda_python_is_named(
    folder: Path, library: FakeTensorRT, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "cudaSetDevice", lambda _: (35,))
    monkeypatch.setattr(cuda, "cudaGetErrorString", lambda _: (0, b"driver version is insufficient"))
    with pytest.raises(EngineError, match=r"insufficient; where there is a GPU, renew its driver or run `pip install "):
        Bundle.open(folder)


def test_a_batch_that_the_engines_do_not_take_is_refused_with_the_command(session: Session) -> None:
    with pytest.raises(EngineError, match=r"takes at most 4 samples, .*soda-export build .*--max-batch N"):
        _request(session, labels=3, batch=9)


def test_work_goes_into_the_callers_stream(folder: Path, library: FakeTensorRT, cuda: FakeCuda) -> None:
    library.given_stream = 77
    with Bundle.open(folder, options=DeviceOptions(stream=77)) as bundle, bundle.session() as session:
        _request(session)
    assert "cudaStreamCreateWithFlags" not in cuda.log
    assert "cudaStreamDestroy" not in cuda.log
    assert not cuda.device


def test_compiled_kernels_are_kept_for_the_next_process_and_damaged_ones_compiled_again(
    folder: Path, library: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def kept() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "soda_runtime/trt-rtx-kernels").iterdir()}

    def play() -> np.ndarray:
        with Bundle.open(folder) as bundle, bundle.session() as session:
            return _request(session)

    expected = play()
    first = kept()
    assert len(first) > 3
    assert all(content.startswith(b"kernels:k") for content in first.values())
    assert np.array_equal(play(), expected)
    assert all(kept()[name].startswith(content) for name, content in first.items())  # they went on from there
    for path in (tmp_path / "soda_runtime/trt-rtx-kernels").iterdir():
        path.write_bytes(b"damaged")
    assert np.array_equal(play(), expected)
    assert kept() == first


@pytest.mark.parametrize(("backend", "old_calls"), [("trt", False), ("trt", True), ("trt_rtx", True)])
def test_old_and_new_calls_of_the_library(
    tmp_path: Path, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, backend: str, old_calls: bool
) -> None:
    module, version = VERSIONS[backend]
    install_tensorrt(monkeypatch, FakeTensorRT(cuda, module, version, old_calls))
    folder = make_nvidia_bundle(tmp_path / "bundle", GOLDEN_V3, backend, version)
    with Bundle.open(folder) as bundle, bundle.session() as session:
        assert distance(_request(session), golden_results(GOLDEN_V3)["latents"]) < 1e-4

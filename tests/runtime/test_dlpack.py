"""Tensors in and out through DLPack, with a producer of our own that says it is on a CUDA device."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, DeviceOptions, Embeds, Noise, RequestError, Session
from soda_runtime.dlpack import DeviceTensor, _exported, import_array
from soda_runtime.philox import INITIAL_STREAM, latent_noise

from .bundles import GOLDEN_V3, GOLDEN_V3_TEXT, GOLDEN_V5_START, golden_request
from .fake_cuda import FakeCuda, install_cuda
from .fake_tensorrt import FakeTensorRT, install_tensorrt
from .nvidia_bundles import make_nvidia_bundle

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


class Ordered:
    """Streams that note who waits."""

    device, stream = 0, 42

    def __init__(self) -> None:
        self.led: list[int] = []

    def lead(self, stream: int) -> None:
        self.led.append(stream)


class Given:
    """A caller's tensor in the stand-in's device memory."""

    def __init__(self, cuda: FakeCuda, values: np.ndarray, device: int = 0) -> None:
        self.address = cuda.cudaMalloc(values.nbytes)[1]
        block, part = cuda.find(self.address, values.nbytes)
        block.bytes[part] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        cuda.note_written(self.address, values.nbytes)
        self.tensor = DeviceTensor(self, Ordered(), values.shape)
        self.tensor._streams.device = device
        self.asked_with: list[int] = []
        self.is_int64 = values.dtype == np.int64

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, *, stream: int) -> Any:
        self.asked_with.append(stream)
        capsule = self.tensor.__dlpack__(stream=-1)
        if self.is_int64:
            tensor = next(reversed(_exported.values()))[0].tensor  # type: ignore[index]
            tensor.code, tensor.bits = 0, 64
        return capsule


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = install_cuda(monkeypatch, FakeCuda())
    install_tensorrt(monkeypatch, FakeTensorRT(fake, "tensorrt_rtx"))
    return fake


@pytest.fixture
def session(cuda: FakeCuda, tmp_path: Path) -> Iterator[Session]:
    folder = make_nvidia_bundle(tmp_path / "labels", GOLDEN_V3)
    with Bundle.open(folder) as bundle, bundle.session() as session:
        yield session


def test_latents_are_handed_over_where_they_are(session: Session, cuda: FakeCuda) -> None:
    latents = session.generate(**golden_request(GOLDEN_V3))
    tensor = session.latents_on_device()
    begin = len(cuda.log)
    array = import_array(tensor, 77)
    ours = session.bundle.backend.cuda.stream
    assert cuda.log[begin:] == ["cudaSetDevice", f"cudaEventRecord {ours}", "cudaStreamWaitEvent 77"]
    assert (array.dtype, array.shape, array.device) == ("float32", latents.shape, 0)
    block, part = cuda.find(array.address, array.nbytes)
    assert np.array_equal(block.bytes[part].view(np.float32).reshape(array.shape), latents)


@pytest.mark.parametrize(("asked", "waits"), [(None, [1]), (1, [1]), (2, [2]), (-1, [])])
def test_the_consumers_stream_waits_as_the_protocol_says(asked: int | None, waits: list[int]) -> None:
    memory, streams = np.zeros(4, np.float32), Ordered()
    memory_like = type("Memory", (), {"address": memory.ctypes.data})()
    DeviceTensor(memory_like, streams, (4,)).__dlpack__(stream=asked)
    assert streams.led == waits


def test_a_capsule_that_nobody_takes_lets_go() -> None:
    memory = type("Memory", (), {"address": 256})()
    before = len(_exported)
    capsule = DeviceTensor(memory, Ordered(), (2, 3)).__dlpack__()
    assert len(_exported) == before + 1
    del capsule
    gc.collect()
    assert len(_exported) == before


def test_torch_reads_what_we_export() -> None:
    torch = pytest.importorskip("torch")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    memory = type("Memory", (), {"address": values.ctypes.data})()

    class OnHost(DeviceTensor):
        """torch here has no CUDA: the same bytes, said to be on the CPU."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    import soda_runtime.dlpack as dlpack

    before, dlpack.CUDA_DEVICE = dlpack.CUDA_DEVICE, 1
    try:
        tensor = torch.from_dlpack(OnHost(memory, Ordered(), (2, 3)).__dlpack__())
    finally:
        dlpack.CUDA_DEVICE = before
    held = len(_exported)
    assert tensor.tolist() == values.tolist()
    del tensor
    gc.collect()
    assert len(_exported) == held - 1


def test_noise_from_the_device_is_the_same_request(session: Session, cuda: FakeCuda) -> None:
    shape, steps = session.bundle.manifest.model.latent_shape, session.bundle.manifest.sampler.steps
    noise = Noise(
        latent_noise(11, INITIAL_STREAM, 2, shape), np.stack([latent_noise(11, 1 + i, 2, shape) for i in range(steps)])
    )
    expected = session.generate([3, 7], noise=noise)
    given = Given(cuda, noise.initial)
    assert np.array_equal(session.generate([3, 7], noise=Noise(given, noise.steps)), expected)
    assert given.asked_with == [session.bundle.backend.cuda.stream]


def test_noise_that_the_sampler_scales_comes_by_way_of_the_host(session: Session, cuda: FakeCuda) -> None:
    sampler, shape = session.bundle.manifest.sampler, session.bundle.manifest.model.latent_shape
    values = latent_noise(11, INITIAL_STREAM, 2, shape)
    noise_of_steps = np.stack([latent_noise(11, 1 + i, 2, shape) for i in range(sampler.steps)])
    for scale in (1.0, 14.5):
        object.__setattr__(sampler, "initial_scale", scale)
        expected = session.generate([3, 7], noise=Noise(values, noise_of_steps))
        given = Noise(Given(cuda, values), Given(cuda, noise_of_steps))
        assert np.array_equal(session.generate([3, 7], noise=given), expected)
    bad = values.copy()
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(RequestError, match="not finite"):
        session.generate([3, 7], noise=Noise(Given(cuda, bad), noise_of_steps))


def test_latents_to_start_from_and_their_noise_may_lie_on_the_device(cuda: FakeCuda, tmp_path: Path) -> None:
    request = golden_request(GOLDEN_V5_START)
    with Bundle.open(make_nvidia_bundle(tmp_path / "start", GOLDEN_V5_START)) as bundle, bundle.session() as session:
        shape = bundle.manifest.model.latent_shape
        latents, noise = np.array(request.pop("start_latents"), np.float32), latent_noise(2, INITIAL_STREAM, 2, shape)
        expected = session.generate(**request, start_latents=latents, noise=Noise(noise))
        found = session.generate(
            **request, start_latents=Given(cuda, latents), noise=Noise(Given(cuda, noise))
        )  # fmt: skip
        assert np.array_equal(found, expected)


def test_a_callers_tensor_lives_until_it_has_been_copied(session: Session, cuda: FakeCuda) -> None:
    shape = session.bundle.manifest.model.latent_shape
    steps = np.zeros((session.bundle.manifest.sampler.steps, 1, *shape), np.float32)
    session.start(3, noise=Noise(latent_noise(1, INITIAL_STREAM, 1, shape), steps))
    session.wait()
    gone: list[int] = []
    for seed in range(2):  # nothing waits for the stream between these requests
        given = Given(cuda, latent_noise(seed, INITIAL_STREAM, 1, shape))
        weakref.finalize(given, gone.append, seed)
        session.start(3, noise=Noise(given, steps))
        session.run_steps()
        del given
    gc.collect()
    assert not gone
    session.latents()
    gc.collect()
    assert sorted(gone) == [0, 1]


def test_a_tensor_that_its_library_does_not_hand_over_is_refused(session: Session, cuda: FakeCuda) -> None:
    given = Given(cuda, np.zeros((1, *session.bundle.manifest.model.latent_shape), np.float32))

    def refuse(*, stream: int) -> object:
        raise BufferError("it requires a gradient")

    given.__dlpack__ = refuse  # type: ignore[method-assign]
    with pytest.raises(RequestError, match=r"noise\.initial lies on a GPU and is refused \(it requires a gradient\)"):
        session.generate(3, noise=Noise(given))


def test_embeddings_from_the_device_are_the_same_request(cuda: FakeCuda, tmp_path: Path) -> None:
    folder = make_nvidia_bundle(tmp_path / "text", GOLDEN_V3_TEXT)
    with Bundle.open(folder, options=DeviceOptions(cuda_graph="off")) as bundle, bundle.session() as session:
        shape = next(port.shape for port in bundle.manifest.ports if port.kind == "embedding")
        values, mask = latent_noise(0, 0, 2, shape), np.ones((2, shape[0]), np.int64)
        expected = session.generate(embeds=Embeds(values, mask, values[:1], mask[:1]), seed=3)
        given = Embeds(Given(cuda, values), mask, Given(cuda, values[:1]), mask[:1])
        assert np.array_equal(session.generate(embeds=given, seed=3), expected)
        masks = [Given(cuda, each) for each in (mask, mask[:1])]
        given = Embeds(values, masks[0], values[:1], masks[1])
        assert np.array_equal(session.generate(embeds=given, seed=3), expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: setattr(g.tensor, "shape", (2, 1, 8, 7)), "noise.initial has shape"),
        (lambda g: setattr(g.tensor._streams, "device", 3), "this session takes float32 on device 0"),
    ],
)
def test_a_device_tensor_that_does_not_fit_is_refused(session: Session, cuda: FakeCuda, change: Any, said: str) -> None:
    given = Given(cuda, np.zeros((2, *session.bundle.manifest.model.latent_shape), np.float32))
    change(given)
    with pytest.raises(RequestError, match=said):
        session.generate([3, 7], noise=Noise(given))


def test_a_session_on_the_host_takes_and_gives_none(cuda: FakeCuda) -> None:
    session = Bundle.open(GOLDEN_V3, threads=1).session()
    given = Given(cuda, np.zeros((1, *session.bundle.manifest.model.latent_shape), np.float32))
    with pytest.raises(RequestError, match="lies on a GPU, where this bundle does not run"):
        session.generate(3, noise=Noise(given))
    session.generate(**golden_request(GOLDEN_V3))
    with pytest.raises(BufferError, match="copy them after"):
        Given(cuda, np.zeros(4, np.float32)).tensor.__dlpack__(copy=True)
    with pytest.raises(RequestError, match="latents are in host memory"):
        session.latents_on_device()

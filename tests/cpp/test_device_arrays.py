"""Arrays in device memory through the C ABI, on the stand-ins of the C++ tests: a CUDA device that is the host."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, Noise, RequestError
from soda_runtime.philox import latent_noise

from tests.runtime.bundles import GOLDEN_V3, GOLDEN_V3_TEXT

from .chunks_toy import ChunksToy
from .library import BUILD, CppBundle, Library
from .ports_toy import PortsToy
from .test_ports import EMBEDS, given

FAKES = BUILD / "fakes"
SAMPLES = 2


class Device:
    """Memory of the stand-in for CUDA's runtime library."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL(str(FAKES / "libcudart.so.13"))  # what the backend finds under that name from now on
        self._blocks: list[ctypes.c_void_p] = []

    def put(self, values: np.ndarray) -> tuple[int, int]:
        block = ctypes.c_void_p()
        assert self._cuda.cudaMalloc(ctypes.byref(block), ctypes.c_size_t(values.nbytes)) == 0
        self._blocks.append(block)
        assert block.value is not None
        ctypes.memmove(block, values.ctypes.data, values.nbytes)
        return block.value, values.nbytes

    def get(self, place: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
        """What is there once the stream has run."""
        self._cuda.fake_cuda_finish()
        return np.frombuffer(ctypes.string_at(*place), np.float32).reshape(shape)

    def free(self) -> None:
        self._cuda.fake_cuda_finish()
        while self._blocks:
            self._cuda.cudaFree(self._blocks.pop())


@pytest.fixture
def device(library: Library) -> Iterator[Device]:
    if not (FAKES / "libfake_onnxruntime.so").exists():
        pytest.skip("the stand-ins of the backend ort have not been built; `make cpp` says why")
    made = Device()
    yield made
    made.free()


@pytest.fixture
def bundle(library: Library, device: Device) -> CppBundle:
    return library.open(
        GOLDEN_V3, backend="ort", device="cuda", threads=1, engine_library=str(FAKES / "libfake_onnxruntime.so")
    )


def _noise() -> Noise:
    manifest = Bundle.open(GOLDEN_V3, backend="null").manifest
    made = [latent_noise(9, i, SAMPLES, manifest.model.latent_shape) for i in range(1 + manifest.sampler.steps)]
    return Noise(made[0], np.stack(made[1:]))


def test_noise_and_labels_of_the_device_play_as_the_hosts_do(bundle: CppBundle, device: Device) -> None:
    noise, session = _noise(), bundle.session()
    assert noise.steps is not None
    expected = Bundle.open(GOLDEN_V3, backend="ort", threads=1).session().generate([3, 7], noise=noise)
    given = {
        "noise_initial": device.put(noise.initial), "noise_steps": device.put(noise.steps),
        "labels": device.put(np.array([3, 7], np.int64)),
    }  # fmt: skip
    place = device.put(np.zeros_like(expected))
    session.start(on_device=given, num_labels=2)
    for i in range(session.info.steps):
        session.step(i)
    session.to_device("latents", *place)
    assert bundle.info().cuda_stream
    assert np.abs(device.get(place, expected.shape) - expected).max() <= 1e-5


def test_a_generation_without_host_memory_leaves_its_latents(bundle: CppBundle, device: Device) -> None:
    session = bundle.session()
    expected = session.generate(labels=[3, 7], seed=5)
    place = device.put(np.zeros_like(expected))
    session.start(labels=[1], seed=1)
    session.generate_whole(None, labels=[3, 7], seed=5)
    session.to_device("latents", *place)
    assert np.array_equal(device.get(place, expected.shape), expected)


def test_ports_by_name_play_from_the_device_as_from_the_host(library: Library, device: Device, tmp_path: Path) -> None:
    folder, ports = PortsToy().write(tmp_path / "toy"), given(EMBEDS)
    expected = library.open(folder, threads=1).session().generate(ports=ports, seed=5)
    fake = str(FAKES / "libfake_onnxruntime.so")
    session = library.open(folder, device="cuda", threads=1, engine_library=fake).session()
    names = ("text", "-pooled", "hint", "speed", "style")
    some = {name: (len(ports[name]), *device.put(ports[name])) for name in names}
    assert np.abs(session.generate(ports=ports | some, seed=5) - expected).max() <= 1e-5
    short = {"text": (SAMPLES, some["text"][1], some["text"][2] - 1)}
    for wrong, reason in ((short, "has 95 bytes"), ({"text": (SAMPLES, None, 96)}, "it is NULL")):
        with pytest.raises(RequestError, match=reason):
            session.start(ports=ports | wrong)
    place = device.put(np.zeros(expected[:, :1].size * 3, np.float32))
    session.to_device("video", *place)
    result = np.moveaxis(session.result(), -1, 2)
    assert np.array_equal(device.get(place, result.shape), result)
    with pytest.raises(RequestError, match="makes video, not images"):
        session.to_device("images", *place)


def test_a_video_in_chunks_goes_to_the_device_whole(library: Library, device: Device, tmp_path: Path) -> None:
    folder, labels = ChunksToy().write(tmp_path / "toy"), [1, 4]
    on_host = library.open(folder, threads=1).session()
    fake = str(FAKES / "libfake_onnxruntime.so")
    session = library.open(folder, device="cuda", threads=1, engine_library=fake).session()
    for seed in (5, 6):
        session.start(labels=labels, seed=seed)
        for i in range(session.info.steps):
            session.step(i)
        on_host.generate(labels=labels, seed=seed)
        expected = np.ascontiguousarray(np.moveaxis(on_host.result(), -1, 2))
        place = device.put(np.zeros_like(expected))
        session.to_device("video", *place)
        assert np.abs(device.get(place, expected.shape) - expected).max() <= 1e-5
        chunks = [session.chunk(i) for i in range(session.info.num_chunks)]
        assert np.abs(np.concatenate(chunks, axis=1) - on_host.result()).max() <= 1e-5


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"noise_initial": (None, 512)}, "it is NULL"),
        ({"noise_initial": (0, 511)}, "has 511 bytes, the request takes 512"),
        ({"guidance": (0, 4)}, "is no input of a request"),
        ({"token_mask": (0, 64)}, "takes no prompt"),
        ({"labels": (0, 16)}, "on the host, too"),
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_are_refused(
    bundle: CppBundle, device: Device, arrays: dict[str, tuple[int | None, int]], reason: str
) -> None:
    session = bundle.session()
    room = device.put(np.zeros(SAMPLES * 64, np.float32))[0]
    given = {name: (room if address == 0 else address, size) for name, (address, size) in arrays.items()}
    with pytest.raises(RequestError, match=reason) as caught:
        session.start(labels=[3, 7], on_device=given)
    assert "\n" not in str(caught.value)


def test_host_memory_is_no_device_memory(bundle: CppBundle) -> None:
    session, host = bundle.session(), np.zeros((SAMPLES, 1, 8, 8), np.float32)
    with pytest.raises(RequestError, match="not memory of a CUDA device"):
        session.start(labels=[3, 7], on_device={"noise_initial": (host.ctypes.data, host.nbytes)})
    session.generate(labels=[3, 7])
    with pytest.raises(RequestError, match="not memory of a CUDA device"):
        session.to_device("latents", host.ctypes.data, host.nbytes)


@pytest.mark.parametrize("folder", [GOLDEN_V3, GOLDEN_V3_TEXT], ids=lambda folder: folder.name)
def test_a_bundle_on_the_cpu_takes_none(library: Library, folder: Any) -> None:
    bundle = library.open(folder, backend="null")
    session, values = bundle.session(), np.zeros(4096, np.float32)
    assert bundle.info().cuda_stream is None
    with pytest.raises(RequestError, match="this one is on the CPU"):
        session.start(on_device={"noise_initial": (values.ctypes.data, values.nbytes)})
    if folder == GOLDEN_V3:
        session.start(labels=[1])
        with pytest.raises(RequestError, match="this bundle is on the CPU"):
            session.to_device("latents", values.ctypes.data, values.nbytes)

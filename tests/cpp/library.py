"""libsoda_runtime through ctypes: handles that raise the Python runtime's errors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint8, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from soda_runtime import BundleError, EngineError, RequestError

from .structs import PROGRESS, Info, Lora, OpenOptions, Port, Request, Slot, StepInfo, TruncationStruct, request

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("SODA_CPP_BUILD", ROOT / "build" / "cpp"))
FAMILIES: dict[int, type[Exception]] = {100: BundleError, 200: EngineError, 300: RequestError}

Floats = NDArray[np.float32]


class CancelledError(Exception):
    """Status family 400."""


class InternalCppError(Exception):
    """Status family 900."""


class Library:
    """The loaded library; every call that fails raises its family's error with the thread's last error as message."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        self.c.soda_last_error.restype = self.c.soda_version.restype = c_char_p
        for name in ("soda_bundle_close", "soda_session_close", "soda_cancel"):
            getattr(self.c, name).restype = None
            getattr(self.c, name).argtypes = [c_void_p]
        self.c.soda_noise.argtypes = [c_uint64, ctypes.c_uint32, ctypes.c_uint32, POINTER(c_float), c_size_t]
        self.c.soda_generate.argtypes = [c_void_p, POINTER(Request), POINTER(c_float), c_size_t]
        self.c.soda_start.argtypes = [c_void_p, POINTER(Request)]
        self.c.soda_step.argtypes = [c_void_p, c_int32]
        self.c.soda_latents.argtypes = self.c.soda_images.argtypes = [c_void_p, POINTER(c_float), c_size_t]
        self.c.soda_decisions.argtypes = [c_void_p, POINTER(c_int64), c_size_t]
        self.c.soda_result.argtypes = self.c.soda_latents.argtypes
        self.c.soda_preview.argtypes = self.c.soda_preview_result.argtypes = self.c.soda_latents.argtypes
        self.c.soda_images_rgb.argtypes = self.c.soda_result_rgb.argtypes = [c_void_p, POINTER(c_uint8), c_size_t]
        self.c.soda_result_chunk.argtypes = [c_void_p, c_int32, POINTER(c_float), c_size_t]
        self.c.soda_result_chunk_rgb.argtypes = [c_void_p, c_int32, POINTER(c_uint8), c_size_t]
        self.c.soda_to_device.argtypes = [c_void_p, c_char_p, c_void_p, c_size_t]
        self.c.soda_truncated.argtypes = [c_void_p, c_int32, POINTER(TruncationStruct)]
        self.c.soda_reset.argtypes = [c_void_p]
        self.c.soda_bundle_open.argtypes = [c_char_p, POINTER(OpenOptions), POINTER(c_void_p)]
        self.c.soda_bundle_set_lora_strengths.argtypes = [c_void_p, POINTER(c_double), c_int32]
        self.c.soda_bundle_info.argtypes = [c_void_p, POINTER(Info)]
        self.c.soda_bundle_port.argtypes = [c_void_p, c_int32, c_int32, POINTER(Port)]
        self.c.soda_bundle_slot.argtypes = [c_void_p, c_int32, POINTER(Slot)]
        self.c.soda_bundle_step.argtypes = [c_void_p, c_int32, POINTER(StepInfo)]
        self.c.soda_session_open.argtypes = [c_void_p, POINTER(c_void_p)]
        self.c.soda_progress_of.argtypes = [c_void_p, POINTER(c_int32), POINTER(c_int32)]

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.c, name)(*arguments)
        if status:
            message = self.c.soda_last_error().decode()
            family = FAMILIES.get(status // 100 * 100, CancelledError if status == 400 else InternalCppError)
            error = family(message)
            error.status = status  # type: ignore[attr-defined]
            raise error

    def noise(self, seed: int, stream: int, row: int, count: int) -> Floats:
        values = np.empty(count, np.float32)
        self.call("soda_noise", seed, stream, row, _floats(values), count)
        return values

    def open(self, folder: Path | str, **options: Any) -> CppBundle:
        given = OpenOptions(size=ctypes.sizeof(OpenOptions))
        loras = [Lora(ctypes.sizeof(Lora), os.fsencode(path), strength) for path, strength in options.pop("lora", ())]
        given.loras, given.num_loras = (Lora * len(loras))(*loras), len(loras)
        for name, value in options.items():
            setattr(given, name, value.encode() if isinstance(value, str) else value)
        handle = c_void_p()
        self.call("soda_bundle_open", os.fsencode(folder), byref(given), byref(handle))
        return CppBundle(self, handle)


class CppBundle:
    """An opened bundle; closed with the object."""

    def __init__(self, library: Library, handle: c_void_p) -> None:
        self.library, self.handle = library, handle

    def __del__(self) -> None:
        self.library.c.soda_bundle_close(self.handle)

    def set_lora_strengths(self, strengths: list[float]) -> None:
        values = (c_double * len(strengths))(*strengths)
        self.library.call("soda_bundle_set_lora_strengths", self.handle, values, len(strengths))

    def info(self) -> Info:
        info = Info(size=ctypes.sizeof(Info))
        self.library.call("soda_bundle_info", self.handle, byref(info))
        return info

    def port_structs(self, direction: int) -> list[Port]:
        return self._listed(Port, "soda_bundle_port", direction)

    def ports(self, direction: int) -> list[tuple[str, int, list[int]]]:
        found = self.port_structs(direction)
        return [(port.name.decode(), port.dtype, list(port.shape[: port.rank])) for port in found]

    def slots(self) -> list[Slot]:
        return self._listed(Slot, "soda_bundle_slot")

    def _listed(self, kind: Any, function: str, *arguments: int) -> list[Any]:
        found: list[Any] = []
        while True:
            each = kind(size=ctypes.sizeof(kind))
            if getattr(self.library.c, function)(self.handle, *arguments, len(found), byref(each)):
                return found
            found.append(each)

    def step(self, index: int) -> StepInfo:
        step = StepInfo(size=ctypes.sizeof(StepInfo))
        self.library.call("soda_bundle_step", self.handle, index, byref(step))
        return step

    def sizes(self) -> list[tuple[int, int]]:
        found = []
        for index in range(self.info().num_sizes):
            height, width = c_int32(), c_int32()
            self.library.call("soda_bundle_size", self.handle, index, byref(height), byref(width))
            found.append((height.value, width.value))
        return found

    def at(self, height: int, width: int) -> CppBundle:
        handle = c_void_p()
        self.library.call("soda_bundle_at", self.handle, height, width, byref(handle))
        return CppBundle(self.library, handle)

    def session(self) -> CppSession:
        handle = c_void_p()
        self.library.call("soda_session_open", self.handle, byref(handle))
        return CppSession(self, handle)


class CppSession:
    """A session; keeps its bundle alive."""

    def __init__(self, bundle: CppBundle, handle: c_void_p) -> None:
        self.bundle, self.handle, self._call = bundle, handle, bundle.library.call
        self.info, self._request = bundle.info(), request()

    def __del__(self) -> None:
        self.bundle.library.c.soda_session_close(self.handle)

    def samples(self) -> int:
        count = c_int32()
        self._call("soda_progress_of", self.handle, byref(count), None)
        return count.value

    def next_step(self) -> int:
        count = c_int32()
        self._call("soda_progress_of", self.handle, None, byref(count))
        return count.value

    def start(self, progress: Callable[[int, int], bool] | None = None, **fields: Any) -> None:
        if progress is not None:
            fields["progress"] = PROGRESS(lambda _, done, steps: int(progress(done, steps)))
        made = request(**fields)
        self._call("soda_start", self.handle, byref(made))
        self._request = made  # its callback is called as long as the request is in progress

    def step(self, index: int) -> None:
        self._call("soda_step", self.handle, index)

    def generate(self, **fields: Any) -> Floats:
        self.start(**fields)
        for i in range(self.next_step(), self.info.steps):
            self.step(i)
        return self.latents()

    def generate_whole(self, latents: Floats | None, **fields: Any) -> None:
        """soda_generate itself; None leaves the latents in the session."""
        room = (None, 0) if latents is None else (_floats(latents), latents.size)
        self._call("soda_generate", self.handle, byref(request(**fields)), *room)

    def latents(self) -> Floats:
        axes = self.info.latent_axes[: self.info.latent_rank]
        values = np.empty((max(1, self.samples()), *axes), np.float32)
        self._call("soda_latents", self.handle, _floats(values), values.size)
        return values

    def decisions(self) -> NDArray[np.int64]:
        """[steps so far, samples]."""
        values = np.empty((self.next_step(), self.samples()), np.int64)
        room = np.empty(values.size + 1, np.int64)  # its address is never null
        self._call("soda_decisions", self.handle, room.ctypes.data_as(POINTER(c_int64)), values.size)
        values[:] = room[:-1].reshape(values.shape)
        return values

    def truncated(self) -> list[tuple[str, int, int, str]]:
        """Field, sample, tokens that the model reads, and what is lost."""
        found: list[tuple[str, int, int, str]] = []
        each = TruncationStruct(size=ctypes.sizeof(TruncationStruct))
        while not self.bundle.library.c.soda_truncated(self.handle, len(found), byref(each)):
            found.append((each.field.decode(), each.sample, each.max_tokens, each.lost.decode()))
        return found

    def result(self) -> Floats:
        """Images, a video or sound: whatever the bundle makes."""
        values = np.empty((max(1, self.samples()), *self.info.result_axes[: self.info.result_rank]), np.float32)
        self._call("soda_result", self.handle, _floats(values), values.size)
        return values

    def preview(self) -> Floats:
        values = np.empty((max(1, self.samples()), *self.info.latent_axes[: self.info.latent_rank]), np.float32)
        self._call("soda_preview", self.handle, _floats(values), values.size)
        return values

    def preview_result(self) -> Floats:
        values = np.empty((max(1, self.samples()), *self.info.result_axes[: self.info.result_rank]), np.float32)
        self._call("soda_preview_result", self.handle, _floats(values), values.size)
        return values

    def result_rgb(self) -> NDArray[np.uint8]:
        values = np.empty((max(1, self.samples()), *self.info.result_axes[: self.info.result_rank]), np.uint8)
        self._call("soda_result_rgb", self.handle, values.ctypes.data_as(POINTER(c_uint8)), values.size)
        return values

    def chunk(self, index: int) -> Floats:
        """[samples, frames, height, width, channels]."""
        values = np.empty(self._chunk_shape(index), np.float32)
        room = values if values.size else np.empty(1, np.float32)  # its address is never null
        self._call("soda_result_chunk", self.handle, index, _floats(room), values.size)
        return values

    def chunk_rgb(self, index: int) -> NDArray[np.uint8]:
        values = np.empty(self._chunk_shape(index), np.uint8)
        self._call("soda_result_chunk_rgb", self.handle, index, values.ctypes.data_as(POINTER(c_uint8)), values.size)
        return values

    def _chunk_shape(self, index: int) -> tuple[int, ...]:
        frames = self.info.chunk_frames if index else self.info.first_chunk_frames
        return (max(1, self.samples()), frames, *self.info.result_axes[1:4])

    def images(self) -> Floats:
        values = np.empty((max(1, self.samples()), *self.info.image_shape), np.float32)
        self._call("soda_images", self.handle, _floats(values), values.size)
        return values

    def rgb(self) -> NDArray[np.uint8]:
        values = np.empty((max(1, self.samples()), *self.info.image_shape), np.uint8)
        self._call("soda_images_rgb", self.handle, values.ctypes.data_as(POINTER(c_uint8)), values.size)
        return values

    def to_device(self, output: str, address: int | None, nbytes: int) -> None:
        self._call("soda_to_device", self.handle, output.encode(), address, nbytes)

    def reset(self) -> None:
        self._call("soda_reset", self.handle)

    def cancel(self) -> None:
        self.bundle.library.c.soda_cancel(self.handle)


def _floats(values: Floats) -> Any:
    return values.ctypes.data_as(POINTER(c_float))


def has_backend(name: str) -> bool:
    return (BUILD / "lib" / f"libsoda_runtime_{name}.so").exists()


def load() -> Library:
    """The built library, or a skip that says how to build it."""
    path = BUILD / "lib" / "libsoda_runtime.so"
    if not path.exists():
        pytest.skip(f"{path.name} has not been built; run `make cpp`")
    return Library(path)

"""What an engine library must offer to the runtime, and the table of libraries.

A backend owns memory and opens engines; an engine binds addresses once and is then called with no arguments.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex, runtime_checkable

from numpy.typing import NDArray

from ..errors import EngineError
from ..replaced import HostTensor
from ..signature import Signature

if TYPE_CHECKING:
    from .cuda import Cuda

REGISTRY = {
    "ort": "soda_runtime.backends.ort",
    "openvino": "soda_runtime.backends.openvino",
    "trt": "soda_runtime.backends.trt",
    "trt_rtx": "soda_runtime.backends.trt_rtx",
    "null": "soda_runtime.backends.null",
}
WEIGHTS = ("", "prepacked", "shared")
"""How engines hold weights: the backend's faster way, a copy an engine in its kernels' order, or one for all."""
MAX_THREADS = 1024
"""Of an engine library, which starts all of them: thousands take it minutes."""
_ON_CUDA = {"ort", "trt", "trt_rtx"}
_DEFAULT_DEVICES = {"trt": "cuda", "trt_rtx": "cuda"}


Tensors = Mapping[str, HostTensor]
NO_TENSORS: Tensors = {}


class Memory(Protocol):
    """A block of memory where a backend's engines can read and write; freed with the object.

    address: where it begins, on the host or the device, a multiple of 256.
    """

    nbytes: int
    address: int

    def write(self, array: NDArray[Any]) -> None:
        """Copy a host array of exactly nbytes into the block."""

    def clear(self) -> None:
        """Fill the block with zeros."""

    def read(self) -> NDArray[Any]:
        """Copy the block to the host, as uint8 [nbytes]."""

    def free(self) -> None:
        """Free the block now, where the backend can; nobody may use it any more. The second time does nothing."""


@dataclass(frozen=True)
class DeviceOptions:
    """How to run on CUDA. cuda_graph: whether the whole loop is recorded and launched as one: auto and on do so where
    CUDA lets them, on before the first request. ONNX Runtime lets nobody else record it: its sessions record each step
    by themselves with on, and auto is off. stream: a cudaStream_t of the caller's to work in, 1 is CUDA's
    default stream, 0 makes one."""

    cuda_graph: Literal["auto", "on", "off"] = "auto"
    stream: int = 0


@dataclass(frozen=True)
class View:
    """A tensor inside a block: it keeps the block alive. dtype as numpy spells it, offset in bytes."""

    memory: Memory
    offset: int
    dtype: str
    shape: tuple[int, ...]


class Engine(Protocol):
    """One opened program. Safe to bind and to call from several threads."""

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        """Fix all addresses and return the call. `label` names the step in error messages.

        An input and an output may be the same view: the engine then updates it in place.
        """


class Backend(Protocol):
    """An engine library on one device."""

    def allocate(self, nbytes: int) -> Memory:
        """A zeroed block of memory, aligned to 256 bytes or the device's own larger unit."""

    def open_engine(
        self, path: Path, signature: Signature, once: bool = False, weights: str = "", replaced: Tensors = NO_TENSORS
    ) -> Engine:
        """Open one program and check that its inputs and outputs are the signature's.

        once: it runs once per request, so memory matters more than its speed. weights: the file beside it that it takes
        its weights from; "" where there is none, or an old bundle does not say. replaced: weights that it takes in the
        place of that file's, by name.
        """

    def why_fixed_weights(self, folder: Path) -> str:
        """Why engines of a bundle cannot take other weights than those in its files; "" where they can."""


@runtime_checkable
class DeviceBackend(Protocol):
    """What a backend has beside where the loop stays on its device: nothing is waited for between steps.

    noise_bytes: how much of the steps' noise is put there ahead. row_bytes: what the addresses of a table's rows must
    be multiples of, or engines copy them at each step. cuda: the device and the stream that work goes into.
    activation_bytes: on the device now, for activations of all engines together; 0 where that is not known.
    """

    noise_bytes: int
    row_bytes: int
    cuda: Cuda

    @property
    def activation_bytes(self) -> int: ...

    def free_bytes(self) -> int:
        """Free bytes on the device, as its driver counts them."""

    def loop(self, calls: list[Callable[[], None]]) -> Callable[[], None]:
        """All calls of a request as one, perhaps recorded; what they take is in place before it is called."""

    def wait(self) -> None:
        """Wait until the device has done everything that was asked of it."""

    def close(self) -> None:
        """Wait for the device and free what all sessions share."""


def _whole_threads(threads: object) -> int:
    is_whole = isinstance(threads, SupportsIndex) and not isinstance(threads, bool)
    if not is_whole or not 0 <= operator.index(threads) <= MAX_THREADS:  # type: ignore[arg-type]
        raise EngineError(
            f"threads {threads!r:.40}: give a whole number, 0 (the library chooses) to {MAX_THREADS}"
        )
    return operator.index(threads)  # type: ignore[arg-type]


def open_backend(
    name: str, device: str, threads: int, weights: str = "", options: DeviceOptions = DeviceOptions()
) -> Backend:
    """Import and start the backend `name`.

    device auto: its own. threads: 0 .. MAX_THREADS, 0: the library chooses. weights: one of WEIGHTS.
    """
    for what, value in (("backend", name), ("device", device), ("weights", weights)):
        if not isinstance(value, str):
            raise EngineError(f"{what} {value!r:.40}: must be a string")
    if not isinstance(options, DeviceOptions):
        raise EngineError(f"options {options!r:.40}: give soda_runtime.DeviceOptions(...)")
    threads = _whole_threads(threads)
    if weights not in WEIGHTS:
        raise EngineError(f"weights {weights!r}: must be {' or '.join(filter(None, WEIGHTS))}")
    if name not in REGISTRY:
        raise EngineError(f"backend {name!r} is unknown to this runtime; it has {', '.join(sorted(REGISTRY))}")
    module = importlib.import_module(REGISTRY[name])
    device = _DEFAULT_DEVICES.get(name, "cpu") if device == "auto" else device
    if options != DeviceOptions() and (name not in _ON_CUDA or device == "cpu"):
        raise EngineError(f"cuda_graph and stream are for CUDA; backend {name!r} on {device} has neither")
    backend: Backend = module.open_backend(device, threads, weights, options)
    return backend

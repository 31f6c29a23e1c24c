"""What the backends `trt` and `trt_rtx` share: preflight, open and bind engines of TensorRT's Python API.

An engine's activations lie in one block that all engines of the bundle share, since they run one after another in one
stream. An input or output whose place the library would not take is copied on the device: a slot renewed in place,
because an engine may read it after it has begun to write, and addresses that are not multiples of 256.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..engine_index import EngineIndex, read_index
from ..errors import EngineError
from ..signature import Port, Signature
from . import NO_TENSORS, DeviceOptions, Tensors, View
from .bound import BoundEngine
from .cuda import Cuda, DeviceMemory
from .kernels import KernelCache, has_kernel_cache
from .loop import Loop
from .preflight import Library, built_for, check_identity, check_machine, rebuild_command
from .shared_block import SharedBlock
from .weights import DeviceWeights, refit

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64"}


class NvidiaBackend:
    """One library on one device, with one stream for all sessions of a bundle."""

    noise_bytes = 256 << 20
    row_bytes = 256

    def __init__(self, library: Library, device: str, options: DeviceOptions) -> None:
        self.library, self.trt, self._options = library, library.load(), options
        self.cuda = Cuda(_ordinal(device), options.stream)
        self.target = self.cuda.target
        self.messages: deque[str] = deque(maxlen=3)
        self._logger = _make_logger(self.trt, self.messages)
        self._runtime = self.trt.Runtime(self._logger)
        self._index: EngineIndex | None = None
        self.activations, self.scratch = SharedBlock(self.cuda), SharedBlock(self.cuda)
        self.weights = DeviceWeights(self.cuda)
        self.kernels: list[KernelCache] = []

    def allocate(self, nbytes: int) -> DeviceMemory:
        return self.cuda.allocate(nbytes)

    def why_fixed_weights(self, folder: Path) -> str:
        if read_index(folder).weights != "baked":
            return ""
        return (
            "its engines have their weights built in; build with --engine-weights stripped or inputs, or with the "
            "LoRA baked in (--lora)"
        )

    def open_engine(
        self, path: Path, signature: Signature, once: bool = False, weights: str = "", replaced: Tensors = NO_TENSORS
    ) -> NvidiaEngine:
        """Open one engine; everything that is known without opening it is judged first."""
        if self._index is None:
            self._index = read_index(path.parent)
        index = self._index
        check_machine(path, index, self.library, str(self.trt.__version__), self.target)
        with self.cuda.lock:
            self.cuda.use_device()
            self.messages.clear()
            with _mapped(path) as content:
                check_identity(path, content, index, self.library)
                self._check_validity(path, content, index)
                engine = self._runtime.deserialize_cuda_engine(content)
            if engine is None:
                raise self._refused(path, index, "cannot be opened: it is damaged, or the library lacks what it needs")
            if index.weights == "stripped":
                refit(self.trt, self._logger, engine, path, index, replaced)
        return NvidiaEngine(self, engine, path, signature, index, replaced)

    def loop(self, calls: list[Callable[[], None]]) -> Loop:
        """The calls as one, which is a CUDA graph where the options and the driver allow it."""
        return Loop(self.cuda, calls, self._options.cuda_graph, lambda: self.activations.moves + self.scratch.moves)

    def wait(self) -> None:
        """Wait for everything in the stream."""
        with self.cuda.lock:
            self.cuda.use_device()
            self.cuda.synchronize()

    @property
    def activation_bytes(self) -> int:
        """Of the block that all engines share."""
        return self.activations.nbytes

    def free_bytes(self) -> int:
        """Free bytes on the device, as its driver counts them."""
        return int(self.cuda.call("cudaMemGetInfo"))

    def close(self) -> None:
        """Keep the kernels that were compiled, wait for the device and free what all sessions share."""
        try:
            while self.kernels:
                self.kernels.pop().save()
        finally:
            for block in (self.activations, self.scratch):
                block.free()
            self.weights.free()
            self.cuda.close()

    def _check_validity(self, path: Path, content: Any, index: EngineIndex) -> None:
        """Ask the library whether it would take the engine, where it can tell."""
        judge = getattr(self._runtime, "get_engine_validity", None)
        if judge is None:
            return
        validity, diagnostics = judge(content)
        if validity == self.trt.EngineValidity.INVALID:
            raise self._refused(path, index, f"is refused by the library (diagnostics {int(diagnostics):#x})")

    def _refused(self, path: Path, index: EngineIndex, what: str) -> EngineError:
        said = f" [{' '.join(' | '.join(self.messages).split())[:400]}]" if self.messages else ""
        here = f"{self.library.title} {self.trt.__version__} and {self.target}"
        command, made = rebuild_command(path, index, self.target), built_for(index, self.library)
        return EngineError(
            f"{path}: {path.stat().st_size} bytes {made}, this machine has {here}: the engine {what}{said}; "
            f"copy the bundle again or run `{command}`"
        )


class NvidiaEngine:
    """One opened engine; every binding has an execution context of its own, whose addresses are set once."""

    def __init__(
        self, backend: NvidiaBackend, engine: Any, path: Path, signature: Signature, index: EngineIndex,
        replaced: Tensors = NO_TENSORS,
    ) -> None:  # fmt: skip
        self._backend, self._engine, self._path, self._index = backend, engine, path, index
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        is_input = backend.trt.TensorIOMode.INPUT
        found = [{n for n in names if (engine.get_tensor_mode(n) == is_input) == wanted} for wanted in (True, False)]
        self._shared = found[0] - signature.inputs.keys() if index.weights == "inputs" else set()
        self._check_ports("input", found[0] - self._shared, signature.inputs)
        self._check_ports("output", found[1], signature.outputs)
        self._kernels: KernelCache | None = None
        if has_kernel_cache(engine):
            self._kernels = KernelCache(backend.trt, engine, index.engines[path.name].content, backend.target)
            backend.kernels.append(self._kernels)
        file = path.parent / index.engines[path.name].weights_file
        self._own = {name: backend.weights.copy(replaced[name]) for name in self._shared & replaced.keys()}
        self._addresses = {
            name: self._own[name].address if name in self._own else backend.weights.address(name, file, path)
            for name in self._shared
        }

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        backend, trt, where = self._backend, self._backend.trt, f"{label}: {self._path}"
        with backend.cuda.lock:
            backend.cuda.use_device()
            context = self._create_context(trt)
            if context is None:
                raise EngineError(f"{where}: {backend.library.title} makes no context: {' '.join(backend.messages)}")
            for name, view in inputs.items():
                if not context.set_input_shape(name, view.shape):
                    raise EngineError(
                        f"{where}: the engine takes at most {self._index.max_batch} samples, {name!r} is "
                        f"{list(view.shape)}; make smaller requests or run "
                        f"`{rebuild_command(self._path, self._index, backend.target, '--max-batch N')}`"
                    )
            bound = BoundEngine(backend.cuda, context, where, backend.messages)
            for name, address in self._addresses.items():
                bound.fix(name, address)
            bound.place(inputs, outputs)
            backend.scratch.join(bound.scratch_bytes, bound.take_scratch)
            backend.activations.join(_activation_bytes(context, self._engine), bound.take_activations)
        return bound

    def _create_context(self, trt: Any) -> Any:
        """A context whose activations are ours to place: the call of TensorRT 10.1 and later, or the one before."""
        if self._kernels is not None:
            return self._engine.create_execution_context(self._kernels.config)
        strategy = getattr(trt, "ExecutionContextAllocationStrategy", None)
        if strategy is not None and hasattr(strategy, "USER_MANAGED"):
            return self._engine.create_execution_context(strategy.USER_MANAGED)
        return self._engine.create_execution_context_without_device_memory()

    def _check_ports(self, kind: str, found: set[str], expected: Mapping[str, Port]) -> None:
        if found != expected.keys():
            odd = sorted(found ^ expected.keys())[0]
            raise EngineError(
                f"{self._path}: {kind} {odd!r} is not in both the engine and the manifest; rebuild the bundle"
            )
        for name, port in expected.items():
            shape = tuple(self._engine.get_tensor_shape(name))
            dtype = self._engine.get_tensor_dtype(name).name
            fits = len(shape) == len(port.shape) and all(
                isinstance(wanted, str) or wanted == given for wanted, given in zip(port.shape, shape, strict=True)
            )
            if not fits or _DTYPES.get(dtype) != port.dtype:
                raise EngineError(
                    f"{self._path}: {kind} {name!r} is {dtype} {list(shape)}, the manifest says {port.dtype} "
                    f"{list(port.shape)}; rebuild the bundle"
                )


def _activation_bytes(context: Any, engine: Any) -> int:
    """What the context needs at the shapes that were set, or, where the library cannot tell, at the greatest."""
    if hasattr(context, "update_device_memory_size_for_shapes"):
        return int(context.update_device_memory_size_for_shapes())
    return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)


def _make_logger(trt: Any, messages: deque[str]) -> Any:
    """A logger that prints nothing and keeps the last errors for our own messages."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(message)

    return Logger()


class _mapped:  # noqa: N801 - read as a verb
    """The file's bytes, mapped; an empty file is empty bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        with self._path.open("rb") as file:
            size = self._path.stat().st_size
            self._map: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        return self._map

    def __exit__(self, *_: object) -> None:
        with suppress(AttributeError, BufferError):
            self._map.close()


def _ordinal(device: str) -> int:
    name, _, number = device.partition(":")
    if name != "cuda" or not (number or "0").isdecimal():
        raise EngineError(f"device {device!r}: TensorRT engines run on cuda, or cuda:N")
    return int(number or 0)

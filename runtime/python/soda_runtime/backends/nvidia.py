"""What the backends `trt` and `trt_rtx` share: preflight, open and bind engines of TensorRT's Python API.

An engine's activations lie in one block that all engines of the bundle share, since they run one after another in one
stream. An input or output whose place the library would not take is copied on the device: a slot renewed in place,
because an engine may read it after it has begun to write, and addresses that are not multiples of 256.
"""

from __future__ import annotations

import importlib
import mmap
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine_index import EngineIndex, read_index
from ..errors import EngineError
from ..signature import Port, Signature
from . import DeviceOptions, View
from .bound import BoundEngine
from .cuda import Cuda, DeviceMemory, SharedBlock
from .loop import Loop
from .weights import DeviceWeights, refit

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64"}


@dataclass(frozen=True)
class Library:
    """backend: its name in bundles; module: to import; title: for people; install: what has it; portable: an engine
    may run on another version of the library, which says so itself."""

    backend: str
    module: str
    title: str
    install: str
    portable: bool

    def load(self) -> Any:
        """The library's module. Raises EngineError."""
        try:
            return importlib.import_module(self.module)
        except ImportError:
            raise EngineError(f"{self.title} is not installed; run `pip install {self.install}`") from None


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

    def allocate(self, nbytes: int) -> DeviceMemory:
        return self.cuda.allocate(nbytes)

    def open_engine(self, path: Path, signature: Signature, once: bool = False) -> NvidiaEngine:
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
                refit(self.trt, self._logger, engine, path, index)
        return NvidiaEngine(self, engine, path, signature, index)

    def loop(self, calls: list[Callable[[], None]]) -> Loop:
        """The calls as one, which is a CUDA graph where the options and the driver allow it."""
        return Loop(self.cuda, calls, self._options.cuda_graph, lambda: self.activations.moves + self.scratch.moves)

    def close(self) -> None:
        """Wait for the device and free what all sessions share."""
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
        return EngineError(
            f"{path}: {path.stat().st_size} bytes {_built(index, self.library)}, this machine has {here}: the engine "
            f"{what}{said}; copy the bundle again or run `{_rebuild(path, index, self.target)}`"
        )


class NvidiaEngine:
    """One opened engine; every binding has an execution context of its own, whose addresses are set once."""

    def __init__(
        self, backend: NvidiaBackend, engine: Any, path: Path, signature: Signature, index: EngineIndex
    ) -> None:
        self._backend, self._engine, self._path, self._index = backend, engine, path, index
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        is_input = backend.trt.TensorIOMode.INPUT
        found = [{n for n in names if (engine.get_tensor_mode(n) == is_input) == wanted} for wanted in (True, False)]
        self._shared = found[0] - signature.inputs.keys() if index.weights == "inputs" else set()
        self._check_ports("input", found[0] - self._shared, signature.inputs)
        self._check_ports("output", found[1], signature.outputs)
        file = path.parent / index.engines[path.name].weights_file
        self._addresses = {name: backend.weights.address(name, file, path) for name in self._shared}

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        backend, trt, where = self._backend, self._backend.trt, f"{label}: {self._path}"
        with backend.cuda.lock:
            backend.cuda.use_device()
            context = _create_context(trt, self._engine)
            if context is None:
                raise EngineError(f"{where}: {backend.library.title} makes no context: {' '.join(backend.messages)}")
            for name, view in inputs.items():
                if not context.set_input_shape(name, view.shape):
                    raise EngineError(
                        f"{where}: the engine takes at most {self._index.max_batch} samples, {name!r} is "
                        f"{list(view.shape)}; make smaller requests or run "
                        f"`{_rebuild(self._path, self._index, backend.target, '--max-batch N')}`"
                    )
            bound = BoundEngine(backend.cuda, context, where, backend.messages)
            for name, address in self._addresses.items():
                bound.fix(name, address)
            bound.place(inputs, outputs)
            backend.scratch.join(bound.scratch_bytes, bound.take_scratch)
            backend.activations.join(_activation_bytes(context, self._engine), bound.take_activations)
        return bound

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


def check_machine(path: Path, index: EngineIndex, library: Library, version: str, target: str) -> None:
    """Whether this machine's library and GPU are those that the engines were built for. Raises EngineError."""
    same_library = index.library == library.backend
    fits = same_library and target in index.targets and (library.portable or index.library_version == version)
    if not fits:
        raise EngineError(
            f"{path}: {_built(index, library)}, this machine has {library.title} {version} and {target}; "
            f"run `{_rebuild(path, index, target, library=library.backend)}`"
        )


def check_identity(path: Path, content: Any, index: EngineIndex, library: Library) -> None:
    """Whether the engine is the program's that the index says: engines are built under their program's name."""
    entry = index.engines.get(path.name)
    if entry is None:
        raise EngineError(f"{path}: engines.json does not list this engine; run `{_rebuild(path, index, '')}`")
    if content.find(f"soda-program-{entry.content}".encode()) >= 0:
        return
    begin = content.find(b"soda-program-")
    found = bytes(content[begin + 13 : begin + 77]).decode("ascii", "replace") if begin >= 0 else ""
    other = next((f"the program of {name}" for name, e in index.engines.items() if e.content == found), "")
    holds = other or (f"another program ({found[:12]!r})" if found else "no program of soda-export")
    raise EngineError(
        f"{path}: engines.json says program {entry.content[:12]}, {_built(index, library)}; the file "
        f"holds {holds}; copy the bundle again or run `{_rebuild(path, index, '')}`"
    )


def _built(index: EngineIndex, library: Library) -> str:
    title = library.title if index.library == library.backend else index.library
    return f"built by {title} {index.library_version} for {', '.join(index.targets)}"


def _rebuild(path: Path, index: EngineIndex, target: str, *more: str, library: str = "") -> str:
    options = ["--target", target] if target and (library or index.library) == "trt_rtx" else []
    return index.rebuild(path.parent, *options, *more, library=library)


def _create_context(trt: Any, engine: Any) -> Any:
    """A context whose activations are ours to place: the call of TensorRT 10.1 and later, or the one before."""
    strategy = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if strategy is not None and hasattr(strategy, "USER_MANAGED"):
        return engine.create_execution_context(strategy.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


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

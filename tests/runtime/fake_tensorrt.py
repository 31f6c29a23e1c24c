"""A stand-in for TensorRT's Python API whose engines are ONNX graphs: ONNX Runtime computes them at the very addresses
that were bound, when the stand-in for CUDA reaches them in the stream.

It asks of its caller what TensorRT asks, and more: every address a multiple of 256, no output over an input, inputs
written before they are read, activations in live memory.
"""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from .fake_cuda import FakeCuda

MAGIC = b"FAKEPLAN"
_DTYPES = {1: "FLOAT", 10: "HALF", 7: "INT64", 16: "BF16"}
_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}


class Validity(enum.Enum):
    """EngineValidity."""

    VALID, SUBOPTIMAL, INVALID = 0, 1, 2


class Mode(enum.Enum):
    """TensorIOMode."""

    INPUT, OUTPUT = 0, 1


def make_plan(graph: Path, content: str, targets: list[str]) -> bytes:
    """The bytes of an engine for a graph, which stays where it is."""
    text = json.dumps({"name": f"soda-program-{content}", "graph": str(graph), "targets": targets}).encode()
    return MAGIC + len(text).to_bytes(8, "little") + text + b"end"


class FakeContext:
    """IExecutionContext."""

    def __init__(self, engine: FakeEngine, old_calls: bool) -> None:
        self.engine, self.addresses, self.shapes = engine, {}, {}
        self.activations = (0, 0)
        if not old_calls:
            self.update_device_memory_size_for_shapes = lambda: engine.device_memory_size
            self.set_device_memory = self._set_device_memory

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "device_memory":
            self._set_device_memory(value, self.engine.device_memory_size)
        super().__setattr__(name, value)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        most = self.engine.library.max_batch
        limits = {"batch": most, "rows": 2 * most}
        axes = zip(shape, self.engine.axes[name], strict=True)
        return all(n == axis or (isinstance(axis, str) and n <= limits.get(axis, n)) for n, axis in axes)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in self.engine.dims, f"{name} is no tensor of the engine"
        self.addresses[name] = address
        self.engine.library.set_addresses += 1
        return address % 256 == 0

    def execute_async_v3(self, stream: int) -> bool:
        library, cuda, engine = self.engine.library, self.engine.library.cuda, self.engine
        assert stream in library.streams(), "an engine is put into another stream"
        address, size = self.activations
        assert size >= engine.device_memory_size
        cuda.find(address, size)
        assert self.addresses.keys() == engine.dims.keys(), "an address is missing"
        if library.fail_at and library.fail_at in engine.path.name:
            library.logger.log(library.ILogger.ERROR, "made to fail")
            return False
        addresses, shapes = dict(self.addresses), dict(self.shapes)
        cuda.enqueue(f"engine {engine.path.name}", lambda: engine.compute(addresses, shapes))
        return True

    def _set_device_memory(self, address: int, nbytes: int) -> None:
        super().__setattr__("activations", (address, nbytes))


class KernelBlob:
    """IRuntimeCache: it takes back what it gave, and nothing else."""

    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(b"kernels:"):
            return False
        self.kernels = content.removeprefix(b"kernels:")
        return True

    def serialize(self) -> bytes:
        return b"kernels:" + self.kernels


class RuntimeConfig:
    """IRuntimeConfig of TensorRT-RTX."""

    def __init__(self, owner: FakeEngine) -> None:
        self.owner, self.strategy = owner, "static"
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"
        self.cache: KernelBlob | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> KernelBlob:
        return KernelBlob()

    def set_runtime_cache(self, cache: KernelBlob) -> bool:
        self.cache = cache
        return True


class FakeEngine:
    """ICudaEngine over an ONNX graph."""

    def __init__(self, library: FakeTensorRT, graph: Path) -> None:
        import onnx
        import onnxruntime

        self.library, self.path = library, graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        model = onnx.load(str(graph), load_external_data=False).graph
        values = {value.name: value.type.tensor_type for value in (*model.input, *model.output)}
        self.dims = {n: tuple(d.dim_value or -1 for d in t.shape.dim) for n, t in values.items()}
        self.axes = {n: tuple(d.dim_param or d.dim_value for d in t.shape.dim) for n, t in values.items()}
        self.dtypes = {name: _DTYPES[kind.elem_type] for name, kind in values.items()}
        self.inputs = [value.name for value in model.input]
        self.num_io_tensors = len(self.dims)
        if library.__name__ == "tensorrt_rtx" and not library.old_calls:
            self.create_runtime_config = lambda: RuntimeConfig(self)
        self.device_memory_size = 256 * (1 + len(model.node))

    def get_tensor_name(self, index: int) -> str:
        return list(self.dims)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in self.inputs else Mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.dims[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.dtypes[name])

    def create_execution_context(self, given: Any) -> FakeContext:
        """given: a strategy, or a runtime configuration of the engine's own."""
        assert given == "user managed" or (given.strategy, given.owner) == ("user managed", self)
        if given != "user managed":
            assert given.dynamic_shapes_kernel_specialization_strategy == "eager", "kernels change between requests"
        if given != "user managed" and given.cache is not None:
            given.cache.kernels += b"k"
        return self.create_execution_context_without_device_memory()

    def create_execution_context_without_device_memory(self) -> FakeContext:
        self.library.contexts += 1
        return FakeContext(self, self.library.old_calls)

    def compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        """Run the graph on what lies at the addresses now."""
        cuda = self.library.cuda
        feeds: dict[str, Any] = {}
        ranges = []
        for name in self.inputs:
            dtype = np.dtype(_NUMPY[self.dtypes[name]])
            shape = shapes.get(name, self.dims[name])  # a weight has no symbolic axis, and no shape is set
            size = int(np.prod(shape)) * dtype.itemsize
            cuda.check_written(f"{self.path.name}: {name}", addresses[name], size)
            block, part = cuda.find(addresses[name], size)
            feeds[name] = block.bytes[part].copy().view(dtype).reshape(shape)
            ranges.append((addresses[name], addresses[name] + size))
        names = [name for name in self.dims if name not in self.inputs]
        for name, value in zip(names, self.session.run(names, feeds), strict=True):
            begin = addresses[name]
            assert all(begin + value.nbytes <= a or begin >= b for a, b in ranges), f"{name} lies over another tensor"
            ranges.append((begin, begin + value.nbytes))
            block, part = cuda.find(begin, value.nbytes)
            block.bytes[part] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            cuda.note_written(begin, value.nbytes)


class FakeTensorRT(ModuleType):
    """The module `tensorrt`, or `tensorrt_rtx`. old_calls: as TensorRT 10.0 has them."""

    EngineValidity, TensorIOMode = Validity, Mode

    def __init__(self, cuda: FakeCuda, name: str, version: str = "1.7.1.116", old_calls: bool = False) -> None:
        super().__init__(name)
        self.__version__, self.cuda, self.old_calls = version, cuda, old_calls
        self.max_batch, self.contexts, self.set_addresses, self.fail_at = 4, 0, 0, ""
        self.given_stream = 0
        if not old_calls:
            self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
        self.ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "__init__": lambda self: None})
        library = self

        class Runtime:
            def __init__(self, logger: Any) -> None:
                library.logger = logger

            def deserialize_cuda_engine(self, content: Any) -> FakeEngine | None:
                plan = library.parse(content)
                return FakeEngine(library, Path(plan["graph"])) if plan else None

        if name == "tensorrt_rtx":

            def judge(_: Any, content: Any) -> tuple[Validity, int]:
                plan = library.parse(content)
                here = "sm{}{}".format(*cuda.capability)
                return (Validity.VALID, 0) if plan and here in plan["targets"] else (Validity.INVALID, 4)

            Runtime.get_engine_validity = judge  # type: ignore[attr-defined]
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")
        self.Runtime = Runtime

    def parse(self, content: Any) -> dict[str, Any] | None:
        """What an engine's bytes say; nothing where they are no whole engine."""
        data = bytes(content)
        length = int.from_bytes(data[8:16], "little")
        if data[:8] != MAGIC or data[16 + length :] != b"end":
            self.logger.log(self.ILogger.ERROR, "Magic tag or size of the plan does not match")
            return None
        plan: dict[str, Any] = json.loads(data[16 : 16 + length])
        return plan

    def streams(self) -> set[int]:
        return self.cuda.streams | {self.given_stream}


def install_tensorrt(patch: pytest.MonkeyPatch, fake: FakeTensorRT) -> FakeTensorRT:
    """Let soda_runtime find the stand-in where it looks for the library."""
    patch.setitem(sys.modules, fake.__name__, fake)
    return fake

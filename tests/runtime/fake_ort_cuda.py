"""A stand-in for ONNX Runtime with its CUDA provider: sessions compute on the CPU, at the addresses that were bound,
when the stand-in for CUDA reaches them in the stream. Device OrtValues lie in the stand-in's device memory."""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as real
import pytest

from .fake_cuda import FakeCuda

_SIZES = {1: 4, 10: 2, 16: 2, 7: 8}


class FakeOrt(ModuleType):
    """The module `onnxruntime` of a machine with a GPU."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__("onnxruntime")
        self.__version__, self.cuda = real.__version__, cuda
        self.values: list[Any] = []
        self.sessions: list[Any] = []
        self.recordings, self.refuse_graphs, self.lacks_libraries, self.released_early = 0, False, False, False
        library = self

        class OrtValue:
            @staticmethod
            def ortvalue_from_shape_and_type(shape: list[int], kind: int, device: str, ordinal: int) -> Any:
                assert device == "cuda"
                value = OrtValue()
                value.nbytes = int(np.prod(shape)) * _SIZES[kind]
                value.shape, value.kind = shape, kind
                value.address = cuda.cudaMalloc(value.nbytes)[1]
                library.values.append(value)
                return value

            def data_ptr(self) -> int:
                return int(self.address)

            def __del__(self) -> None:
                cuda.cudaFree(self.address)

        class SessionOptions:
            def __init__(self) -> None:
                self.initializers: dict[str, Any] = {}

            def add_initializer(self, name: str, value: Any) -> None:
                self.initializers[name] = value

        class RunOptions:
            def __init__(self) -> None:
                self.entries: dict[str, str] = {}

            def add_run_config_entry(self, key: str, value: str) -> None:
                self.entries[key] = value

        class Binding:
            def __init__(self) -> None:
                self.inputs: list[tuple[Any, ...]] = []
                self.outputs: list[tuple[Any, ...]] = []

            def bind_input(self, *args: Any) -> None:
                self.inputs.append(args)

            def bind_output(self, *args: Any) -> None:
                self.outputs.append(args)

        class InferenceSession:
            def __init__(self, path: str, sess_options: Any, providers: list[Any]) -> None:
                name, settings = providers[-1]
                assert name == "CUDAExecutionProvider"
                assert int(settings["user_compute_stream"]) in cuda.streams
                assert settings["has_user_compute_stream"] == "1"
                self.providers, self.initializers = providers, sess_options.initializers
                self.graphs = settings["enable_cuda_graph"] == "1"
                if self.graphs and library.refuse_graphs:
                    raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
                self.recorded: dict[tuple[int, int], Any] = {}
                options = real.SessionOptions()
                options.intra_op_num_threads = 1
                self._shared = []
                for key, value in sess_options.initializers.items():
                    cuda.cudaStreamSynchronize(0)  # its bytes are there
                    block, part = cuda.find(value.address, value.nbytes)
                    array = block.bytes[part].copy().view(np.float32).reshape(value.shape)
                    self._shared.append((real.OrtValue.ortvalue_from_numpy(array), array))
                    options.add_initializer(key, self._shared[-1][0])
                self._session = real.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                library.sessions.append(self)

            def get_inputs(self) -> Any:
                return self._session.get_inputs()

            def get_outputs(self) -> Any:
                return self._session.get_outputs()

            def get_providers(self) -> list[str]:
                names = [name for name, _ in self.providers]
                return ["CPUExecutionProvider"] if library.lacks_libraries else [*names, "CPUExecutionProvider"]

            def release_captured_graph(self, graph: int) -> None:
                library.released_early |= bool(cuda.pending)
                self.recorded = {key: binding for key, binding in self.recorded.items() if key[0] != graph}

            def io_binding(self) -> Binding:
                return Binding()

            def run_with_iobinding(self, binding: Binding, options: RunOptions) -> None:
                assert options.entries["disable_synchronize_execution_providers"] == "1"
                on_host = self._session.io_binding()
                for bind, bound in ((on_host.bind_input, binding.inputs), (on_host.bind_output, binding.outputs)):
                    for name, device, ordinal, kind, shape, address in bound:
                        assert (device, ordinal) == ("cuda", 0)
                        bind(name, "cpu", 0, kind, shape, address)

                def compute() -> None:
                    for name, _, _, kind, shape, address in binding.inputs:
                        size = int(np.prod(shape)) * np.dtype(kind).itemsize
                        cuda.check_written(name, address, size)
                    self._session.run_with_iobinding(on_host)
                    for _, _, _, kind, shape, address in binding.outputs:
                        cuda.note_written(address, int(np.prod(shape)) * np.dtype(kind).itemsize)

                graph = int(options.entries.get("gpu_graph_id", "0"))
                assert graph != 0, "this graph number is every run's that names none"
                if not self.graphs or graph == -1:
                    cuda.enqueue("session", compute)
                    return
                key = (graph, threading.get_ident())  # as ONNX Runtime keeps them
                if key not in self.recorded:  # two runs, and the first launch of what the third has recorded
                    library.recordings += 1
                    for _ in range(3):
                        cuda.enqueue("session", compute)
                    self.recorded[key] = binding
                    return
                assert self.recorded[key] is binding, "a graph is launched for other addresses"
                cuda.enqueue("session's graph", compute)

        self.OrtValue, self.SessionOptions, self.RunOptions = OrtValue, SessionOptions, RunOptions
        self.InferenceSession = InferenceSession

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def install_ort(patch: pytest.MonkeyPatch, fake: FakeOrt) -> FakeOrt:
    """Let soda_runtime find the stand-in where it looks for ONNX Runtime."""
    patch.setitem(sys.modules, "onnxruntime", fake)
    return fake

"""OpenVINO on the CPU. Programs are compiled for the shapes they are bound with, which its kernels are faster at."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..errors import EngineError
from ..guard import rest_before_forks
from ..signature import Signature
from . import NO_TENSORS, DeviceOptions, Memory, Tensors, View
from .host import HostMemory
from .ports import check_ports

_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64"}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_QUANTIZED_TOGETHER = "128"
"""Neighbouring channels of a token whose activations share a scale where weights are int8. OpenVINO's own 32 is 1.3
times slower (docs/decisions/0020)."""
_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class OpenVinoEngine:
    """One graph, and what was compiled from it: kept as long as some session is bound to it."""

    def __init__(
        self, openvino: Any, core: Any, path: Path, model: Any, options: Mapping[str, Any], held: Tensors = NO_TENSORS
    ) -> None:
        """held: what the graph's constants share memory with."""
        self._openvino, self._core, self._path, self._model = openvino, core, path, model
        self._options, self._held = options, held
        self._compiled: WeakValueDictionary[_Shapes, _Compiled] = WeakValueDictionary()
        self._lock = threading.Lock()

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        compiled = self._compile(label, tuple((name, view.shape) for name, view in inputs.items()))
        try:
            request = compiled.model.create_infer_request()
            for name, view in (*inputs.items(), *outputs.items()):
                request.set_tensor(name, self._tensor(view))
        except RuntimeError as error:
            raise EngineError(f"{label}: {self._path}: OpenVINO refuses a buffer: {_last_line(error)}") from None
        infer, path = request.infer, self._path
        memories = tuple(view.memory for view in (*inputs.values(), *outputs.values()))

        def call(_keep_alive: tuple[Any, ...] = (compiled, self._held, *memories)) -> None:
            try:
                infer(share_outputs=True)
            except RuntimeError as error:
                raise EngineError(f"{label}: {path}: OpenVINO failed: {_last_line(error)}") from None

        return call

    def _compile(self, label: str, shapes: _Shapes) -> _Compiled:
        with self._lock:
            compiled = self._compiled.get(shapes)
            if compiled is None:
                try:
                    model = self._model.clone()
                    model.reshape({name: list(shape) for name, shape in shapes})
                    compiled = _Compiled(self._core.compile_model(model, "CPU", dict(self._options)))
                except RuntimeError as error:
                    reason = f"OpenVINO cannot compile it: {_last_line(error)}"
                    raise EngineError(f"{label}: {self._path}: {reason}") from None
                self._compiled[shapes] = compiled
            return compiled

    def _tensor(self, view: View) -> Any:
        memory: Any = view.memory  # host memory, with its bytes
        kind = getattr(self._openvino.Type, _NAMES[view.dtype])
        shape = self._openvino.Shape(list(view.shape))
        return self._openvino.Tensor(memory.bytes[view.offset :], shape, kind)


class _Compiled:
    """A compiled model that can be weakly referenced."""

    def __init__(self, model: Any) -> None:
        self.model = model


class OpenVinoBackend:
    """Opens graphs; weights are mapped once, and packed anew by every program that is compiled."""

    def __init__(self, openvino: Any, threads: int) -> None:
        self._openvino, self._core = openvino, process_core()
        self._options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
                         "DYNAMIC_QUANTIZATION_GROUP_SIZE": _QUANTIZED_TOGETHER}  # fmt: skip
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = str(threads)

    def allocate(self, nbytes: int) -> Memory:
        return HostMemory(nbytes)

    def why_fixed_weights(self, folder: Path) -> str:
        return ""

    def open_engine(
        self, path: Path, signature: Signature, once: bool = False, weights: str = "", replaced: Tensors = NO_TENSORS
    ) -> OpenVinoEngine:
        return self.open_tapped(path, signature, (), replaced)

    def open_tapped(
        self, path: Path, signature: Signature, taps: Sequence[str], replaced: Tensors = NO_TENSORS
    ) -> OpenVinoEngine:
        """Open a program with more outputs. taps: names of values in the graph."""
        version = self._openvino.__version__.partition("-")[0]
        try:
            model = self._core.read_model(path)
            model.add_outputs(list(taps))
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO {version} cannot open it: {_last_line(error)}") from None
        check_ports(path, "input", _ports(model.inputs), signature.inputs)
        check_ports(path, "output", _ports(model.outputs), signature.outputs)
        self._replace(model, replaced)
        options = {**self._options, "INFERENCE_PRECISION_HINT": compute_precision(self._core, model)}
        return OpenVinoEngine(self._openvino, self._core, path, model, options, replaced)

    def _replace(self, model: Any, replaced: Tensors) -> None:
        """Put constants of other values in the place of the graph's, which share the tensors' memory."""
        for node in model.get_ops() if replaced else ():
            tensor = replaced.get(node.get_friendly_name())
            if tensor is None or node.get_type_name() != "Constant":
                continue
            shape = self._openvino.Shape(list(tensor.shape))
            values = self._openvino.Tensor(tensor.content, shape, node.get_element_type())
            constant = self._openvino.op.Constant(values, shared_memory=True)
            constant.set_friendly_name(node.get_friendly_name())
            for taker in node.output(0).get_target_inputs():
                taker.replace_source_output(constant.output(0))


def open_backend(device: str, threads: int, weights: str, options: DeviceOptions) -> OpenVinoBackend:
    """OpenVINO on `device`, which is cpu. It packs weights anew for every program, so they cannot be shared."""
    if weights == "shared":
        raise EngineError("weights 'shared': OpenVINO packs them for every program; leave it out, or use ONNX Runtime")
    if device != "cpu":
        raise EngineError(f"device {device!r}: this runtime runs OpenVINO on cpu alone")
    try:
        import openvino
    except ImportError:
        raise EngineError("openvino is not installed; run `pip install soda-runtime[openvino]`") from None
    rest_before_forks()
    return OpenVinoBackend(openvino, threads)


def process_core() -> Any:
    """OpenVINO's core: one a process, never freed; a fork has its own.

    The CPU plugin of every core gives the thread that it is made in a stack for signal handlers. Where cores are freed
    in another order than the reverse of their making, that thread keeps a stack that is gone, and its next signal,
    Ctrl-C for one, ends the process.
    """
    return _core_of(os.getpid())


@cache
def _core_of(process: int) -> Any:
    import openvino

    return openvino.Core()


def compute_precision(core: Any, model: Any) -> str:
    """What to compute in: the graph's own type, where the processor has it. Left alone, the plugin would compute
    float32 graphs in bfloat16."""
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    types = {node.get_element_type().to_string() for node in model.get_ops() if node.get_type_name() == "Constant"}
    for kind, capability in (("bf16", "BF16"), ("f16", "FP16")):
        if kind in types and capability in capabilities:
            return kind
    return "f32"


def _ports(ports: Sequence[Any]) -> dict[str, tuple[str, Sequence[int | str | None]]]:
    found: dict[str, tuple[str, Sequence[int | str | None]]] = {}
    for port in ports:
        kind = port.get_element_type().to_string()
        shape = [axis.get_length() if axis.is_static else None for axis in port.get_partial_shape()]
        found[port.get_any_name()] = (_TYPES.get(kind, kind), shape)
    return found


def _last_line(error: RuntimeError) -> str:
    """OpenVINO's messages begin with its source files; the reason is at the end."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"

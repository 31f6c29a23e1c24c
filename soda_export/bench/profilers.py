"""What the engine libraries' profilers say of a program: seconds of each operator, and what it stands between."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from soda_runtime.signature import ITEM_BYTES, Port, Signature

_RUNS = 5  # after one that warms up


class Operator(NamedTuple):
    """An operator as it was run. what: the tensors or operators that it stands between, `a, b -> c`."""

    kind: str
    what: str
    seconds: float


Profiler = Callable[[Path, Signature, Mapping[str, int], int], list[Operator]]
"""(program, its ports, sizes of their axes, threads) -> every operator, seconds of one run"""


def profile_ort(path: Path, signature: Signature, axes: Mapping[str, int], threads: int) -> list[Operator]:
    """On ONNX Runtime's CPU provider."""
    import onnxruntime as ort

    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "ops")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        given = {name: _values(port, axes) for name, port in signature.inputs.items()}
        for _ in range(1 + _RUNS):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in kernels[len(kernels) // (1 + _RUNS) :]:
        name = event["name"].removesuffix("_kernel_time")
        spent[event["args"]["op_name"], name].append(event["dur"] / 1e6)
    nodes = {node.name: node for node in onnx.load(path, load_external_data=False).graph.node}

    def what(name: str) -> str:
        node = nodes.get(name)
        return _between(node.input, node.output) if node else name  # none: the library's own

    return [Operator(kind, what(name), sum(seconds) / _RUNS) for (kind, name), seconds in spent.items()]


def profile_openvino(path: Path, signature: Signature, axes: Mapping[str, int], threads: int) -> list[Operator]:
    """On OpenVINO's CPU plugin."""
    import openvino
    from soda_runtime.backends.openvino import compute_precision, process_core

    core = process_core()
    model = core.read_model(path)
    model.reshape({name: list(port.at(axes)) for name, port in signature.inputs.items()})
    options = {"PERF_COUNT": "YES", "INFERENCE_PRECISION_HINT": compute_precision(core, model)}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    for name, port in signature.inputs.items():
        if port.dtype == "bfloat16":
            bits = np.zeros(ITEM_BYTES[port.dtype] * int(np.prod(port.at(axes))), np.uint8)
            request.set_tensor(name, openvino.Tensor(bits, openvino.Shape(list(port.at(axes))), openvino.Type.bf16))
        else:
            request.set_tensor(name, openvino.Tensor(_values(port, axes)))
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for run in range(1 + _RUNS):
        request.infer()
        for node in request.get_profiling_info() if run else ():
            if node.real_time.total_seconds():
                spent[node.node_type, node.node_name] += node.real_time.total_seconds()
    between = _openvino_graph(compiled.get_runtime_model().get_ordered_ops())
    return [Operator(kind, between.get(name, name), seconds / _RUNS) for (kind, name), seconds in spent.items()]


def _openvino_graph(nodes: Iterable[Any]) -> dict[str, str]:
    """By name of a node of an execution graph, what it stands between."""
    found = {}
    for node in nodes:
        sources = [source.get_source_output().get_node() for source in node.inputs()]
        given = [source.get_friendly_name() for source in sources if source.get_type_name() != "Constant"]
        taken = [use.get_node().get_friendly_name() for out in node.outputs() for use in out.get_target_inputs()]
        found[node.get_friendly_name()] = _between(given, taken)
    return found


def _between(given: Iterable[str], taken: Iterable[str]) -> str:
    return f"{', '.join(filter(None, given))} -> {', '.join(taken)}"


def _values(port: Port, axes: Mapping[str, int]) -> NDArray[Any]:
    values: NDArray[Any] = np.random.default_rng(0).standard_normal(port.at(axes)).astype(port.dtype)
    return values


PROFILERS: dict[str, Profiler] = {"ort": profile_ort, "openvino": profile_openvino}
"""By backend, on a CPU."""

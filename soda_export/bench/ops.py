"""Where a program's time goes: seconds by kind of operator, from the engine library's own profiler."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from soda_runtime import Bundle
from soda_runtime.signature import BATCH_AXIS, ITEM_BYTES, ROWS_AXIS, Port, Signature, step_signature

from ..errors import UsageError
from .result import BenchOptions

_RUNS = 5
_PRODUCTS = {
    "MatMul", "FusedMatMul", "Gemm", "Conv", "FullyConnected", "Convolution", "MultiHeadAttention", "Attention",
    "ScaledDotProductAttention",
}  # fmt: skip


class OpTime(msgspec.Struct, frozen=True):
    """One kind of operator in a program: how many, seconds of one run, and whether it is a product or attention.

    OpenVINO fuses attention into a `Subgraph` where it can, beside elementwise ones, which count as the rest."""

    op: str
    count: int
    seconds: float
    is_product: bool


def profile_ops(path: Path, options: BenchOptions) -> dict[str, tuple[OpTime, ...]]:
    """Every step program's operators, slowest first. Raises UsageError for a backend without such a profiler."""
    manifest = Bundle.open(path, backend="null").at(options.pixels).manifest
    backend = options.backend or manifest.backend
    if backend not in _PROFILERS or options.device not in ("auto", "cpu"):
        raise UsageError(f"--ops: there is a profiler for {' and '.join(_PROFILERS)} on cpu; this is {backend}")
    profile, found = _PROFILERS[backend], {}
    axes = {BATCH_AXIS: options.batch, ROWS_AXIS: options.batch * manifest.rows_per_sample}
    for number, program in enumerate(manifest.programs):
        signature = step_signature(manifest, number)
        times = profile(path / program.file, signature, axes, options.threads)
        found[program.file] = tuple(
            OpTime(op, count, seconds, op in _PRODUCTS)
            for op, (count, seconds) in sorted(times.items(), key=lambda item: -item[1][1])
        )
    return found


def _profile_ort(
    path: Path, signature: Signature, axes: Mapping[str, int], threads: int
) -> dict[str, tuple[int, float]]:
    import onnxruntime as ort

    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "ops")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        given = {name: _values(port, axes) for name, port in signature.inputs.items()}
        for _ in range(_RUNS):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    spent: dict[str, list[float]] = defaultdict(list)
    for event in kernels[len(kernels) // _RUNS :]:  # the first run warms up
        spent[event["args"]["op_name"]].append(event["dur"] / 1e6)
    runs = _RUNS - 1
    return {op: (len(seconds) // runs, sum(seconds) / runs) for op, seconds in spent.items()}


def _profile_openvino(
    path: Path, signature: Signature, axes: Mapping[str, int], threads: int
) -> dict[str, tuple[int, float]]:
    import openvino
    from soda_runtime.backends.openvino import compute_precision, process_core

    core = process_core()
    model = core.read_model(path)
    model.reshape({name: list(port.at(axes)) for name, port in signature.inputs.items()})
    options = {"PERF_COUNT": "YES", "INFERENCE_PRECISION_HINT": compute_precision(core, model)}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    request = core.compile_model(model, "CPU", options).create_infer_request()
    for name, port in signature.inputs.items():
        if port.dtype == "bfloat16":
            bits = np.zeros(ITEM_BYTES[port.dtype] * int(np.prod(port.at(axes))), np.uint8)
            request.set_tensor(name, openvino.Tensor(bits, openvino.Shape(list(port.at(axes))), openvino.Type.bf16))
        else:
            request.set_tensor(name, openvino.Tensor(_values(port, axes)))
    spent: dict[str, list[float]] = defaultdict(list)
    for run in range(_RUNS):
        request.infer()
        for node in request.get_profiling_info() if run else ():
            if node.real_time.total_seconds():
                spent[node.node_type].append(node.real_time.total_seconds())
    runs = _RUNS - 1
    return {op: (round(len(seconds) / runs), sum(seconds) / runs) for op, seconds in spent.items()}


def _values(port: Port, axes: Mapping[str, int]) -> NDArray[Any]:
    values: NDArray[Any] = np.random.default_rng(0).standard_normal(port.at(axes)).astype(port.dtype)
    return values


_PROFILERS: dict[str, Callable[[Path, Signature, Mapping[str, int], int], dict[str, tuple[int, float]]]] = {
    "ort": _profile_ort, "openvino": _profile_openvino
}  # fmt: skip

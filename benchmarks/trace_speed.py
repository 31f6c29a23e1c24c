"""Step programs of two exports against each other: does another version of the code make faster graphs?

    python benchmarks/trace_speed.py --before OLD --after NEW --backend ort --rounds 9
    python benchmarks/trace_speed.py --before OLD --after NEW --backend openvino --rounds 9

OLD and NEW are folders of exported graphs of one model and plan (an `export-*` stage in engines/.work, or a bundle for
ort or openvino, such as `realization.py --bundle` keeps); step programs are paired by their number. Each pair is opened
together and called in turn, fed with random numbers. ONNX Runtime computes in fp32, so its graphs must, or int8 within
fp32; OpenVINO in bf16, so bundles in bf16 and int8 can be compared. Prints JSON, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from soda_runtime.signature import BATCH_AXIS, ROWS_AXIS

BACKENDS = ("ort", "openvino")
_PROGRAM = re.compile(r"(?:step|program)-(\d+)\.onnx")  # what they are called, and were
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
Call = Callable[[], Any]
Feed = dict[str, NDArray[Any]]


def programs_of(folder: Path) -> dict[int, Path]:
    """Step programs by their number."""
    found = {path: _PROGRAM.fullmatch(path.name) for path in sorted(folder.glob("*.onnx"))}
    return {int(match[1]): path for path, match in found.items() if match}


def random_feed(path: Path, axes: dict[str, int]) -> Feed:
    """Normal numbers for every input of a graph, ones for whole ones. axes: sizes of symbolic axes."""
    generator, feed = np.random.default_rng(0), {}
    for port in onnx.load(str(path), load_external_data=False).graph.input:
        kind = port.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = tuple(axes[axis.dim_param] if axis.dim_param else axis.dim_value for axis in kind.shape.dim)
        values = np.ones(shape) if dtype.kind in "bi" else generator.standard_normal(shape)
        feed[port.name] = values.astype(dtype)
    return feed


def open_ort(path: Path, feed: Feed, threads: int) -> Call:
    """A call of a graph in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def open_openvino(path: Path, feed: Feed, threads: int) -> Call:
    """A call of a graph in OpenVINO, compiled for the shapes of `feed` as the runtime does."""
    import openvino
    from soda_runtime.backends.openvino import process_core

    core = process_core()
    model = core.read_model(path)
    model.reshape({name: list(values.shape) for name, values in feed.items()})
    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "bf16"}
    request = core.compile_model(model, "CPU", {**options, "INFERENCE_NUM_THREADS": threads}).create_infer_request()
    for name, values in feed.items():
        if values.dtype == _BFLOAT16:
            bits, shape = values.view(np.uint16), openvino.Shape(list(values.shape))
            request.set_tensor(name, openvino.Tensor(bits, shape, openvino.Type.bf16))
        else:
            request.set_tensor(name, openvino.Tensor(values))

    def call(_alive: Feed = feed) -> None:
        request.infer(share_outputs=True)

    return call


def time_pair(calls: tuple[Call, Call], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both, called in turn; the first call of each is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for call, taken in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    return times[0][1:], times[1][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, required=True)
    parser.add_argument("--backend", choices=BACKENDS, default="ort")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rows", type=int, default=2, help="of a sample: 2 with guidance (default 2)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    before, after = programs_of(args.before), programs_of(args.after)
    if not before or before.keys() != after.keys():
        sys.exit(f"{args.before} has step programs {sorted(before)}, {args.after} {sorted(after)}; give equal exports")
    opened = open_ort if args.backend == "ort" else open_openvino
    axes, rows = {BATCH_AXIS: args.batch, ROWS_AXIS: args.rows * args.batch}, []
    for number in before:
        first, second = (
            opened(path, random_feed(path, axes), args.threads) for path in (before[number], after[number])
        )
        old, new = time_pair((first, second), args.rounds)
        rows.append({
            "program": number, "before_ms": 1e3 * statistics.median(old), "after_ms": 1e3 * statistics.median(new),
            "ratio": statistics.median(new) / statistics.median(old),
            "least_before_ms": 1e3 * min(old), "least_after_ms": 1e3 * min(new),
        })  # fmt: skip
    print(json.dumps({"backend": args.backend, "rounds": args.rounds, "programs": rows}, indent=1))


if __name__ == "__main__":
    main()

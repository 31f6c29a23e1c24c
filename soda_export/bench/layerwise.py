"""Compare every program of a bundle, layer by layer, with ONNX's own reference implementation on the same inputs.

ONNX Runtime's engines are their graphs, whose every intermediate value can be asked for. The others' outputs are
compared as the bundle's runtime gives them, and where those are off, the graph is opened again with every value as an
output: by OpenVINO itself, or for TensorRT by Polygraphy (needs the library's GPU).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from soda_runtime.backends import View
from soda_runtime.bundle import Bundle
from soda_runtime.signature import (
    ATTENTION_MASK,
    BATCH_AXIS,
    COEFFICIENTS,
    INPUT_IDS,
    LABELS,
    ROWS_AXIS,
    WINDOW_AXIS,
    Port,
    Signature,
    finish_programs,
    step_signature,
)

from ..compile.content import weights_file
from ..errors import CompileError
from ..workbench.engines import graph_path, link_file

TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 2e-1}
"""Precision -> greatest difference of a layer's output, relative to its largest magnitude. Products of a thousand terms
in another order differ by about a tenth of these."""
Values = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """One program: how many values were compared, the worst, and the first in the graph's order that is off, "" where
    none is. stopped: the selection after which nothing is comparable, since both sides kept other tokens of equal
    scores; "" where there was none."""

    file: str
    compared: int
    worst: float
    worst_at: str
    first_bad: str
    stopped: str


def compare_programs(
    folder: Path, progress: Callable[[int, int], None], device: str = "auto", seed: int = 0
) -> list[Comparison]:
    """Every program of the bundle on random inputs for one sample. Raises CompileError where graphs are missing."""
    with Bundle.open(folder, device=device) as bundle:
        manifest, tolerance = bundle.manifest, TOLERANCES[bundle.manifest.precision]
        sized = [bundle.at(size) for size in bundle.sizes] or [bundle]
        found_in = {file: (each, signature, opens) for each in sized for file, signature, opens in _programs(each)}
        results = []
        for done, (file, (bundle, signature, open_engine)) in enumerate(found_in.items()):
            graph = graph_path(folder, file, manifest.backend)
            if not graph.is_file():
                raise CompileError(f"{graph}: no such graph; build the bundle again with this version of soda-export")
            model = _load_whole(graph)
            feeds = example_inputs(bundle, signature, seed)
            expected = run_reference_model(model, feeds)
            if manifest.backend == "ort" and device in ("auto", "cpu"):
                found = _run_ort(graph, feeds)
            else:
                found = run_engine(bundle, open_engine(), signature, feeds)
            result = compare_values(file, model, expected, found, tolerance)
            if result.first_bad and manifest.backend != "ort":
                run = _run_openvino if manifest.backend == "openvino" else partial(_run_polygraphy, manifest.backend)
                by_layers = compare_values(file, model, expected, run(graph, feeds), tolerance)
                result = by_layers if by_layers.first_bad else result  # with every value an output, others may be fused
            results.append(result)
            progress(done + 1, len(found_in))
    return results


def _programs(bundle: Bundle) -> Iterator[tuple[str, Signature, Callable[[], Any]]]:
    manifest = bundle.manifest
    for prepare in manifest.prepare:
        signature = bundle.prepare_signature(prepare)
        yield prepare.file, signature, partial(bundle.prepare_engine, prepare)
    for i, program in enumerate(manifest.programs):
        yield program.file, step_signature(manifest, i), partial(bundle.engine, i)
    for finish in manifest.finish:
        for file, signature in finish_programs(manifest).items():
            yield file, signature, partial(bundle.finish_engine, finish, file != finish.file)


def example_inputs(bundle: Bundle, signature: Signature, seed: int) -> Values:
    """Random inputs that a program may meet: a step's own coefficients and tables, noise elsewhere."""
    random, manifest = np.random.default_rng(seed), bundle.manifest
    middle = manifest.sampler.steps // 2
    axes = {BATCH_AXIS: 1, ROWS_AXIS: manifest.rows_per_sample, WINDOW_AXIS: 1}
    given: Values = {}
    for name, port in signature.inputs.items():
        shape = port.at(axes)
        if name in (LABELS, INPUT_IDS):
            given[name] = random.integers(0, 3, shape)
        elif name == ATTENTION_MASK:
            given[name] = np.ones(shape, np.int64)
        elif name == COEFFICIENTS:
            given[name] = bundle.tables[name][middle]
        elif name in bundle.tables:
            given[name] = bundle.tables[name][middle : middle + 1]
        else:
            given[name] = random.standard_normal(shape).astype(_numpy(port))
    return given


def run_reference_model(model: onnx.ModelProto, feeds: Values) -> Values:
    """Every value of the graph as ONNX defines it, computed in numpy."""
    from onnx.reference import ReferenceEvaluator

    marked = mark_all(model)
    names = [value.name for value in marked.graph.output]
    evaluator = ReferenceEvaluator(marked, new_ops=[_group_normalization()])
    return dict(zip(names, evaluator.run(None, feeds), strict=True))  # type: ignore[arg-type]


def _group_normalization() -> Any:
    """GroupNormalization of opset 21, which onnx 1.23 cannot evaluate from its own definition."""
    from onnx.reference.op_run import OpRun

    class GroupNormalization(OpRun):  # type: ignore[misc]
        op_domain = ""

        def _run(
            self, x: Any, scale: Any, bias: Any, epsilon: float = 1e-5, num_groups: int = 1, stash_type: int = 1
        ) -> tuple[Any]:
            groups = x.reshape(x.shape[0], num_groups, -1).astype(np.float32)
            centered = groups - groups.mean(-1, keepdims=True)
            normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
            channels = (1, -1, *(1,) * (x.ndim - 2))
            return ((normal.reshape(x.shape) * scale.reshape(channels) + bias.reshape(channels)).astype(x.dtype),)

    return GroupNormalization


def mark_all(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose outputs are all values of the graph, in its order."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    for node in model.graph.node:
        marked.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in node.output if n not in known)
    return marked


def run_engine(bundle: Bundle, engine: Any, signature: Signature, feeds: Values) -> Values:
    """The outputs of an opened engine, as the runtime plays it."""
    axes = {BATCH_AXIS: 1, ROWS_AXIS: bundle.manifest.rows_per_sample, WINDOW_AXIS: 1}

    def view(port: Port, values: NDArray[Any]) -> View:
        memory = bundle.backend.allocate(values.nbytes)
        memory.write(values)
        return View(memory, 0, port.dtype, port.at(axes))

    inputs = {name: view(port, feeds[name]) for name, port in signature.inputs.items()}
    outputs = {name: view(port, np.zeros(port.at(axes), _numpy(port))) for name, port in signature.outputs.items()}
    engine.bind("verify", inputs, outputs)()
    return {
        name: view.memory.read().view(_numpy(signature.outputs[name])).reshape(view.shape)
        for name, view in outputs.items()
    }


def compare_values(
    file: str, model: onnx.ModelProto, expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]],
    tolerance: float,
) -> Comparison:  # fmt: skip
    """In the graph's order, so that the first bad value is where the difference comes from."""
    compared, worst, worst_at, first_bad = 0, 0.0, "", ""
    results = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "TopK" and node.output[1] in found and not first_bad:
            scores, want, got = expected[node.input[0]], expected[node.output[1]], found[node.output[1]]
            if not np.array_equal(np.sort(want), np.sort(got)):
                kept = [np.sort(np.take_along_axis(scores, index, -1)) for index in (want, got)]
                if _difference(*kept) <= tolerance:
                    return Comparison(file, compared, worst, worst_at, first_bad, node.name)
        for name in node.output:
            if name not in found:
                continue
            compared += 1
            difference = _difference(expected[name], found[name])
            if name in results and not _is_finite(found[name]):
                difference = float("inf")
            if difference > worst:
                worst, worst_at = difference, f"{node.name} ({node.op_type})"
            if difference > tolerance and not first_bad:
                first_bad = f"{node.name} ({node.op_type})"
    return Comparison(file, compared, worst, worst_at, first_bad, "")


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Relative to the largest magnitude; infinite where shapes or infinities differ, or a side has NaN: a mask may be
    infinite, but no sound layer gives NaN."""
    if expected.shape != found.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind not in "f":
        return 0.0 if np.array_equal(expected, found) else float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~np.isfinite(b)]) or not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(a[finite] - b[finite]).max() / max(float(np.abs(a[finite]).max()), 1e-6))


def _is_finite(values: NDArray[Any]) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _load_whole(graph: Path) -> onnx.ModelProto:
    """A graph with its weights in it. onnx and onnx_ir refuse a weights file of several names, as bundles have."""
    model = onnx.load(str(graph), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            with graph.with_name(place["location"]).open("rb") as file:
                file.seek(int(place["offset"]))
                tensor.raw_data = file.read(int(place["length"]))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


@contextlib.contextmanager
def _marked_file(graph: Path) -> Iterator[tuple[Path, list[str]]]:
    """A graph on disk whose outputs are all of its values, and their names."""
    marked = mark_all(onnx.load(str(graph), load_external_data=False))
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_file(graph)
        if weights:  # it must lie beside the graph
            link_file(graph.with_name(weights), Path(folder) / weights)
        path = Path(folder) / graph.name
        path.write_bytes(marked.SerializeToString())
        yield path, [value.name for value in marked.graph.output]


def _run_ort(graph: Path, feeds: Values) -> Values:
    """Every value as ONNX Runtime computes it on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with _marked_file(graph) as (path, names):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, feeds), strict=True))


def _run_openvino(graph: Path, feeds: Values) -> Values:
    """Every value as OpenVINO computes it, in the precision that the runtime asks for."""
    from soda_runtime.backends.openvino import compute_precision, process_core

    core = process_core()
    with _marked_file(graph) as (path, names):
        model = core.read_model(path)
        model.reshape({name: list(values.shape) for name, values in feeds.items()})
        options = {"INFERENCE_PRECISION_HINT": compute_precision(core, model)}
        made = core.compile_model(model, "CPU", options)(feeds)
        return {name: made[name] for name in names}


def _run_polygraphy(backend: str, graph: Path, feeds: Values) -> Values:
    """Every value as TensorRT computes it, from an engine built for that. Polygraphy picks the library by a variable
    of the process, and is asked in one of its own. Not yet run on a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, **feeds)  # type: ignore[arg-type]
        environment = {**os.environ, **({"POLYGRAPHY_USE_TENSORRT_RTX": "1"} if backend == "trt_rtx" else {})}
        command = [sys.executable, "-m", "soda_export.bench.layerwise_trt", str(graph), str(given), str(made)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise CompileError(f"{graph}: cannot be compared by layers: {last[0]}; it needs polygraphy and its GPU")
        with np.load(made) as stored:
            return {name: stored[name] for name in stored}


def _numpy(port: Port) -> Any:
    if port.dtype == "bfloat16":
        raise CompileError("bf16 programs cannot be compared: numpy has no such type; compare the bundle in fp16")
    return np.dtype(port.dtype)

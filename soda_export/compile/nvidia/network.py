"""An ONNX graph as a network of the library, with the sizes that its symbolic axes may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from soda_runtime.signature import BATCH_AXIS, COEFFICIENTS, GUIDANCE, ROWS_AXIS, WINDOW_AXIS
from soda_runtime.tensors import read_header

from ...errors import CompileError
from ..options import EngineOptions
from .library import Library
from .rewrite import drop_softmax_precision, split_large_topk, weights_to_inputs

_TABLES_NAME = "tables.safetensors"  # of an export: its first axis is the number of steps
_MOST_STEPS = 10000

Range = tuple[int, int, int]
"""Least, usual and greatest size of an axis."""


def parse_graph(library: Library, trt: Any, builder: Any, logger: Any, graph: Path, options: EngineOptions) -> Any:
    """The network of one graph, strongly typed: precision is the graph's. Raises CompileError."""
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # TensorRT 12 may know nothing else
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, logger)
    model = onnx.load(str(graph), load_external_data=False)
    changed = split_large_topk(model) + drop_softmax_precision(model)
    if options.engine_weights == "inputs":
        changed += len(weights_to_inputs(model))
    # weights are found beside the file: parse_from_file knows where that is, parse is told
    parsed = parser.parse(model.SerializeToString(), str(graph)) if changed else parser.parse_from_file(str(graph))
    if not parsed:
        raise CompileError(f"{graph}: {library.title} {trt.__version__} refuses the graph: {_first_error(parser)}")
    _allow_decomposed_attention(trt, network)
    return network


def add_profile(builder: Any, config: Any, network: Any, graph: Path, options: EngineOptions) -> None:
    """One optimization profile: batches of 1 .. max_batch samples, windows of 1 .. S steps."""
    ranges = axis_ranges(network, graph, options)
    profile, dynamic = builder.create_optimization_profile(), False
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        sizes = [ranges[tensor.get_dimension_name(k)] if n < 0 else (n, n, n) for k, n in enumerate(tensor.shape)]
        if -1 in tuple(tensor.shape):
            dynamic = True
            profile.set_shape(tensor.name, *([size[j] for size in sizes] for j in range(3)))
    if dynamic:
        config.add_optimization_profile(profile)


def axis_ranges(network: Any, graph: Path, options: EngineOptions) -> dict[str, Range]:
    """Symbolic axis -> its sizes. A step program that takes a guidance scale has two rows a sample."""
    names = {network.get_input(i).name for i in range(network.num_inputs)}
    most, steps = options.max_batch, _num_steps(graph)
    rows = (2, 2, 2 * most) if GUIDANCE in names else (1, min(2, 2 * most), 2 * most)
    return {BATCH_AXIS: (1, 1, most), ROWS_AXIS: rows, WINDOW_AXIS: (1, steps, steps)}


def _num_steps(graph: Path) -> int:
    path = graph.parent / _TABLES_NAME
    return read_header(path)[COEFFICIENTS].shape[0] if path.is_file() else _MOST_STEPS


def _allow_decomposed_attention(trt: Any, network: Any) -> None:
    """Attention without a kernel of its own (fp32, narrow heads) is an error unless it may be taken apart."""
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)  # TensorRT 10.13 and older parse attention into products
    for i in range(network.num_layers if kind is not None else 0):
        layer = network.get_layer(i)
        if layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer  # how the Python API casts
            layer.attention.decomposable = True


def _first_error(parser: Any) -> str:
    if parser.num_errors == 0:
        return "no reason given"
    error = parser.get_error(0)
    return f"node {error.node_name()}: {' '.join(error.desc().split())[:400]}"

"""Build one engine: network, configuration, profile, build; the engine and its card into a folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnx

from ...errors import CompileError
from ...files import write_whole
from ..content import graph_content, weights_file
from ..options import EngineOptions
from .card import CARD_NAME, ENGINE_NAME, BuiltCard
from .library import Library
from .network import add_profile, parse_graph
from .report import BuildLog, fused_attention, make_logger
from .targets import resolve_targets, set_targets

log = logging.getLogger(__name__)


def build_engine(
    library: Library, graph: Path, out: Path, options: EngineOptions, timing_cache: Path | None = None
) -> BuiltCard:
    """Leave ENGINE_NAME and CARD_NAME in `out`. timing_cache: read if it is there, and renewed. Raises CompileError."""
    trt, heard, started = library.load(), BuildLog(), time.perf_counter()
    logger = make_logger(trt, heard)
    builder = trt.Builder(logger)
    network = parse_graph(library, trt, builder, logger, graph, options)
    content = graph_content(graph)
    network.name = engine_identity(content)
    config = _configure(trt, builder, options)
    add_profile(builder, config, network, graph, options)
    timings = _use_timings(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CompileError(f"{graph}: {library.title} {trt.__version__} cannot build it: {heard.why()}")
    content_bytes = memoryview(plan)
    _check_ports(graph, heard, options)
    if options.engine_weights == "stripped":
        _check_refit(trt, logger, plan, graph)
    with (out / ENGINE_NAME).open("wb") as file:
        file.write(content_bytes)
    _keep_timings(timings, config, timing_cache)
    seconds = time.perf_counter() - started
    card = BuiltCard(
        library=library.backend, library_version=str(trt.__version__), targets=resolve_targets(options),
        weights=options.engine_weights, weights_file=weights_file(graph), max_batch=options.max_batch,
        content=content, bytes=content_bytes.nbytes,
        activation_bytes=heard.activation_bytes, weights_bytes=heard.weights_bytes,
        attention=fused_attention(heard.regions), regions=tuple(heard.regions), build_seconds=round(seconds, 3),
        ports={name: (dtype, *shape) for name, (dtype, shape) in (heard.inputs | heard.outputs).items()},
    )  # fmt: skip
    (out / CARD_NAME).write_bytes(msgspec.json.encode(card))
    log.info(
        "compile: %s for %s in %.1f s: %.1f MB, %d layers, %d of them fused attention; activations %.1f MB",
        graph.name, ", ".join(card.targets), seconds, card.bytes / 1e6, len(card.regions), card.attention,
        card.activation_bytes / 1e6,
    )  # fmt: skip
    return card


def engine_identity(content: str) -> str:
    """The name that a network is built under: the runtime finds it in the engine and knows which program it is."""
    return f"soda-program-{content}"


def _configure(trt: Any, builder: Any, options: EngineOptions) -> Any:
    config = builder.create_builder_config()
    set_targets(trt, config, options)
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32; fp16 and bf16 bundles are for speed
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * 1e9))
    if options.engine_weights == "stripped":
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    return config


def _use_timings(config: Any, path: Path | None) -> bytes:
    """Load kernel timings that earlier builds kept; those of another library or GPU are not taken."""
    if path is None:
        return b""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return known


def _keep_timings(known: bytes, config: Any, path: Path | None) -> None:
    if path is None:
        return
    content = bytes(memoryview(config.get_timing_cache().serialize()))
    if content != known:
        write_whole(path, content)


def _check_ports(graph: Path, heard: BuildLog, options: EngineOptions) -> None:
    """The engine takes and gives what the graph does; nothing is heard of it where the library prints otherwise."""
    if not heard.inputs:
        return
    model = onnx.load(str(graph), load_external_data=False).graph
    wanted = {value.name for value in (*model.input, *model.output)}
    found = heard.inputs.keys() | heard.outputs.keys()
    if options.engine_weights == "inputs":
        wanted |= {tensor.name for tensor in model.initializer} & found
    if wanted != found:
        odd = sorted(wanted ^ found)[0]
        raise CompileError(f"{graph}: {odd!r} is not in both the graph and the engine built from it; report this")


def _check_refit(trt: Any, logger: Any, plan: Any, graph: Path) -> None:
    """Everything that was stripped must be in the weights file: nothing else can be put back."""
    model: Mapping[str, Any] = {
        tensor.name: tensor for tensor in onnx.load(str(graph), load_external_data=False).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }  # fmt: skip
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise CompileError(f"{graph}: the stripped engine cannot be opened; use --engine-weights baked")
    others = [name for name in trt.Refitter(engine, logger).get_missing_weights() if name not in model]
    if others:
        raise CompileError(
            f"{graph}: {len(others)} stripped constants, e.g. {others[0]!r}, are not in the weights file; "
            "use --engine-weights baked"
        )

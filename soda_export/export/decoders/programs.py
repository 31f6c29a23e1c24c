"""Modules that decode to ONNX programs that share one weights file. Always fp32: Stable Diffusion's autoencoder
overflows fp16, and it runs once a request."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from soda_runtime.signature import BATCH_AXIS
from torch import Tensor, nn

from ...models.fake import make_fake, with_buffers
from ...trace.fuse import fuse
from ...trace.onnx import TracedGraph, fixed_sizes, trace_to_onnx
from ...trace.tidy import tidy
from ..builder import GraphBuilder
from ..tensor_file import TensorSource, write_tensors
from ..weights import WeightsFile, constant_sources, is_large, weight_sources

Shape = tuple[int, ...]
Progress = Callable[[int, int], None]
_FRAME = "frame"


@dataclass(frozen=True)
class DecoderProgram:
    """One program: module(*inputs) -> a tensor, or as many as there are outputs, all float32 [batch, *shape].

    frame: what is run on each frame of the only output of `module`, [batch, C, frames, h, w], one after the other, so
    that only one's values are in memory: [batch, C, h, w] -> [batch, *shape[1:]].
    Modules of several programs have the same weights under the same names. meaning: for who opens the graph.
    """

    file: str
    module: nn.Module
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    meaning: str
    frame: nn.Module | None = None


def write_programs(programs: Sequence[DecoderProgram], weights: str, out: Path, progress: Progress) -> None:
    """Write the graphs and the file `weights` into `out`. progress(done, total) counts tensors. Raises ModelError,
    ExportError."""
    traces = [_trace(program.module, program.inputs) for program in programs]
    frames = [_trace_frame(program, traced) for program, traced in zip(programs, traces, strict=True)]
    sources: dict[str, TensorSource] = {}
    parts = [(program.module, traced) for program, traced in zip(programs, traces, strict=True)]
    parts += [(p.frame, traced) for p, traced in zip(programs, frames, strict=True) if traced and p.frame]
    for module, traced in parts:
        state, constants = module.state_dict(), [v for v in traced.graph.initializers.values() if is_large(v)]
        made = weight_sources(traced.weights, state.__getitem__, lambda name: False)
        sources |= {source.name: source for source in (*made, *constant_sources(constants))}
    write_tensors(out / weights, list(sources.values()), progress)
    for program, traced, each in zip(programs, traces, frames, strict=True):
        builder = GraphBuilder(Path(program.file).stem, WeightsFile(out, weights))
        given = {name: builder.input(name, "float32", [BATCH_AXIS, *s]) for name, s in program.inputs.items()}
        known = dict(zip(traced.graph.inputs, given.values(), strict=True))
        wanted = traced.graph.outputs[: len(program.outputs)]
        builder.emit(wanted, known, traced.weights)
        for value, (name, shape) in zip(wanted, program.outputs.items(), strict=True):
            result = known[value] if each is None else _frame_by_frame(builder, known[value], each, shape[0])
            builder.output(result, name, "float32", [BATCH_AXIS, *shape])
        builder.save(out / program.file, program.meaning)


def _frame_by_frame(builder: GraphBuilder, frames: ir.Value, each: TracedGraph, count: int) -> ir.Value:
    """[batch, C, count, h, w] -> [batch, count, ...]: copies of a graph, which have the weights in common."""
    made = []
    for k in range(count):
        one = builder.node("Gather", [frames, builder.constant(np.array(k, np.int64))], prefix=f"frame.{k}", axis=2)
        picture = builder.splice(each, 0, {_FRAME: one}, prefix=f"frame.{k}.")
        made.append(builder.node("Unsqueeze", [picture, builder.ints(1)], prefix=f"frame.{k}"))
    return builder.node("Concat", made, prefix=_FRAME, axis=1) if count > 1 else made[0]


def _trace_frame(program: DecoderProgram, traced: TracedGraph) -> TracedGraph | None:
    if program.frame is None:
        return None
    _, channels, _, *sides = list(traced.graph.outputs[0].shape or [])
    return _trace(program.frame, {_FRAME: fixed_sizes((channels, *sides))})


def _trace(module: nn.Module, inputs: Mapping[str, Shape]) -> TracedGraph:
    def build(parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        placed = {id(own): nn.Parameter(parameter(own), requires_grad=False) for own in module.parameters()}
        buffers = {id(own): own.clone() for own in module.buffers()}  # which a copy under fake tensors cannot share
        return copy.deepcopy(module, {**placed, **buffers})

    fake = with_buffers(make_fake(build, torch.float32), build, lambda name: None)
    with fake.mode:
        examples = {name: torch.zeros(3, *shape) for name, shape in inputs.items()}
    traced = trace_to_onnx(
        fake.module, examples, dict.fromkeys(examples, (0,)), fake.mode, fake.buffers, "autoencoder", independent=True
    )  # independent: diffusers looks at the number of rows, though nothing depends on it
    return fuse(tidy(traced)).used()

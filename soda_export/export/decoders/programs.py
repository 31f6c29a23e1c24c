"""Modules that decode to ONNX programs that share one weights file. Always fp32: Stable Diffusion's autoencoder
overflows fp16, and it runs once a request."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from soda_runtime.signature import BATCH_AXIS
from torch import Tensor, nn

from ...models.fake import make_fake, with_buffers
from ...trace.fuse import fuse
from ...trace.onnx import TracedGraph, trace_to_onnx
from ...trace.tidy import tidy
from ..builder import GraphBuilder
from ..tensor_file import TensorSource, write_tensors
from ..weights import WeightsFile, constant_sources, is_large, weight_sources

Shape = tuple[int, ...]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DecoderProgram:
    """One program: module(*inputs) -> a tensor, or as many as there are outputs, all float32 [batch, *shape].

    Modules of several programs have the same weights under the same names. meaning: for who opens the graph.
    """

    file: str
    module: nn.Module
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    meaning: str


def write_programs(programs: Sequence[DecoderProgram], weights: str, out: Path, progress: Progress) -> None:
    """Write the graphs and the file `weights` into `out`. progress(done, total) counts tensors. Raises ModelError,
    ExportError."""
    traces = [_trace(program) for program in programs]
    sources: dict[str, TensorSource] = {}
    for program, traced in zip(programs, traces, strict=True):
        state, constants = program.module.state_dict(), [v for v in traced.graph.initializers.values() if is_large(v)]
        made = weight_sources(traced.weights, state.__getitem__, lambda name: False)
        sources |= {source.name: source for source in (*made, *constant_sources(constants))}
    write_tensors(out / weights, list(sources.values()), progress)
    for program, traced in zip(programs, traces, strict=True):
        builder = GraphBuilder(Path(program.file).stem, WeightsFile(out, weights))
        given = {name: builder.input(name, "float32", [BATCH_AXIS, *s]) for name, s in program.inputs.items()}
        known = {traced.input(name): value for name, value in given.items()}
        wanted = traced.graph.outputs[: len(program.outputs)]
        builder.emit(wanted, known, traced.weights)
        for value, (name, shape) in zip(wanted, program.outputs.items(), strict=True):
            builder.output(known[value], name, "float32", [BATCH_AXIS, *shape])
        builder.save(out / program.file, program.meaning)


def _trace(program: DecoderProgram) -> TracedGraph:
    def build(parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        placed = {id(own): nn.Parameter(parameter(own), requires_grad=False) for own in program.module.parameters()}
        return copy.deepcopy(program.module, placed)

    fake = with_buffers(make_fake(build, torch.float32), build, lambda name: None)
    with fake.mode:
        examples = {name: torch.zeros(3, *shape) for name, shape in program.inputs.items()}
    traced = trace_to_onnx(
        fake.module, examples, dict.fromkeys(examples, (0,)), fake.mode, fake.buffers, "autoencoder", independent=True
    )  # independent: diffusers looks at the number of rows, though nothing depends on it
    return fuse(tidy(traced)).used()

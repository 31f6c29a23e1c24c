"""Trace the pieces of a denoiser once with torch.export, as ONNX graph fragments that assembly copies per layer.

Weights are traced as inputs, so nothing of a layer's numbers can be folded into the graph and one fragment serves
every layer.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..errors import ExportError

OPSET = 23  # the first with Attention


@dataclass(frozen=True)
class Example:
    """An example input and its symbolic axes; sizes of 0 and 1 would be specialised, use 2 or more."""

    tensor: Tensor
    symbolic: tuple[int, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Something to trace: module.method(*inputs) -> one tensor."""

    module: nn.Module
    inputs: tuple[Example, ...]
    method: str = "forward"


@dataclass(frozen=True)
class Fragment:
    """One traced piece: its nodes in order, the values that stand for its inputs and weights, and its output."""

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    weights: dict[ir.Value, str]
    output: ir.Value


def trace_pieces(pieces: Mapping[str, Piece]) -> dict[str, Fragment]:
    """Trace all pieces in one pass of the exporter, which has a high cost a call. Raises ExportError."""
    examples: list[Tensor] = []  # clones: a tensor given twice would be traced as one input
    shapes: list[dict[int, Any]] = []
    names: list[tuple[str, str]] = []
    for key, piece in pieces.items():
        for i, example in enumerate(piece.inputs):
            names.append((key, f"input {i}"))
            examples.append(example.tensor.clone())
            shapes.append(dict.fromkeys(example.symbolic, torch.export.Dim.AUTO))
        for name, tensor in sorted(named_weights(piece.module).items()):
            names.append((key, name))
            examples.append(tensor.detach().clone())
            shapes.append({})
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Kit(pieces), tuple(examples), dynamo=True, opset_version=OPSET, optimize=True, verbose=False,
                dynamic_shapes=(tuple(shapes),), input_names=[f"{key}:{name}" for key, name in names],
                output_names=list(pieces),
            )  # fmt: skip
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kinds = ", ".join(sorted({type(piece.module).__name__ for piece in pieces.values()}))
        raise ExportError(f"torch.onnx cannot trace {kinds}: {first_line}") from error
    assert program is not None
    graph = program.model.graph
    for node in graph:
        if node.op_type == "Attention" and node.inputs[0] is not None and node.inputs[0].dtype != ir.DataType.FLOAT:
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(ir.DataType.FLOAT))
    fragments = {}
    for position, (key, piece) in enumerate(pieces.items()):
        own = [(name, value) for (owner, name), value in zip(names, graph.inputs, strict=True) if owner == key]
        count = len(piece.inputs)
        output = graph.outputs[position]
        fragments[key] = Fragment(
            _ancestors(graph, output), tuple(v for _, v in own[:count]), {v: n for n, v in own[count:]}, output
        )
    return fragments


def _ancestors(graph: ir.Graph, output: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that `output` depends on, in graph order."""
    wanted, needed = {output}, []
    for node in reversed(list(graph)):
        if any(value in wanted for value in node.outputs):
            needed.append(node)
            wanted.update(value for value in node.inputs if value is not None)
    return tuple(reversed(needed))


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


class _Kit(nn.Module):
    """Calls every piece with its own inputs and its weights, all given as inputs of the whole."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        super().__init__()
        # in tuples: the pieces' weights must not be registered here
        self._pieces = tuple(
            (_Method(piece), len(piece.inputs), tuple(f"module.{name}" for name in sorted(named_weights(piece.module))))
            for piece in pieces.values()
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs, rest = [], inputs
        for module, count, weights in self._pieces:
            own, given, rest = rest[:count], rest[count : count + len(weights)], rest[count + len(weights) :]
            outputs.append(torch.func.functional_call(module, dict(zip(weights, given, strict=True)), own))
        return tuple(outputs)


class _Method(nn.Module):
    """Makes a method the forward."""

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self.module, self._method = piece.module, piece.method

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.module, self._method)(*inputs)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its own progress and missing optional packages; none of it concerns the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

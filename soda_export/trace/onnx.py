"""An nn.Module under a FakeTensorMode, with example inputs, into an ONNX graph whose weights are names alone."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

from ..errors import ModelError

if TYPE_CHECKING:
    from .repeat import Repeats

OPSET = 23  # the first with Attention
_FOLDED_BYTES = 1 << 30  # largest constant that is worked out beforehand: position embeddings are large

_TRACED_ROWS = 63  # code may ask for more than these, to lay memory out in another way; graphs have no such layout


@dataclass(frozen=True)
class TracedGraph:
    """graph: inputs in the order of the examples; `weights`: initializer -> name of the parameter that it stands for.
    Other initializers have a value."""

    graph: ir.Graph
    weights: dict[ir.Value, str]

    def input(self, name: str) -> ir.Value:
        """The input of that name."""
        return next(value for value in self.graph.inputs if value.name == name)

    def used(self) -> TracedGraph:
        """The same without weights that no node takes."""
        taken = {value for node in self.graph for value in node.inputs}
        return TracedGraph(self.graph, {value: name for value, name in self.weights.items() if value in taken})

    def renamed(self, change: Callable[[str], str]) -> TracedGraph:
        """The same with weights under other names."""
        return TracedGraph(self.graph, {value: change(name) for value, name in self.weights.items()})


def trace_to_onnx(
    module: nn.Module, examples: Mapping[str, Tensor], symbolic: Mapping[str, tuple[int, ...]], mode: Any,
    buffers: Mapping[str, Tensor], where: str, independent: bool = False, calls: Mapping[str, int] | None = None,
    repeats: Repeats | None = None,
) -> TracedGraph:  # fmt: skip
    """Trace module(*examples) -> one tensor. symbolic: axes of each example that may have any size. buffers: real
    values of initializers, which are folded into the graph; all others stay names. Axis 0 of all examples is the same
    number of rows, and axis 1 the same number of tokens, unless they are independent. calls: number of the call that an
    example belongs to, where there are several; none is computed from the sizes of another's examples.
    repeats: blocks of the module of which each kind is traced once. Raises ModelError, naming `where`.
    """
    numbers = dict.fromkeys(examples, 0) if calls is None else calls
    sizes: dict[tuple[int, int], Any] = {
        (call, axis): torch.export.Dim.AUTO if independent else torch.export.Dim(f"{word}_{call}", min=2, max=most)
        for call in set(numbers.values())
        for axis, (word, most) in enumerate((("rows", _TRACED_ROWS), ("tokens", None)))
    }
    shapes = tuple({axis: sizes[numbers[name], axis] for axis in symbolic[name]} for name in examples)

    def traced() -> ir.Model:
        with quiet(), torch.no_grad(), mode, repeats or contextlib.nullcontext():
            exported = torch.export.export(module, tuple(examples.values()), dynamic_shapes=(shapes,), strict=False)
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                exported, dynamo=True, opset_version=OPSET, optimize=False, verbose=False, input_names=list(examples),
            )  # fmt: skip
        assert program is not None
        return program.model

    try:
        model = traced()
        if repeats is not None and not repeats.stamp(model.graph):
            repeats.forget()
            model = traced()
    except Exception as error:
        raise ModelError(f"{_innermost(module, error, where)}: cannot be traced: {_first_cause(error)}") from error
    graph = model.graph
    for value in graph.inputs:
        for axis in symbolic[str(value.name)]:
            size = value.shape[axis] if value.shape is not None else 0
            if isinstance(size, int) or str(size.value).isdigit():
                raise ModelError(f"{where}: cannot be traced: its code fixes axis {axis} of {value.name}")
    weights: dict[ir.Value, str] = {}
    for name, value in list(graph.initializers.items()):
        if name in buffers:
            value.const_value = TorchTensor(buffers[name].contiguous(), name=name)
        elif not _is_real(value):
            value.const_value, weights[value] = None, name
    _fold(model)
    left = set(graph.initializers.values())
    return TracedGraph(graph, {value: name for value, name in weights.items() if value in left})


def fixed_sizes(shape: Iterable[object]) -> tuple[int, ...]:
    """Sizes of axes that are all fixed."""
    return tuple(size for size in shape if isinstance(size, int))


def _is_real(value: ir.Value) -> bool:
    """Whether an initializer's numbers are at hand, as those of constants of the code are."""
    raw = getattr(value.const_value, "raw", None)
    return not isinstance(raw, torch._subclasses.fake_tensor.FakeTensor)


def _fold(model: ir.Model) -> None:
    """Constants evaluated, dead nodes and doubled values removed. onnxscript's own `optimize` matches patterns besides,
    in time quadratic in the nodes."""
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants

    with quiet():
        common.InlinePass()(model)
        fold_constants(model, input_size_limit=_FOLDED_BYTES, output_size_limit=_FOLDED_BYTES)
        for tidy in (
            common.RemoveUnusedNodesPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.DeduplicateInitializersPass(), common.CommonSubexpressionEliminationPass(),
            common.IdentityEliminationPass(), common.OutputFixPass(), common.NameFixPass(),
        ):  # fmt: skip
            tidy(model)


def _innermost(module: nn.Module, error: BaseException, where: str) -> str:
    """`where`, and the path of the innermost module whose code was running."""
    paths, found = {id(part): path for path, part in module.named_modules()}, ""
    chain: BaseException | None = error
    while chain is not None:
        for frame, _ in traceback.walk_tb(chain.__traceback__):
            path = paths.get(id(frame.f_locals.get("self")), "")
            found = path if len(path) > len(found) else found
        chain = chain.__cause__ or chain.__context__
    return f"{where}: {found}" if found else where


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    at = next((line for line in lines if line.startswith("File ")), "")
    what = lines[0].partition(" For more information")[0] if lines else type(error).__name__
    return f"{what}{f' ({at})' if at else ''}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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

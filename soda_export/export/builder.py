"""Build one ONNX graph out of traced graphs and single nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .. import __version__
from ..errors import ExportError, InternalError
from ..trace.marks import DOMAIN
from ..trace.onnx import OPSET, TracedGraph
from ..trace.walk import producers
from .weights import WeightsFile, constant_name, is_large

_IR_VERSION = 10
_NOT_INFERRED = ("GroupNormalization",)
"""Operators whose shapes onnx does not infer, so that it knows nothing of what follows; here the trace does."""
Known = dict[ir.Value, ir.Value]
Instead = Callable[[ir.Node, Sequence[ir.Value | None]], ir.Value | None]
"""(traced node, its inputs in this graph) -> what stands for its one output here, None where the node is copied"""


def as_traced(node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value | None:
    """Every node is copied."""
    return None


class GraphBuilder:
    """Collects the nodes, inputs, outputs and initializers of one graph. Names are unique and deterministic."""

    def __init__(self, name: str, weights: WeightsFile | None) -> None:
        self._name, self._weights = name, weights
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._weight_values: dict[str, ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> ir.Value:
        """Declare a graph input; a string in `shape` is a symbolic size."""
        value = ir.Value(name=name, type=ir.TensorType(_ir_dtype(dtype)), shape=ir.Shape(shape))
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Make a value a graph output under `name`."""
        if value.producer() is None or value in self._outputs:
            value = self.node("Identity", [value], prefix=name)
        value.name, value.type, value.shape = name, ir.TensorType(_ir_dtype(dtype)), ir.Shape(shape)
        self._outputs.append(value)

    def weight(self, name: str) -> ir.Value:
        """The initializer of a tensor of the weights file; of a quantized one, its value."""
        assert self._weights is not None
        if name not in self._weight_values:
            value = self._initializers[name] = self._weights.initializer(name)
            scale = self._weights.scale_of(name)
            if scale:
                self._initializers[scale] = self._weights.initializer(scale)
                value = self.node("DequantizeLinear", [value, self._initializers[scale]], prefix=name, axis=1)
            self._weight_values[name] = value
        return self._weight_values[name]

    def constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        """A small constant, stored in the graph once however often it is used."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            tensor = ir.tensor(array, name=name)
            value = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
            self._constants[key] = self._initializers[name] = value
        return self._constants[key]

    def ints(self, *values: int) -> ir.Value:
        """A constant int64 [n]."""
        return self.constant(np.array(values, np.int64))

    def cast(self, value: ir.Value, dtype: str) -> ir.Value:
        """The value in another type; itself where it has that type already."""
        if value.dtype == _ir_dtype(dtype):
            return value
        made = self.node("Cast", [value], prefix=f"{value.name}.", to=int(_ir_dtype(dtype)))
        made.type = ir.TensorType(_ir_dtype(dtype))
        return made

    def node(
        self, op: str, inputs: Sequence[ir.Value], *, prefix: str, outputs: int = 1, **attributes: Any
    ) -> ir.Value:
        """Add one node and return its first output; `nodes` returns all."""
        return self.nodes(op, inputs, prefix=prefix, outputs=outputs, **attributes)[0]

    def nodes(
        self, op: str, inputs: Sequence[ir.Value], *, prefix: str, outputs: int = 1, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Add one node with several outputs."""
        name = f"{prefix.rstrip('.')}/{len(self._nodes)}.{op}"
        results = [ir.Value(name=f"{name}.{i}") for i in range(outputs)]
        node = ir.node(op, list(inputs), attributes, outputs=results, name=name)
        self._nodes.append(node)
        return results

    def splice(
        self, traced: TracedGraph, output: int, inputs: Mapping[str, ir.Value], *, prefix: str = ""
    ) -> ir.Value:
        """Copy what one output of a traced graph is computed from into this one; inputs: by their names there."""
        known: Known = {value: inputs[str(value.name)] for value in traced.graph.inputs if value.name in inputs}
        wanted = traced.graph.outputs[output]
        self.emit([wanted], known, traced.weights, prefix=prefix)
        return known[wanted]

    def emit(
        self, wanted: Sequence[ir.Value], known: Known, weights: Mapping[ir.Value, str], *, prefix: str = "",
        widen: Callable[[ir.Node, int], ir.Value | None] = lambda node, position: None,
        instead: Instead = as_traced,
    ) -> None:  # fmt: skip
        """Copy whatever `wanted` is computed from, but for what is `known`: value of the trace -> value of this graph.
        What is copied becomes known. widen(node, i) may supply another value for a node's input."""
        given = known.__contains__
        for node in producers(wanted, given):
            if node.domain == DOMAIN:  # the name of a value, and nothing else
                known[node.outputs[0]] = self._local(node.inputs[0], known, weights)  # type: ignore[arg-type]
                continue
            copied = [
                None if value is None else widen(node, i) or self._local(value, known, weights)
                for i, value in enumerate(node.inputs)
            ]
            other = instead(node, copied)
            if other is not None:
                known[node.outputs[0]] = other
                continue
            name = f"{prefix}{node.name or node.op_type}/{len(self._nodes)}"
            results = [ir.Value(name=f"{name}.{i}", type=v.type) for i, v in enumerate(node.outputs)]
            attributes = [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()]
            if node.op_type in _NOT_INFERRED:
                results[0].shape = ir.Shape([None, *list(node.outputs[0].shape or [])[1:]])
            self._nodes.append(
                ir.Node(node.domain, node.op_type, copied, attributes, outputs=results, name=name, version=None)
            )
            known |= dict(zip(node.outputs, results, strict=True))
        for value in wanted:
            if value not in known:
                known[value] = self._local(value, known, weights)

    def _local(self, value: ir.Value, known: Known, weights: Mapping[ir.Value, str]) -> ir.Value:
        if value not in known:
            if value in weights:
                known[value] = self.weight(weights[value])
            elif value.const_value is not None:
                array = value.const_value.numpy()
                large = is_large(value) and self._weights is not None
                known[value] = self.weight(constant_name(value)) if large else self.constant(array)
            else:
                raise InternalError(f"{self._name}: {value.name} is no value that this graph has")
        return known[value]

    def model(self) -> ir.Model:
        """The graph as a model of its own."""
        used = {value for node in self._nodes for value in node.inputs if value is not None}
        graph = ir.Graph(
            self._inputs, self._outputs, nodes=self._nodes, name=self._name, opset_imports={"": OPSET},
            initializers=[value for value in self._initializers.values() if value in used],
        )  # fmt: skip
        return ir.Model(graph, ir_version=_IR_VERSION, producer_name="soda-export", producer_version=__version__)

    def save(self, path: Path, meaning: str) -> None:
        """Check the graph (onnx checker, strict shape inference) and write it with the shapes of all its values.

        Weights stay in their own file. meaning: what it computes, for who opens it in a viewer; its doc_string.
        """
        model = self.model()
        model.graph.doc_string = meaning
        ir.save(model, path)
        try:
            onnx.checker.check_model(str(path), full_check=False)
            inferred = onnx.shape_inference.infer_shapes(
                onnx.load(str(path), load_external_data=False), check_type=True, strict_mode=True, data_prop=True
            )
            path.write_bytes(inferred.SerializeToString(deterministic=True))
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise ExportError(f"{path}: the exported graph is not valid ONNX: {first_line}") from error


def _ir_dtype(dtype: str) -> ir.DataType:
    """The type that numpy, or for bfloat16 ONNX, calls `dtype`."""
    return ir.DataType.BFLOAT16 if dtype == "bfloat16" else ir.DataType.from_numpy(np.dtype(dtype))

"""Products of int8 numbers: what is multiplied with an int8 matrix becomes int8, too, as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from .builder import GraphBuilder

_LARGEST = 127
_LEAST_SCALE = 1e-20  # of a token that is 0 everywhere


class Int8Products:
    """Adds such products to one graph. A token x becomes round(x / s) with s = max|x| / 127.

    A QuantizeLinear with a DequantizeLinear behind it, before a product, is how ONNX says that its numbers are int8.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._scales: dict[ir.Value, ir.Value] = {}
        self._products: Counter[ir.Value] = Counter()

    def instead(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value | None:
        """What stands for the output of a traced node: the product, if it is one with an int8 matrix. inputs: the
        node's, in this graph."""
        if node.op_type != "MatMul" or inputs[0] is None or inputs[1] is None:
            return None
        matrix = inputs[1].producer()
        if matrix is None or matrix.op_type != "DequantizeLinear":
            return None
        scales = matrix.inputs[1]  # a weight, which has a type in any case
        assert scales is not None
        assert scales.dtype is not None
        result = self._multiply(inputs[0], inputs[1], scales.dtype, str(node.name))
        result.type = ir.TensorType(scales.dtype)
        return result

    def _multiply(self, x: ir.Value, matrix: ir.Value, dtype: ir.DataType, prefix: str) -> ir.Value:
        """x [..., D] and what is computed with it: of that type.

        Every product of the same tokens takes them in another unit, a power of 2. ONNX Runtime would join equal inputs
        of several products to one, and then multiply in fp32.
        """
        add = partial(self._builder.node, prefix=prefix)
        if x not in self._scales:
            self._scales[x] = self._scale(x, dtype, prefix)
        scale, unit = self._scales[x], 2.0 ** self._products[x]
        self._products[x] += 1
        if unit > 1:
            scale = add("Mul", [scale, self._number(unit, dtype)])
        grid = self._number(1 / unit, dtype), self._builder.constant(np.array(0, np.int8))
        whole = add("DequantizeLinear", [add("QuantizeLinear", [add("Div", [x, scale]), *grid]), *grid])
        return add("Mul", [add("MatMul", [whole, matrix]), scale])

    def _scale(self, x: ir.Value, dtype: ir.DataType, prefix: str) -> ir.Value:
        """Of each token, [..., 1]."""
        add = partial(self._builder.node, prefix=prefix)
        largest = add("ReduceMax", [add("Abs", [x]), self._builder.ints(-1)], keepdims=1)
        scale = add("Div", [largest, self._number(_LARGEST, dtype)])
        return add("Max", [scale, self._number(_LEAST_SCALE, dtype)])

    def _number(self, value: float, dtype: ir.DataType) -> ir.Value:
        return self._builder.constant(np.array(value, dtype.numpy()))

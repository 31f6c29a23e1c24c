"""Token selection, gather and scatter as ONNX nodes: whole tokens move, not single numbers.

The same [R, keep, 2] index of (row, token) serves GatherND and ScatterND, which copy a token's D channels at once;
GatherElements and ScatterElements would need an index for every channel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .builder import GraphBuilder


class TokenOps:
    """Adds selection, gather and scatter to one graph; what depends on sizes alone is added once a kept count."""

    def __init__(self, builder: GraphBuilder, rows: int) -> None:
        self._builder, self._rows = builder, rows
        self._row_numbers: dict[int, ir.Value] = {}

    def select(self, scores: ir.Value, tokens: int, keep: int, prefix: str) -> ir.Value:
        """Scores [B, N = tokens] -> (row, token) pairs [R, keep, 2] of the largest; ONNX TopK gives ties to the lower
        index. The graph says how many tokens there are, since passes for an engine need it (compile/nvidia)."""
        builder = self._builder
        scores.shape, scores.type = ir.Shape([None, tokens]), ir.TensorType(ir.DataType.FLOAT)
        _, indices = builder.nodes(
            "TopK", [scores, self._ints([keep])], prefix=prefix, outputs=2, axis=1, largest=1, sorted=1
        )
        if self._rows > 1:
            indices = builder.node("Concat", [indices] * self._rows, prefix=prefix, axis=0)  # [B, keep] -> [R, keep]
        chosen = builder.node("Unsqueeze", [indices, self._ints([2])], prefix=prefix)
        if keep not in self._row_numbers:
            self._row_numbers[keep] = self._number_rows(chosen, prefix)
        return builder.node("Concat", [self._row_numbers[keep], chosen], prefix=prefix, axis=2)

    def gather(self, x: ir.Value, pairs: ir.Value, prefix: str) -> ir.Value:
        """[R, N, D] -> [R, keep, D]."""
        return self._builder.node("GatherND", [x, pairs], prefix=prefix)

    def scatter(self, cached: ir.Value, pairs: ir.Value, fresh: ir.Value, prefix: str) -> ir.Value:
        """cached [R, N, D] with fresh [R, keep, D] in place of its tokens; engines may do so in the same memory."""
        return self._builder.node("ScatterND", [cached, pairs, fresh], prefix=prefix)

    def _number_rows(self, tokens: ir.Value, prefix: str) -> ir.Value:
        """tokens [R, keep, 1] -> its row numbers [R, keep, 1]."""
        builder = self._builder
        count = builder.node("Squeeze", [builder.node("Shape", [tokens], prefix=prefix, start=0, end=1)], prefix=prefix)
        zero, one = builder.constant(np.array(0, np.int64)), builder.constant(np.array(1, np.int64))
        numbers = builder.node("Range", [zero, count, one], prefix=prefix)
        numbers = builder.node("Unsqueeze", [numbers, self._ints([1, 2])], prefix=prefix)
        return builder.node("Expand", [numbers, builder.node("Shape", [tokens], prefix=prefix)], prefix=prefix)

    def _ints(self, values: list[int]) -> ir.Value:
        return self._builder.constant(np.array(values, np.int64))

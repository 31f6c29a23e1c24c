"""Cached outputs as graph values: read as they are, or forecast as a weighted sum whose weights the step is given.

A step's scalars are one input: the sampler's row, then three weights for each group of forecasts. So steps at other
distances from their anchors share a program.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from soda_runtime.signature import COEFFICIENTS, coefficient_count

from ..lower.program import ProgramTable, Slot, StepProgram
from ..sampler import SamplerTable, Starts
from .builder import GraphBuilder
from .crossing import FLOATS


def step_scalars(sampler: SamplerTable, table: ProgramTable) -> NDArray[np.float32]:
    """The table `coefficients` [S, columns + 3 G]: the sampler's, then the weights of each step's forecasts."""
    weights = np.array(table.forecast_weights, np.float32).reshape(sampler.steps, -1)
    return np.concatenate([sampler.coefficients, weights], axis=1)


def start_scalars(starts: Starts, table: ProgramTable) -> NDArray[np.float32]:
    """The table `start.coefficients` [S, W, columns + 3 G]: row w of start k is that of step k + w."""
    steps, width, _ = starts.rows.shape
    weights = np.array(table.forecast_weights, np.float32).reshape(steps, -1)
    beyond = np.concatenate([weights, np.zeros((width, weights.shape[1]), np.float32)])
    of_step = np.stack([beyond[w : w + steps] for w in range(width)], axis=1)
    return np.concatenate([starts.rows, of_step], axis=2)


class StepScalars:
    """The input `coefficients` of one graph, taken apart."""

    def __init__(self, builder: GraphBuilder, sampler: SamplerTable, table: ProgramTable) -> None:
        self._builder = builder
        self._first = coefficient_count(sampler.state_size, sampler.learned_variance)
        size = self._first + 3 * table.num_forecasts
        self._row = builder.input(COEFFICIENTS, "float32", [size])
        self._weights: dict[tuple[int, str], ir.Value] = {}
        self.sampler = self._slice(0, self._first) if table.num_forecasts else self._row

    def weight(self, group: int, age: int, dtype: str) -> ir.Value:
        """The weight [1] of a group's values of that age."""
        position = self._first + 3 * group + age
        if (position, dtype) not in self._weights:
            self._weights[position, dtype] = self._builder.cast(self._slice(position, position + 1), dtype)
        return self._weights[position, dtype]

    def _slice(self, begin: int, end: int) -> ir.Value:
        bounds = [self._builder.ints(i) for i in (begin, end)]
        value = self._builder.node("Slice", [self._row, *bounds], prefix=COEFFICIENTS)
        value.type = self._row.type
        return value


class Reuse:
    """The cached values that one program reads."""

    def __init__(
        self, builder: GraphBuilder, scalars: StepScalars, program: StepProgram, cached: Mapping[Slot, ir.Value]
    ) -> None:
        self._builder, self._scalars, self._cached = builder, scalars, cached
        self._groups = program.forecast_rows

    def output(self, slot: Slot, order: int) -> ir.Value:
        """The slot's latest value [R, ...], or with an order above 0 its forecast from the last order + 1."""
        if not order:
            return self._cached[slot]
        prefix, dtype = f"forecast.{slot}", self._cached[slot].dtype
        assert dtype is not None
        terms = [
            self._builder.node(
                "Mul",
                [self._cached[slot._replace(age=age)], self._scalars.weight(self._groups[slot], age, FLOATS[dtype])],
                prefix=prefix,
            )
            for age in range(order + 1)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = self._builder.node("Add", [total, term], prefix=prefix)
        return total

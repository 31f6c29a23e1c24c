"""Step programs: what a program computes of the denoiser's graph, sliced out and put between the sampler's halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from soda_runtime.signature import (
    BATCH_AXIS,
    GUIDANCE,
    MASK,
    NOISE,
    ROWS_AXIS,
    STATE,
    STATE_OUT,
    cache_in,
    cache_out,
)  # fmt: skip

from ..lower.program import ProgramTable, Slot, StepProgram
from ..models.decisions import COMPUTE, IDLE, is_renewal
from ..models.spec import ModelSpec
from ..sampler import SamplerTable
from ..trace.bind import STEP, BindingTimes
from ..trace.denoiser import LATENTS
from ..trace.graph import DenoiserGraph
from ..trace.onnx import fixed_sizes
from .builder import GraphBuilder, Instead, Known, as_traced
from .crossing import FLOATS, CrossingTensor
from .int8 import Int8Products
from .pieces import Pieces
from .reuse import Reuse, StepScalars
from .tokens import TokenOps
from .weights import WeightsFile

PREDICTION = "prediction"
"""Name of the model's output [R, *prediction_shape], before guidance, in every graph that calls the model."""


@dataclass(frozen=True)
class Slice:
    """wanted: values that a program computes. given: values that stand in for what they were computed from: the outputs
    of sites that are reused or renewed, and kept tokens."""

    wanted: tuple[ir.Value, ...]
    given: frozenset[ir.Value]


def slice_of(graph: DenoiserGraph, spec: ModelSpec, program: StepProgram) -> Slice:
    """What a step program computes of the graph."""
    if program.skips:
        return Slice((), frozenset())
    wanted: list[ir.Value] = []
    given: set[ir.Value] = set()
    for site, work in zip(graph.sites, program.work, strict=True):
        if work in (COMPUTE, IDLE):
            continue
        given.update(site.outputs)
        if is_renewal(work):
            assert site.tokens is not None
            assert site.kept is not None
            assert site.renewed is not None
            wanted += [site.tokens, site.renewed]
            given.add(site.kept)
    written = [graph.sites[spec.index[slot.site]].outputs[slot.output] for slot in program.writes]
    wanted += [graph.prediction, *(value for value in written if value not in given)]
    return Slice(tuple(wanted), frozenset(given))


@dataclass(frozen=True)
class _Step:
    """A graph being built. known: what it has of the trace's values. latents: the model's input. instead: as in
    GraphBuilder.emit."""

    builder: GraphBuilder
    known: Known
    latents: ir.Value
    instead: Instead


class StepWriter:
    """Writes step programs of one table; all point into one weights file."""

    def __init__(
        self, graph: DenoiserGraph, spec: ModelSpec, sampler: SamplerTable, table: ProgramTable, pieces: Pieces,
        times: BindingTimes, tensors: Sequence[CrossingTensor], weights: WeightsFile, mask_shape: tuple[int, ...] = (),
        int8_products: bool = False,
    ) -> None:  # fmt: skip
        """mask_shape: of an inpainting bundle, else empty. int8_products: whether what int8 matrices are multiplied
        with becomes int8, too."""
        self._graph, self._spec, self._sampler, self._table = graph, spec, sampler, table
        self._pieces, self._times, self._tensors, self._weights = pieces, times, tensors, weights
        self._mask_shape, self._int8_products = mask_shape, int8_products

    def write(
        self, program: StepProgram, taken: Sequence[str], name: str, path: Path, expose_selection: bool = False
    ) -> None:
        """taken: names of the crossing tensors that the program is handed. expose_selection adds the outputs
        `scores.<slot>` and `pairs.<slot>`, for comparisons."""
        spec, table, n = self._spec, self._table, self._sampler.state_size
        builder = GraphBuilder(name, self._weights)
        state_shape: list[int | str] = [n, BATCH_AXIS, *spec.latent_shape]
        state = builder.input(STATE, "float32", state_shape)
        scalars = StepScalars(builder, self._sampler, table)
        known: Known = {}
        for tensor in self._tensors:
            if tensor.name in taken:
                shape = [ROWS_AXIS if tensor.rows else 1, *tensor.shape]
                unpack(builder, tensor, builder.input(tensor.name, tensor.dtype, shape), known)
        rest: dict[str, ir.Value] = {}
        if table.rows == 2:
            rest["guidance"] = builder.input(GUIDANCE, "float32", [1])
        if self._sampler.stochastic:
            rest["noise"] = builder.input(NOISE, "float32", [BATCH_AXIS, *spec.latent_shape])
        if self._mask_shape:
            rest["mask"] = builder.input(MASK, "float32", [ROWS_AXIS, *self._mask_shape])
        cached = {slot: builder.input(cache_in(str(slot)), *self._slot_type(slot)) for slot in program.reads}
        latents = self._pieces.model_input(builder, state=state, coefficients=scalars.sampler)
        known[self._graph.inputs[LATENTS]] = latents
        step = _Step(builder, known, latents, Int8Products(builder).instead if self._int8_products else as_traced)
        if program.skips:
            prediction = self._stand_in(builder, latents)
        else:
            reuse = Reuse(builder, scalars, program, cached)
            self._give_sites(step, program, reuse, expose_selection)
            prediction = self._compute(step, self._graph.prediction)
            prediction = self._name(builder, program, prediction)
        result = self._pieces.next_state(
            builder, prediction=prediction, state=state, coefficients=scalars.sampler, **rest
        )
        builder.output(result, STATE_OUT, "float32", state_shape)
        for slot in program.writes:
            value = self._graph.sites[spec.index[slot.site]].outputs[slot.output]
            builder.output(self._compute(step, value), cache_out(str(slot)), *self._slot_type(slot))
        builder.save(path, _meaning(program))

    def _name(self, builder: GraphBuilder, program: StepProgram, prediction: ir.Value) -> ir.Value:
        """The prediction under its own name, so that it can be had as an output, too."""
        slots = [self._graph.sites[self._spec.index[slot.site]].outputs[slot.output] for slot in program.writes]
        if prediction.producer() is None or self._graph.prediction in slots:  # has a name that counts
            dtype = prediction.dtype
            prediction = builder.node("Identity", [prediction], prefix=PREDICTION)
            prediction.type = None if dtype is None else ir.TensorType(dtype)
        prediction.name = PREDICTION
        return prediction

    def _stand_in(self, builder: GraphBuilder, latents: ir.Value) -> ir.Value:
        """What a skipped step has for a prediction: the model's input, whose weight is 0, in the prediction's shape. So
        such a program takes what every other takes, and no engine library drops an input."""
        spec = self._spec
        more = spec.prediction_shape[0] - spec.latent_shape[0]
        if not more:
            return latents
        rest = len(spec.latent_shape) - 1
        return builder.node("Pad", [latents, builder.ints(*[0] * (rest + 3), more, *[0] * rest)], prefix="sampler")

    def _give_sites(self, step: _Step, program: StepProgram, reuse: Reuse, expose: bool) -> None:
        """Outputs of the sites that are not computed in full. In the order of computation, since what a site is renewed
        from may be made of another's."""
        builder, known = step.builder, step.known
        tokens = TokenOps(builder, self._table.rows)
        for k in self._graph.order:
            site, values, work = self._spec.sites[k], self._graph.sites[k], program.work[k]
            if work in (COMPUTE, IDLE):
                continue
            if not is_renewal(work):
                for o, output in enumerate(values.outputs):
                    known[output] = reuse.output(Slot(site.name, o), -work)
                continue
            assert values.tokens is not None
            assert values.kept is not None
            assert values.renewed is not None
            slot = Slot(site.name, 0)
            inputs, latest = self._compute(step, values.tokens), reuse.output(slot, 0)
            scores = self._pieces.scores(builder, inputs, latest, f"{site.name}.")
            pairs = tokens.select(scores, site.tokens, work, site.name)
            known[values.kept] = tokens.gather(inputs, pairs, site.name)
            fresh = self._compute(step, values.renewed)
            known[values.outputs[0]] = tokens.scatter(latest, pairs, fresh, site.name)
            if expose:
                builder.output(scores, f"scores.{slot}", "float32", [BATCH_AXIS, site.tokens])
                builder.output(pairs, f"pairs.{slot}", "int64", [ROWS_AXIS, work, 2])

    def _compute(self, step: _Step, value: ir.Value) -> ir.Value:
        builder, known = step.builder, step.known

        def widen(node: ir.Node, position: int) -> ir.Value | None:
            """A value of the step alone has one row; where it is joined to others it needs them all."""
            source = node.inputs[position]
            if node.op_type != "Concat" or source is None or self._times.of(source) != STEP:
                return None
            rows = builder.node("Shape", [step.latents], prefix="rows", start=0, end=1)
            ones = builder.ints(*[1] * (len(source.shape or []) - 1))
            shape = builder.node("Concat", [rows, ones], prefix="rows", axis=0)
            return builder.node("Expand", [known[source], shape], prefix="rows")

        builder.emit([value], known, self._graph.weights, widen=widen, instead=step.instead)
        return known[value]

    def _slot_type(self, slot: Slot) -> tuple[str, list[int | str]]:
        k = self._spec.index[slot.site]
        dtype = self._graph.sites[k].outputs[slot.output].dtype
        assert dtype is not None
        return FLOATS[dtype], [ROWS_AXIS, *self._spec.sites[k].outputs[slot.output]]


def _meaning(program: StepProgram) -> str:
    """Not the numbers of its steps: an engine is kept where a plan changes them alone."""
    works = list(program.work)
    if program.skips:
        return "denoising step: state -> the next state, from what the sampler remembers; the model is not called"
    renewed = sum(map(is_renewal, works))
    reused = len(works) - renewed - works.count(COMPUTE) - works.count(IDLE)
    return (
        f"denoising step: state -> the next state; of {len(works)} sites {works.count(COMPUTE)} are computed, "
        f"{renewed} renewed for some tokens, {reused} reused, {works.count(IDLE)} not needed; {len(program.reads)} "
        f"cache slots read, {len(program.writes)} written"
    )


def unpack(builder: GraphBuilder, tensor: CrossingTensor, value: ir.Value, known: Known) -> None:
    """Make a crossing tensor's parts known."""
    if not tensor.packed:
        known[tensor.parts[0]] = value
        return
    sizes = builder.ints(*tensor.sizes)
    columns = builder.nodes("Split", [value, sizes], prefix=tensor.name, outputs=len(tensor.parts), axis=1)
    for part, column in zip(tensor.parts, columns, strict=True):
        shape = fixed_sizes(list(part.shape or [])[1:])
        known[part] = column
        if len(shape) > 1:
            known[part] = builder.node("Reshape", [column, builder.ints(-1, *shape)], prefix=tensor.name)

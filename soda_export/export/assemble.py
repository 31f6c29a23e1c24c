"""Assemble the ONNX graph of one program from traced fragments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
from soda_runtime.signature import (
    BATCH_AXIS,
    COEFFICIENTS,
    GUIDANCE,
    LABELS,
    NOISE,
    ROWS_AXIS,
    STATE,
    STATE_OUT,
    WINDOW_AXIS,
    cache_in,
    cache_out,
    coefficient_count,
)  # fmt: skip

from ..lower.program import ProgramTable, Slot, StepProgram
from ..models.denoiser import CONDITIONING, Denoiser
from ..sampler import SamplerTable
from .builder import GraphBuilder
from .tokens import TokenOps
from .trace import Fragment
from .weights import WeightsFile, layer_prefix


class ProgramAssembler:
    """Writes the prepare program and any step program of a table, all pointing into one weights file."""

    def __init__(
        self, denoiser: Denoiser, sampler: SamplerTable, table: ProgramTable, fragments: Mapping[str, Fragment],
        weights: WeightsFile,
    ) -> None:  # fmt: skip
        self._denoiser, self._sampler, self._table = denoiser, sampler, table
        self._fragments, self._weights = fragments, weights

    def write_prepare(self, path: Path) -> None:
        """The program that turns labels and timestep tables into the conditioning of a window of steps."""
        builder, spec = GraphBuilder("prepare", self._weights), self._denoiser.spec
        inputs = [builder.input(LABELS, "int64", [ROWS_AXIS])]
        for name, tensor in self._denoiser.tables(self._sampler.timesteps[:1]).items():
            inputs.append(builder.input(name, "float32", [WINDOW_AXIS, *tensor.shape[1:]]))
        result = builder.splice(self._fragments["prepare"], inputs, prefix="prepare.")
        shape: list[int | str] = [WINDOW_AXIS, ROWS_AXIS, self._denoiser.num_conditions, spec.width]
        builder.output(result, CONDITIONING, "float32", shape)
        builder.save(path)

    def write_step(self, program: StepProgram, name: str, path: Path, expose_selection: bool = False) -> None:
        """A step program. expose_selection adds the outputs `scores.<slot>` and `pairs.<slot>`, for comparisons."""
        spec, table, n = self._denoiser.spec, self._table, self._sampler.state_size
        builder = GraphBuilder(name, self._weights)
        state_shape: list[int | str] = [n, BATCH_AXIS, *spec.latent_shape]
        slot_shape: list[int | str] = [ROWS_AXIS, spec.num_tokens, spec.width]
        state = builder.input(STATE, "float32", state_shape)
        coefficients = builder.input(COEFFICIENTS, "float32", [coefficient_count(n)])
        conditioning = builder.input(CONDITIONING, "float32", [ROWS_AXIS, self._denoiser.num_conditions, spec.width])
        rest = [builder.input(GUIDANCE, "float32", [1])] if table.rows == 2 else []
        if self._sampler.stochastic:
            rest.append(builder.input(NOISE, "float32", [BATCH_AXIS, *spec.latent_shape]))
        slots = {slot: builder.input(cache_in(str(slot)), "float32", slot_shape) for slot in program.reads}
        entries = builder.nodes(
            "Split", [conditioning], prefix=CONDITIONING, outputs=self._denoiser.num_conditions, axis=1,
            num_outputs=self._denoiser.num_conditions,
        )  # fmt: skip
        latents = builder.splice(self._fragments["sampler_in"], [state, coefficients], prefix="sampler.")
        x = builder.splice(self._fragments["embed"], [latents], prefix="embed.")
        tokens = TokenOps(builder, table.rows)
        for layer, keeps in enumerate(program.kept):
            for module, keep in zip(spec.modules, keeps, strict=True):
                slot = Slot(layer, module)
                y = self._module(builder, tokens, slot, keep, x, entries, slots.get(slot), expose_selection)
                gate = [entries[i] for i in self._denoiser.gate_conditions(layer, module)]
                x = builder.splice(self._fragments["residual"], [x, y, *gate], prefix=f"{layer_prefix(layer, module)}")
                slots[slot] = y
        head = [entries[i] for i in self._denoiser.head_conditions()]
        prediction = builder.splice(self._fragments["head"], [x, *head], prefix="head.")
        result = builder.splice(
            self._fragments["sampler_out"], [prediction, state, coefficients, *rest], prefix="sampler."
        )
        builder.output(result, STATE_OUT, "float32", state_shape)
        for slot in program.writes:
            builder.output(slots[slot], cache_out(str(slot)), "float32", slot_shape)
        builder.save(path)

    def _module(
        self, builder: GraphBuilder, tokens: TokenOps, slot: Slot, keep: int, x: ir.Value, entries: Sequence[ir.Value],
        cached: ir.Value | None, expose_selection: bool,
    ) -> ir.Value:  # fmt: skip
        """The module's output [R, N, D]: computed, reused, or partly renewed."""
        if keep == 0:
            assert cached is not None
            return cached
        prefix = layer_prefix(slot.layer, slot.module)
        conditions = [entries[i] for i in self._denoiser.module_conditions(slot.layer, slot.module)]
        inputs = builder.splice(self._fragments[f"{slot.module}.normalize"], [x, *conditions], prefix=prefix)
        if keep == self._denoiser.spec.num_tokens:
            return builder.splice(self._fragments[f"{slot.module}.forward"], [inputs], prefix=prefix)
        assert cached is not None
        scores = builder.splice(self._fragments["scorer"], [inputs, cached], prefix=prefix)
        pairs = tokens.select(scores, keep, prefix)
        kept = tokens.gather(inputs, pairs, prefix)
        fresh = builder.splice(self._fragments[f"{slot.module}.kept"], [inputs, kept], prefix=prefix)
        if expose_selection:
            builder.output(scores, f"scores.{slot}", "float32", [BATCH_AXIS, self._denoiser.spec.num_tokens])
            builder.output(pairs, f"pairs.{slot}", "int64", [ROWS_AXIS, keep, 2])
        return tokens.scatter(cached, pairs, fresh, prefix)



"""Assemble the ONNX graph of one program from traced fragments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
from soda_runtime.manifest import PreparedTensor, PrepareProgram
from soda_runtime.signature import (
    ATTENTION_MASK,
    BATCH_AXIS,
    DTYPES,
    EMBEDS,
    GUIDANCE,
    LABELS,
    NOISE,
    ROWS_AXIS,
    STATE,
    STATE_OUT,
    WINDOW_AXIS,
    cache_in,
    cache_out,
)  # fmt: skip

from ..lower.program import STACK, ProgramTable, Slot, StepProgram
from ..models.context import TEXT_BIAS
from ..models.denoiser import CONDITIONING, Denoiser
from ..models.spec import TextCondition
from ..plan.schedule import BLOCKS_RUN
from ..sampler import SamplerTable
from .builder import GraphBuilder
from .reuse import Reuse, StepScalars
from .tokens import TokenOps
from .trace import Fragment
from .weights import WeightsFile, layer_prefix

CONDITIONING_NAME, CONTEXT_NAME = "conditioning.onnx", "context.onnx"


class ProgramAssembler:
    """Writes the prepare programs and any step program of a table, all pointing into one weights file."""

    def __init__(
        self, denoiser: Denoiser, sampler: SamplerTable, table: ProgramTable, fragments: Mapping[str, Fragment],
        weights: WeightsFile, precision: str,
    ) -> None:  # fmt: skip
        self._denoiser, self._sampler, self._table = denoiser, sampler, table
        self._fragments, self._weights, self._dtype = fragments, weights, DTYPES[precision]
        self.tensors = {tensor.name: tensor for tensor in self._describe_tensors()}

    def _describe_tensors(self) -> list[PreparedTensor]:
        """What the prepare programs make."""
        spec, entries = self._denoiser.spec, self._denoiser.num_conditions
        by_rows = self._denoiser.context is None
        made = [PreparedTensor(CONDITIONING, self._dtype, by_rows, True, (entries, spec.width))]  # type: ignore[arg-type]
        if self._denoiser.context:
            assert isinstance(spec.condition, TextCondition)
            tokens, heads = spec.condition.max_tokens, spec.num_heads
            shape = (heads, tokens, spec.width // heads)
            made += [
                PreparedTensor(name, self._dtype, True, False, shape)  # type: ignore[arg-type]
                for name in self._denoiser.context.projections
            ]
            made.append(PreparedTensor(TEXT_BIAS, "float32", True, False, (1, 1, tokens)))
        return made

    def write_prepare(self, folder: Path) -> tuple[PrepareProgram, ...]:
        """The programs that run before the steps, in order."""
        programs = [self._write_context(folder / CONTEXT_NAME)] if self._denoiser.context else []
        return (*programs, self._write_conditioning(folder / CONDITIONING_NAME))

    def _write_conditioning(self, path: Path) -> PrepareProgram:
        """Labels, where the model has them, and timestep tables to the conditioning of a window of steps."""
        builder = GraphBuilder("conditioning", self._weights)
        labels = () if self._denoiser.context else (LABELS,)
        inputs = [builder.input(LABELS, "int64", [ROWS_AXIS])] if labels else []
        tables = self._denoiser.tables(self._sampler.timesteps[:1])
        for name, tensor in tables.items():
            inputs.append(builder.cast(builder.input(name, "float32", [WINDOW_AXIS, *tensor.shape[1:]]), self._dtype))
        result = builder.splice(self._fragments["conditioning"], inputs, prefix="conditioning.")
        builder.output(result, CONDITIONING, self._dtype, [WINDOW_AXIS, *_shape(self.tensors[CONDITIONING])])
        builder.save(path)
        return PrepareProgram(path.name, labels, tuple(sorted(tables)), (CONDITIONING,))

    def _write_context(self, path: Path) -> PrepareProgram:
        """Text embeddings and their mask to every layer's keys and values."""
        spec, context = self._denoiser.spec, self._denoiser.context
        assert context is not None
        assert isinstance(spec.condition, TextCondition)
        builder, tokens = GraphBuilder("context", self._weights), spec.condition.max_tokens
        embeds = builder.input(EMBEDS, "float32", [ROWS_AXIS, tokens, spec.condition.embed_width])
        mask = builder.input(ATTENTION_MASK, "int64", [ROWS_AXIS, tokens])
        cast = builder.cast(embeds, self._dtype)
        caption = builder.splice(self._fragments["caption"], [cast], prefix="context.caption.")
        for name in context.projections:
            made = builder.splice(self._fragments["projection"], [caption], prefix=f"context.{name}.")
            builder.output(made, name, self._dtype, _shape(self.tensors[name]))
        bias = builder.splice(self._fragments["text_bias"], [mask], prefix="context.")
        builder.output(bias, TEXT_BIAS, "float32", _shape(self.tensors[TEXT_BIAS]))
        builder.save(path)
        return PrepareProgram(path.name, (EMBEDS, ATTENTION_MASK), (), (*context.projections, TEXT_BIAS))

    def taken(self, program: StepProgram) -> tuple[str, ...]:
        """Names of the prepared tensors that a step program takes."""
        names = [CONDITIONING]
        for layer, keeps in enumerate(program.kept):
            for module, keep in zip(self._denoiser.spec.modules, keeps, strict=True):
                names += self._denoiser.module_context(layer, module) if keep > 0 else ()
        return tuple(dict.fromkeys(names))

    def write_step(self, program: StepProgram, name: str, path: Path, expose_selection: bool = False) -> None:
        """A step program. expose_selection adds the outputs `scores.<slot>` and `pairs.<slot>`, for comparisons."""
        spec, table, n = self._denoiser.spec, self._table, self._sampler.state_size
        builder = GraphBuilder(name, self._weights)
        state_shape: list[int | str] = [n, BATCH_AXIS, *spec.latent_shape]
        slot_shape: list[int | str] = [ROWS_AXIS, spec.num_tokens, spec.width]
        state = builder.input(STATE, "float32", state_shape)
        scalars = StepScalars(builder, self._sampler, table)
        prepared = {
            tensor: builder.input(tensor, self.tensors[tensor].dtype, _shape(self.tensors[tensor]))
            for tensor in self.taken(program)
        }
        rest = [builder.input(GUIDANCE, "float32", [1])] if table.rows == 2 else []
        if self._sampler.stochastic:
            rest.append(builder.input(NOISE, "float32", [BATCH_AXIS, *spec.latent_shape]))
        cached = {slot: builder.input(cache_in(str(slot)), self._dtype, slot_shape) for slot in program.reads}
        reuse = Reuse(builder, scalars, program, cached, self._dtype)
        entries = builder.nodes(
            "Split", [prepared[CONDITIONING]], prefix=CONDITIONING, outputs=self._denoiser.num_conditions, axis=1,
            num_outputs=self._denoiser.num_conditions,
        )  # fmt: skip
        stack = Slot(spec.num_layers, STACK)
        made: dict[Slot, ir.Value] = {}
        if program.stack == BLOCKS_RUN:
            latents = builder.splice(self._fragments["sampler_in"], [state, scalars.sampler], prefix="sampler.")
            x = builder.splice(self._fragments["embed"], [latents], prefix="embed.")
            tokens = TokenOps(builder, table.rows)
            for layer, keeps in enumerate(program.kept):
                for module, keep in zip(spec.modules, keeps, strict=True):
                    slot = Slot(layer, module)
                    y = self._module(builder, tokens, slot, keep, x, entries, prepared, reuse, expose_selection)
                    gate = [entries[i] for i in self._denoiser.gate_conditions(layer, module)]
                    residual = self._fragments[f"{module}.residual"]
                    x = builder.splice(residual, [x, y, *gate], prefix=f"{layer_prefix(layer, module)}")
                    made[slot] = y
            made[stack] = x
        else:
            x = reuse.output(stack, program.stack)
        head = [entries[i] for i in self._denoiser.head_conditions()]
        prediction = builder.splice(self._fragments["head"], [x, *head], prefix="head.")
        result = builder.splice(
            self._fragments["sampler_out"], [prediction, state, scalars.sampler, *rest], prefix="sampler."
        )
        builder.output(result, STATE_OUT, "float32", state_shape)
        for slot in program.writes:
            builder.output(made[slot], cache_out(str(slot)), self._dtype, slot_shape)
        builder.save(path)

    def _module(
        self, builder: GraphBuilder, tokens: TokenOps, slot: Slot, keep: int, x: ir.Value, entries: Sequence[ir.Value],
        prepared: Mapping[str, ir.Value], reuse: Reuse, expose_selection: bool,
    ) -> ir.Value:  # fmt: skip
        """The module's output [R, N, D]: computed, reused or forecast, or partly renewed."""
        if keep <= 0:
            return reuse.output(slot, -keep)
        prefix = layer_prefix(slot.layer, slot.module)
        conditions = [entries[i] for i in self._denoiser.module_conditions(slot.layer, slot.module)]
        context = [prepared[name] for name in self._denoiser.module_context(slot.layer, slot.module)]
        inputs = builder.splice(self._fragments[f"{slot.module}.normalize"], [x, *conditions], prefix=prefix)
        if keep == self._denoiser.spec.num_tokens:
            return builder.splice(self._fragments[f"{slot.module}.forward"], [inputs, *context], prefix=prefix)
        cached = reuse.output(slot, 0)
        scores = builder.splice(self._fragments["scorer"], [inputs, cached], prefix=prefix)
        pairs = tokens.select(scores, keep, prefix)
        kept = tokens.gather(inputs, pairs, prefix)
        fresh = builder.splice(self._fragments[f"{slot.module}.kept"], [inputs, kept, *context], prefix=prefix)
        if expose_selection:
            builder.output(scores, f"scores.{slot}", "float32", [BATCH_AXIS, self._denoiser.spec.num_tokens])
            builder.output(pairs, f"pairs.{slot}", "int64", [ROWS_AXIS, keep, 2])
        return tokens.scatter(cached, pairs, fresh, prefix)


def _shape(tensor: PreparedTensor) -> list[int | str]:
    return [ROWS_AXIS if tensor.rows else 1, *tensor.shape]

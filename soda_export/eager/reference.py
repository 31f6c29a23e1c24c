"""The executable specification: run a program table eagerly in torch, one slot at a time, with no arena."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lower.program import STACK, ProgramTable, Slot, StepProgram
from ..models.denoiser import Denoiser, LabelRows, Prepared, TextRows, call_denoiser, call_head, label_rows
from ..plan.schedule import BLOCKS_RUN
from ..sampler import SamplerTable, Stepper, guide
from .tokens import TokenScorer, gather_tokens, scatter_tokens, top_tokens

ChooseTokens = Callable[[int, Slot, Tensor, int], Tensor]
"""(step, slot, scores [B, N], keep) -> indices [B, keep]"""


def _top(step: int, slot: Slot, scores: Tensor, keep: int) -> Tensor:
    return top_tokens(scores, keep)


@torch.no_grad()
def run_reference(
    denoiser: Denoiser,
    sampler: Stepper,
    table: ProgramTable,
    condition: Tensor | LabelRows | TextRows,
    initial_noise: Tensor,
    step_noise: Tensor | None = None,
    guidance: float | None = None,
    choose: ChooseTokens = _top,
) -> Tensor:
    """Latents [B, C, H, W] after all steps.

    sampler: a SamplerTable takes the table's coefficients, where it has any; another stepper is used as it is.
    condition: labels [B], or the labels or the text of all rows. initial_noise: [B, C, H, W]. step_noise:
    [S, B, C, H, W], needed by stochastic samplers.
    choose: replaces the selection of tokens, so that a comparison can settle near-ties the same way on both sides.
    """
    if isinstance(sampler, SamplerTable):
        sampler = sampler.with_coefficients(table.own_coefficients)
    scale = table.guidance if guidance is None else guidance
    spec, channels = denoiser.spec, denoiser.spec.latent_shape[0]
    guided = table.sampler.guided_channels or channels
    rows = label_rows(condition, spec, table.rows) if isinstance(condition, Tensor) else condition
    prepared = Prepared(denoiser, sampler.timesteps, rows)
    state = sampler.begin(initial_noise)
    cache = Cache(table, spec.num_layers)
    for step, index in enumerate(table.step_programs):
        latents = torch.cat([sampler.model_input(step, state)] * table.rows)
        program, conditioning = table.programs[index], prepared.conditioning(step)
        if program.stack != BLOCKS_RUN:
            hidden = cache.forecast(cache.stack, program.stack, step, program)
            output = call_head(denoiser, hidden, conditioning)
        else:
            play = _Play(denoiser, prepared, table, program, step, cache, choose)
            output, hidden = call_denoiser(denoiser, latents, conditioning, play.module_output)
            cache.push(cache.stack, hidden)
        noise = step_noise[step] if sampler.stochastic and step_noise is not None else None
        state = sampler.advance(step, state, guide(output, table.rows, scale, guided, channels), noise)
    return state[0]


class Cache:
    """The last computed values of every slot, newest first: as many as the table ever reads."""

    def __init__(self, table: ProgramTable, num_layers: int) -> None:
        self.stack = Slot(num_layers, STACK)
        self._weights = table.forecast_weights
        self._depth: dict[Slot, int] = {}
        for program in table.programs:
            for slot in program.reads:
                self._depth[slot.latest] = max(self._depth.get(slot.latest, 0), slot.age + 1)
        self._values: dict[Slot, list[Tensor]] = {}

    def push(self, slot: Slot, value: Tensor) -> None:
        """A newly computed value."""
        depth = self._depth.get(slot, 0)
        self._values[slot] = [value, *self._values.get(slot, [])][:depth]

    def update(self, slot: Slot, value: Tensor) -> None:
        """The latest value with some tokens renewed."""
        self._values[slot][0] = value

    def latest(self, slot: Slot) -> Tensor:
        """The latest value, as it is."""
        return self._values[slot][0]

    def forecast(self, slot: Slot, order: int, step: int, program: StepProgram) -> Tensor:
        """The value at `step`: the latest, or with an order above 0 the weighted sum of the last ones."""
        if not order:
            return self.latest(slot)
        weights = self._weights[step][program.forecast_rows[slot]]
        values = self._values[slot]
        result = weights[0] * values[0] + weights[1] * values[1]
        return result + weights[2] * values[2] if order > 1 else result


@dataclass(frozen=True)
class _Play:
    """What each module does in one step."""

    denoiser: Denoiser
    prepared: Prepared
    table: ProgramTable
    program: StepProgram
    step: int
    cache: Cache
    choose: ChooseTokens

    def module_output(self, layer: int, name: str, inputs_of: Callable[[], Tensor]) -> Tensor:
        spec, slot = self.denoiser.spec, Slot(layer, name)
        keep = self.program.kept[layer][spec.modules.index(name)]
        if keep <= 0:
            return self.cache.forecast(slot, -keep, self.step, self.program)
        module, inputs = self.denoiser.module(layer, name), inputs_of()
        context = self.prepared.context(layer, name)
        if keep == spec.num_tokens:
            y: Tensor = module(inputs, *context)
            self.cache.push(slot, y)
            return y
        cached = self.cache.latest(slot)
        scores = TokenScorer(self.table.token_score, self.table.rows)(inputs, cached)
        indices = self.choose(self.step, slot, scores, keep).repeat(self.table.rows, 1)
        fresh = module.kept(inputs, gather_tokens(inputs, indices), *context)
        y = scatter_tokens(cached, indices, fresh)
        self.cache.update(slot, y)
        return y

"""The executable specification: run a program table eagerly in torch, one slot at a time, with no arena."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .lower.program import ProgramTable, Slot, StepProgram
from .models.denoiser import Denoiser, Prepared, TextRows, call_denoiser, label_rows
from .sampler import SamplerTable, guide
from .tokens import TokenScorer, gather_tokens, scatter_tokens, top_tokens

ChooseTokens = Callable[[int, Slot, Tensor, int], Tensor]
"""(step, slot, scores [B, N], keep) -> indices [B, keep]"""


def _top(step: int, slot: Slot, scores: Tensor, keep: int) -> Tensor:
    return top_tokens(scores, keep)


@torch.no_grad()
def run_reference(
    denoiser: Denoiser,
    sampler: SamplerTable,
    table: ProgramTable,
    condition: Tensor | TextRows,
    initial_noise: Tensor,
    step_noise: Tensor | None = None,
    guidance: float | None = None,
    choose: ChooseTokens = _top,
) -> Tensor:
    """Latents [B, C, H, W] after all steps.

    condition: labels [B], or the text of all rows. initial_noise: [B, C, H, W]. step_noise: [S, B, C, H, W], needed
    by stochastic samplers.
    choose: replaces the selection of tokens, so that a comparison can settle near-ties the same way on both sides.
    """
    scale = table.guidance if guidance is None else guidance
    spec, channels = denoiser.spec, denoiser.spec.latent_shape[0]
    guided = table.sampler.guided_channels or channels
    rows = label_rows(condition, spec, table.rows) if isinstance(condition, Tensor) else condition
    prepared = Prepared(denoiser, sampler.timesteps, rows)
    state = sampler.begin(initial_noise)
    slots: dict[Slot, Tensor] = {}
    for step, index in enumerate(table.step_programs):
        latents = torch.cat([sampler.model_input(step, state)] * table.rows)
        play = _Play(denoiser, prepared, table, table.programs[index], step, slots, choose)
        output, _ = call_denoiser(denoiser, latents, prepared.conditioning(step), play.module_output)
        noise = step_noise[step] if sampler.stochastic and step_noise is not None else None
        state = sampler.advance(step, state, guide(output, table.rows, scale, guided, channels), noise)
    return state[0]


@dataclass(frozen=True)
class _Play:
    """What each module does in one step."""

    denoiser: Denoiser
    prepared: Prepared
    table: ProgramTable
    program: StepProgram
    step: int
    slots: dict[Slot, Tensor]
    choose: ChooseTokens

    def module_output(self, layer: int, name: str, inputs_of: Callable[[], Tensor]) -> Tensor:
        spec, slot = self.denoiser.spec, Slot(layer, name)
        keep = self.program.kept[layer][spec.modules.index(name)]
        if keep == 0:
            return self.slots[slot]
        module, inputs = self.denoiser.module(layer, name), inputs_of()
        context = self.prepared.context(layer, name)
        if keep == spec.num_tokens:
            self.slots[slot] = module(inputs, *context)
        else:
            cached = self.slots[slot]
            scores = TokenScorer(self.table.token_score, self.table.rows)(inputs, cached)
            indices = self.choose(self.step, slot, scores, keep).repeat(self.table.rows, 1)
            fresh = module.kept(inputs, gather_tokens(inputs, indices), *context)
            self.slots[slot] = scatter_tokens(cached, indices, fresh)
        return self.slots[slot]

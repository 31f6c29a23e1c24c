"""The executable specification: run a program table eagerly in torch, one slot at a time, with no arena."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..lower.program import ProgramTable, Slot, StepProgram
from ..models.decisions import COMPUTE, is_renewal
from ..sampler import SamplerTable, Starts, Stepper
from .model import EagerModel
from .sampling import Observe, Sampling, StepHook
from .sites import SiteCall
from .tokens import TokenScorer, scatter_tokens, top_tokens

MISSING = torch.empty(0)
"""In the place of a value that was not kept."""
ChooseTokens = Callable[[int, str, Tensor, int], Tensor]
"""(step, site, scores [B, N], keep) -> indices [B, keep]"""


def _top(step: int, site: str, scores: Tensor, keep: int) -> Tensor:
    return top_tokens(scores, keep)


class Start(NamedTuple):
    """A run that starts at a step from clean latents [B, *latent_shape]."""

    starts: Starts
    step: int
    latents: Tensor


def run_reference(
    model: EagerModel, sampler: Stepper, table: ProgramTable, inputs: Mapping[str, Tensor], initial_noise: Tensor,
    step_noise: Tensor | None = None, guidance: float | None = None, choose: ChooseTokens = _top,
    start: Start | None = None, known: Callable[[Stepper], Stepper] = lambda stepper: stepper,
    observe: Observe | None = None,
) -> Tensor:  # fmt: skip
    """Latents [B, *latent_shape] after all steps.

    sampler: a SamplerTable takes the table's coefficients, where it has any; another stepper is used as it is. inputs:
    by port, [R, ...], R = table.rows * B. initial_noise: [B, *latent_shape]. step_noise: [S, B, *latent_shape], needed
    by stochastic samplers. choose: replaces the selection of tokens, so that a comparison can settle near-ties the same
    way on both sides. start: begins there, with the coefficients of `sampler` itself, a SamplerTable. known: what an
    inpainting bundle's sampler is made into (KnownRegion). observe: is told of each step taken.
    """
    own = sampler
    if isinstance(sampler, SamplerTable):
        sampler = sampler.with_coefficients(table.own_coefficients)
    sampling = Sampling(
        model, model.place(inputs), initial_noise, table.guidance if guidance is None else guidance, table.rows,
        table.sampler.guided_channels, step_noise,
    )  # fmt: skip
    play = TablePlay(model, table, choose)
    if start is None:
        return sampling.run(known(sampler), play.hook, observe=observe)[0]
    assert isinstance(own, SamplerTable)
    for step in range(start.step):
        play.skip(step)
    return sampling.run(
        known(start.starts.table(own, start.step)),
        play.hook_if_ready,
        start.starts.begin(own, start.step, start.latents, initial_noise),
        start.step,
        observe,
    )[0]


class TablePlay:
    """What a program table does with each site of each step, in one run from the first step to the last."""

    def __init__(self, model: EagerModel, table: ProgramTable, choose: ChooseTokens = _top) -> None:
        self._names = [site.name for site in model.spec.sites]
        self._outputs = [len(site.outputs) for site in model.spec.sites]
        self._table, self._choose = table, choose
        self._scorer = TokenScorer(table.token_score, table.rows)
        self._cache = Cache(table)

    def hook(self, step: int) -> StepHook:
        """What a step's model call is hooked with."""
        program = self._table.programs[self._table.step_programs[step]]
        if program.skips:
            return StepHook(skips=True)
        given = {k for k, work in enumerate(program.work) if work != COMPUTE and not is_renewal(work)}
        return StepHook(lambda k, call: self._outputs_of(step, program, k, call), given)

    def hook_if_ready(self, step: int) -> StepHook:
        """The same, or everything computed and nothing kept where the cache lacks a value that the step reads, or the
        step would go on from predictions."""
        program = self._table.programs[self._table.step_programs[step]]
        if not program.skips and all(self._cache.holds(slot) for slot in program.reads):
            return self.hook(step)
        self.skip(step)
        return StepHook()

    def skip(self, step: int) -> None:
        """The values that a step would have written are missing."""
        program = self._table.programs[self._table.step_programs[step]]
        for slot in program.writes:
            if slot in program.reads:
                self._cache.update(slot, MISSING)
            else:
                self._cache.push(slot, MISSING)

    def _outputs_of(self, step: int, program: StepProgram, k: int, call: SiteCall) -> tuple[Tensor, ...]:
        work, slots = program.work[k], [Slot(self._names[k], output) for output in range(self._outputs[k])]
        if work == COMPUTE:
            outputs = call.compute()
            for slot, value in zip(slots, outputs, strict=True):
                self._cache.push(slot, value)
            return outputs
        if not is_renewal(work):
            return tuple(self._cache.forecast(slot, -work, step, program) for slot in slots)
        (slot,) = slots
        cached = self._cache.latest(slot)
        scores = self._scorer(call.inputs, cached)
        indices = self._choose(step, slot.site, scores, work).repeat(self._table.rows, 1)
        value = scatter_tokens(cached, indices, call.renew(indices).to(cached.dtype))
        self._cache.update(slot, value)
        return (value,)


class Cache:
    """The last computed values of every slot, newest first: as many as the table ever reads."""

    def __init__(self, table: ProgramTable) -> None:
        self._weights = table.forecast_weights
        self._depth: dict[Slot, int] = {}
        for program in table.programs:
            for slot in program.reads:
                self._depth[slot.latest] = max(self._depth.get(slot.latest, 0), slot.age + 1)
        self._values: dict[Slot, list[Tensor]] = {}

    def holds(self, slot: Slot) -> bool:
        """Whether a value and all newer ones of its slot are there."""
        return all(value is not MISSING for value in self._values[slot.latest][: slot.age + 1])

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
        return weighted_sum(weights[: order + 1], self._values[slot])


def weighted_sum(weights: tuple[float, ...], values: list[Tensor]) -> Tensor:
    """Sum of weight * value over as many as there are weights, in their order."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=False):
        total = total + weight * value
    return total

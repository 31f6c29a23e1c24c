"""The sampling loop: a batch of samples led from noise to final latents by an eager model and a frozen sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from soda_runtime.philox import INITIAL_STREAM, normal
from torch import Tensor

from ..sampler import Stepper, guide
from .model import EagerModel
from .sites import OnSite


class StepHook(NamedTuple):
    """What EagerModel.call takes in a step."""

    on_site: OnSite | None = None
    given: Collection[int] = ()
    skips: bool = False
    """Whether the model is not called at all; the sampler's row for such a step gives its output no weight."""


Hooks = Callable[[int], StepHook]
"""step -> what its model call is hooked with"""
Observe = Callable[[int, Tensor], None]
"""(step, the state after it [n, B, *latent_shape])"""


def compute_all(step: int) -> StepHook:
    """Every site computed."""
    return StepHook()


@dataclass(frozen=True, eq=False)
class Sampling:
    """B samples of `rows` rows each, the conditional ones first.

    inputs: by port, [R, ...], R = rows * B. noise: [B, *latent_shape]. step_noise: [S, B, *latent_shape], None where
    the sampler adds none. guided_channels: of latents [C, H, W], those that guidance applies to; 0 = all.
    """

    model: EagerModel
    inputs: Mapping[str, Tensor]
    noise: Tensor
    guidance: float
    rows: int
    guided_channels: int = 0
    step_noise: Tensor | None = None

    def of(self, samples: Sequence[int]) -> Sampling:
        """Some of the samples."""
        count, chosen = len(self.noise), list(samples)
        inputs = {
            name: values.reshape(self.rows, count, *values.shape[1:])[:, chosen].flatten(0, 1)
            for name, values in self.inputs.items()
        }  # fmt: skip
        step_noise = None if self.step_noise is None else self.step_noise[:, chosen]
        return replace(self, inputs=inputs, noise=self.noise[chosen], step_noise=step_noise)

    def run(
        self, stepper: Stepper, hooks: Hooks = compute_all, state: Tensor | None = None, first: int = 0,
        observe: Observe | None = None,
    ) -> Tensor:  # fmt: skip
        """The state after the last step: [n, B, *latent_shape], float32; its first tensor is the latents.

        state: the state before step `first`; default the one that begins from the noise.
        """
        state = self.begin(stepper) if state is None else state
        for step in range(first, len(stepper.timesteps)):
            state = self.advance(stepper, step, state, self.predict(stepper, step, state, hooks(step)))
            if observe is not None:
                observe(step, state)
        return state

    def record(
        self, stepper: Stepper, progress: Callable[[], None] = lambda: None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Everything computed: the states before each step and after the last, S + 1 of [n, B, *latent_shape], and the
        guided predictions, S of [B, *latent_shape]."""
        channels = self.model.spec.latent_shape[0]
        states, predictions = [self.begin(stepper)], []
        for step in range(len(stepper.timesteps)):
            output = self.predict(stepper, step, states[-1])
            predictions.append(output[:, :channels])
            states.append(self.advance(stepper, step, states[-1], output))
            progress()
        return states, predictions

    def begin(self, stepper: Stepper) -> Tensor:
        """The state before the first step."""
        return stepper.begin(self.noise.to(self.model.device))

    def predict(self, stepper: Stepper, step: int, state: Tensor, hook: StepHook = StepHook()) -> Tensor:
        """The guided prediction of each sample: [B, *prediction_shape], in a skipped step the model's input."""
        if hook.skips:
            return stepper.model_input(step, state)
        latents = torch.cat([stepper.model_input(step, state)] * self.rows)
        output = self.model.call(latents, stepper.timesteps[step], self.inputs, hook.on_site, hook.given)
        channels = self.model.spec.latent_shape[0]
        return guide(output, self.rows, self.guidance, self.guided_channels or channels, channels)

    def advance(self, stepper: Stepper, step: int, state: Tensor, prediction: Tensor) -> Tensor:
        """The state after a step."""
        return stepper.advance(step, state, prediction, self.noise_at(stepper, step))

    def noise_at(self, stepper: Stepper, step: int) -> Tensor | None:
        """What a step adds, [B, *latent_shape]; None where the sampler adds none."""
        if self.step_noise is None or not stepper.stochastic:
            return None
        return self.step_noise[step].to(self.model.device)


def sample_noise(seed: int, stream: int, samples: Sequence[int], latent_shape: tuple[int, ...]) -> Tensor:
    """Normal noise [B, *latent_shape] of the samples with these numbers; a sample's is its own in any batch."""
    rows = [normal(seed, stream, sample, math.prod(latent_shape)) for sample in samples]
    return torch.from_numpy(np.stack(rows)).reshape(len(samples), *latent_shape)


def run_noise(
    seed: int, samples: Sequence[int], latent_shape: tuple[int, ...], stepper: Stepper
) -> tuple[Tensor, Tensor | None]:
    """The initial noise [B, *latent_shape] and that of the steps [S, B, *latent_shape], None where none is added."""
    steps = range(len(stepper.timesteps)) if stepper.stochastic else ()
    of_steps = [sample_noise(seed, 1 + step, samples, latent_shape) for step in steps]
    return sample_noise(seed, INITIAL_STREAM, samples, latent_shape), torch.stack(of_steps) if of_steps else None

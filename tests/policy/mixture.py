"""A denoiser that is known exactly: the predictions for data of a few points, smooth in the latents and the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from soda_export.sampler import Levels, SamplerTable, levels_of

SHAPE, POINTS = (3, 6, 6), 5


@dataclass(frozen=True, eq=False)
class MixtureSampling:
    """Stands in for eager.sampling.Sampling: noise [B, *SHAPE] led towards POINTS points."""

    levels: Levels
    noise: Tensor

    @classmethod
    def of_sampler(cls, own: SamplerTable, config: dict[str, Any], samples: int, seed: int = 0) -> MixtureSampling:
        generator = torch.Generator().manual_seed(seed)
        return cls(levels_of(own, config, "test"), torch.randn(samples, *SHAPE, generator=generator))

    def of(self, samples: Sequence[int]) -> MixtureSampling:
        return replace(self, noise=self.noise[list(samples)])

    def noise_at(self, stepper: SamplerTable, step: int) -> None:
        """These samplers add none."""

    def begin(self, stepper: SamplerTable) -> Tensor:
        return stepper.begin(self.noise)

    def predict(self, stepper: SamplerTable, step: int, state: Tensor) -> Tensor:
        return self.predict_at(step, state[0])

    def predict_at(self, step: int, x: Tensor) -> Tensor:
        """x: [B, *SHAPE] as the sampler has it."""
        levels = self.levels
        alpha, sigma, scaled = levels.alpha[step], levels.sigma[step], x.double() * levels.scale[step]
        points = torch.randn(POINTS, *SHAPE, generator=torch.Generator().manual_seed(7)).double()
        variance = sigma**2 + (0.3 * alpha) ** 2  # each point is a small cloud
        distance = ((scaled[:, None] - alpha * points[None]) ** 2).flatten(2).sum(-1)
        shares = torch.softmax(-distance / (2 * variance), dim=1)
        shrunk = alpha * 0.09 / variance * scaled[:, None] + sigma**2 / variance * points[None]
        clean = (shares[..., None, None, None] * shrunk).sum(1)
        noise = (scaled - alpha * clean) / sigma
        made = {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "flow_prediction": noise - clean}
        return made[levels.kind].float()

"""What every planner is given, and what it must meet. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..models.flops import full_step_flops
from ..models.identity import rows_per_sample
from ..models.spec import ModelSpec
from .sensitivity import SensitivityMap


@dataclass(frozen=True, eq=False)
class Problem:
    """A model with a frozen sampler. sensitivity: what was measured of it; planners with a fixed rule need none.

    timesteps: of the steps, where they are known. prune_attention: tokens of self-attention may be renewed singly, too.
    """

    spec: ModelSpec
    sampler: str
    steps: int
    guidance: float
    sensitivity: SensitivityMap | None = None
    prune_attention: bool = False
    timesteps: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the model's batch for each sample: 2 with classifier-free guidance, else 1."""
        return rows_per_sample(self.guidance)

    @property
    def renewable(self) -> NDArray[np.bool_]:
        """Which of the leaf sites may compute a subset of their tokens, [P]."""
        sites = [self.spec.sites[k] for k in self.spec.leaves]
        return np.array([site.tokens > 0 and (site.kind != "attn" or self.prune_attention) for site in sites], bool)

    @property
    def full_flops(self) -> int:
        """FLOPs of computing everything at every step, for one sample."""
        return self.steps * full_step_flops(self.spec, self.rows)


@dataclass(frozen=True)
class Target:
    """How much a schedule may cost; 0 = not given. budget: number of anchors. flops_ratio: FLOPs of computing
    everything / FLOPs of the schedule."""

    budget: int = 0
    flops_ratio: float = 0.0

"""Options of the stages. Each is the only home of its name, type, default and help; the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .models.identity import SamplerIdentity, TokenScore
from .profile.sensitivity import Metric

DEFAULT_GUIDANCE = 1.5


@dataclass(frozen=True)
class SamplerRequest:
    """What the user asked of the sampler; what was not asked comes from the map or plan given, or the defaults."""

    sampler: Literal["ddim", "ddpm"] | None = None
    """Sampler. [default: the given map's or plan's, else ddim]"""
    steps: int | None = None
    """Denoising steps. [default: the given map's or plan's, else 50]"""
    eta: float | None = None
    """DDIM's share of DDPM's noise, 0..1. [default: the given map's or plan's, else 0]"""
    guidance: float | None = None
    """Classifier-free guidance scale; 1 or less turns it off. [default: the given map's or plan's, else 1.5]"""

    def resolve(self, given: SamplerIdentity | None = None, guidance: float = DEFAULT_GUIDANCE) -> SamplerOptions:
        """Fill in what was not asked."""
        base = given or SamplerIdentity("ddim", 50)
        return SamplerOptions(
            base.name if self.sampler is None else self.sampler,
            base.steps if self.steps is None else self.steps,
            base.eta if self.eta is None else self.eta,
            guidance if self.guidance is None else self.guidance,
        )


@dataclass(frozen=True)
class SamplerOptions:
    """The frozen sampler and guidance."""

    sampler: str
    steps: int
    eta: float
    guidance: float


@dataclass(frozen=True)
class ProfileOptions:
    """How to measure a model's sensitivity."""

    samples: int = 32
    """Random generations to average over."""
    seed: int = 0
    """Seed of their noise."""
    metric: Metric = "cosine"
    """How outputs are compared."""
    token_score: TokenScore = "mean"
    """Whose largest tokens are kept: channel mean of the module's input, its absolute value, or the cached output's."""
    profile_memory: float = 4.0
    """Most GB for the history of outputs; more layers than fit are profiled in several passes."""


@dataclass(frozen=True)
class BundleOptions:
    """What to make."""

    backend: str = "ort"
    """Engine library."""
    out: Path | None = None
    """Bundle folder. [default: engines/MODEL-bBUDGET-BACKEND, or MODEL-PLANFILE-BACKEND]"""

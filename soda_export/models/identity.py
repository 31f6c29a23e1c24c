"""What a map or a plan is bound to: which model, which sampler, which score picks tokens. No torch."""

from __future__ import annotations

from typing import Literal

import msgspec

from .spec import DenoiserSpec

TokenScore = Literal["mean", "abs-mean", "cached"]
"""Whose largest tokens are kept: the channel mean of the module's input, its absolute value, or the channel mean of
the cached output."""


class ModelIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model: its hash and the sizes that index a plan."""

    name: str
    hash: str
    num_layers: int
    modules: tuple[str, ...]
    num_tokens: int


class SamplerIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sampler and its number of steps. eta: DDIM's share of DDPM's noise. guided_channels: latent channels that
    guidance applies to, 0 = all."""

    name: str
    steps: int
    eta: float = 0.0
    guided_channels: int = 0


def same_model(a: ModelIdentity, b: ModelIdentity) -> bool:
    """Whether both are the same configuration and weights; the folder's name does not matter."""
    return a.hash == b.hash and (a.num_layers, a.modules, a.num_tokens) == (b.num_layers, b.modules, b.num_tokens)


def rows_per_sample(guidance: float) -> int:
    """Rows of the model's batch for each sample: 2 with classifier-free guidance (a scale above 1), else 1."""
    return 2 if guidance > 1.0 else 1


def identify(spec: DenoiserSpec) -> ModelIdentity:
    """The part of a model's description that a map or a plan is bound to."""
    return ModelIdentity(spec.name, spec.hash, spec.num_layers, spec.modules, spec.num_tokens)

"""What a map or a plan is bound to: which model, which sampler, which score picks tokens. No torch."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

from .spec import ModelSpec

TokenScore = Literal["mean", "abs-mean", "cached"]
"""Whose largest tokens are kept: the channel mean of the module's input, its absolute value, or the channel mean of
the cached output."""


class ModelIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The model: its hash, and the names of the sites that a plan decides about.

    sites: kind -> names of its sites. kinds: kind -> their numbers in the order in which the model computes them, which
    is the order of a schedule's columns, as in ModelSpec.kinds. tokens: kind -> how many tokens each of its sites has,
    one number where they agree; kinds whose tokens cannot be renewed singly are left out.
    """

    name: str
    hash: str
    sites: dict[str, tuple[str, ...]]
    kinds: dict[str, tuple[int, ...]]
    tokens: dict[str, int | tuple[int, ...]] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each site, [K]."""
        return tuple(name for _, name in sorted(self._numbered()))

    @cached_property
    def site_tokens(self) -> tuple[int, ...]:
        """Tokens of each site that may be renewed singly, [K]; 0 where none may."""
        found = [0] * len(self.names)
        for kind, given in self.tokens.items():
            numbers = self.kinds[kind]
            for k, tokens in zip(numbers, (given,) * len(numbers) if isinstance(given, int) else given, strict=True):
                found[k] = tokens
        return tuple(found)

    def _numbered(self) -> list[tuple[int, str]]:
        return [
            (k, name)
            for kind, names in self.sites.items()
            for k, name in zip(self.kinds[kind], names, strict=True)
        ]  # fmt: skip


class SamplerIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sampler and its number of steps. eta: DDIM's share of DDPM's noise. guided_channels: latent channels that
    guidance applies to, 0 = all."""

    name: str
    steps: int
    eta: float = 0.0
    guided_channels: int = 0


def same_model(a: ModelIdentity, b: ModelIdentity) -> bool:
    """Whether both are the same configuration, weights and sites; the folder's name does not matter."""
    return (a.hash, a.sites, a.kinds) == (b.hash, b.sites, b.kinds)


def rows_per_sample(guidance: float) -> int:
    """Rows of the model's batch for each sample: 2 with classifier-free guidance (a scale above 1), else 1."""
    return 2 if guidance > 1.0 else 1


def identify(spec: ModelSpec) -> ModelIdentity:
    """The part of a model's description that a map or a plan is bound to."""
    tokens: dict[str, int | tuple[int, ...]] = {}
    for kind, numbers in spec.kinds.items():
        counts = tuple(spec.sites[k].tokens for k in numbers)
        if any(counts):
            tokens[kind] = counts[0] if len(set(counts)) == 1 else counts
    names = {kind: tuple(spec.sites[k].name for k in numbers) for kind, numbers in spec.kinds.items()}
    return ModelIdentity(spec.name, spec.hash, names, dict(spec.kinds), tokens)

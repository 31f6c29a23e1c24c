"""A model as the planner sees it: its sites, what a request gives, and sizes. No torch."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

STACK = "stack"
"""Kind of the site that is the last block's output: given, no block runs. It contains every other site."""
DEEP = "deep"
"""Kind of the site that is a UNet's deep feature (DeepCache)."""

MASK, MASKED_LATENTS = "mask", "masked_latents"
"""Ports of a model that was made for inpainting: 1 where it draws, and the latents of the picture without that."""

IS_NEGATIVE = "is_negative"
"""Port of kind row, of models that treat unconditional rows in another way."""


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named value of the model's graph, or several values of one call, that a plan decides about.

    name: path of the module whose output it is. kind: what sites of all layers have in common: attn, ff, stack and so
    on. depth: 0 for the first layer .. 1 for the last. outputs: shape of each value, for one row of the batch. inside:
    name of the innermost site that contains it, "" for none.

    tokens: how many tokens may be renewed singly; 0 where they may not be. flops: for one row, what vanishes when the
    outputs are given, without that of the sites inside. once_flops: the same for what is computed once a step for all
    rows. kept_flops: (a, b), for one row with k tokens renewed: a + b k. All in the convention of docs/concepts.md.
    """

    name: str
    kind: str
    depth: float
    outputs: tuple[tuple[int, ...], ...]
    flops: int
    once_flops: int = 0
    tokens: int = 0
    kept_flops: tuple[int, int] = (0, 0)
    inside: str = ""

    @property
    def elements(self) -> int:
        """Numbers in all outputs of one row."""
        return sum(_product(shape) for shape in self.outputs)

    @property
    def keep_quantum(self) -> int:
        """Kept-token counts are multiples of this: 16, which fills a GEMM tile; less where tokens are few."""
        return 16 if self.tokens >= 128 else max(1, self.tokens // 8)


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input that a request gives, row by row. shape: of one row, () for a number.

    label: class 0 .. num_classes - 1; rows that guidance steers away from take null_class. embedding and mask (1 =
    attend): of a text; those rows take the negative prompt's. hint: a picture in 0..1, or what a model for
    inpainting takes beside its latents, and scalar: a number, 0 .. `most`, `default` where the request says nothing;
    all rows of a sample take it. row: no request gives it; it is 1 in the rows that guidance steers away from, else 0.
    """

    name: str
    kind: Literal["label", "embedding", "mask", "hint", "scalar", "row"]
    shape: tuple[int, ...] = ()
    num_classes: int = 0
    null_class: int = 0
    default: float = 0.0
    most: float = 1000.0

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """Type of its numbers."""
        return "int64" if self.kind in ("label", "mask") else "float32"


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Sites in the order in which the model computes them, what contains a site behind it.

    hash: SHA-256 of the configuration and the weights. latent_shape: of one sample, 1 to 4 axes, as the model takes
    it. prediction_shape: of one row of the model's output; its first axis may be longer than the latents', where the
    model also predicts a variance.
    """

    name: str
    family: str
    hash: str
    sites: tuple[Site, ...]
    ports: tuple[Port, ...]
    latent_shape: tuple[int, ...]
    prediction_shape: tuple[int, ...]
    output: Literal["pixels", "latents"]

    @cached_property
    def index(self) -> dict[str, int]:
        """Site name -> its number."""
        return {site.name: k for k, site in enumerate(self.sites)}

    @cached_property
    def kinds(self) -> dict[str, tuple[int, ...]]:
        """Kind -> numbers of its sites, in the order of first use; the stack's last."""
        found: dict[str, list[int]] = {}
        for k, site in enumerate(self.sites):
            found.setdefault(site.kind, []).append(k)
        return {kind: tuple(found[kind]) for kind in sorted(found, key=lambda kind: kind == STACK)}

    @cached_property
    def stack(self) -> int | None:
        """Number of the site that contains all others, if the model has one."""
        return self.kinds[STACK][0] if STACK in self.kinds else None

    @cached_property
    def containers(self) -> tuple[tuple[int, ...], ...]:
        """For each site the numbers of the sites that contain it, innermost first."""
        chains = []
        for site in self.sites:
            chain: list[int] = []
            while site.inside:
                chain.append(self.index[site.inside])
                site = self.sites[chain[-1]]
            chains.append(tuple(chain))
        return tuple(chains)

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Numbers of the sites that contain no other."""
        outer = {site.inside for site in self.sites}
        return tuple(k for k, site in enumerate(self.sites) if site.name not in outer)

    def port(self, kind: str) -> Port | None:
        """The first port of that kind."""
        return next((port for port in self.ports if port.kind == kind), None)


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result

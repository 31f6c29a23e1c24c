"""What a model family is, as data: which class, what its arguments are, which module outputs a plan may decide about.

A family is one record (models/families/) and one test. Everything else, from profiling to engines, reads this record
and the unmodified diffusers module. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .recipe import NO_TEXT, TextRecipe
from .spec import Port


@dataclass(frozen=True)
class SiteRule:
    """Modules whose outputs are sites.

    path: module path, with * for each number; `transformer_blocks.-1` is the last one, `up_blocks.-2` the one before.
    outputs: which of the values that the module returns, where it returns several; () where it returns one tensor. A
    value that the model returns as None in some layer is left out there. last_outputs: instead, for the last such
    module, where the model drops a value (an MMDiT's last context). contains: where its outputs are given, other sites
    need not be computed, and count as inside it; the stack contains all.

    renew: how some tokens can be renewed singly. "tokens": the module works token by token, so it is called with the
    kept tokens alone. "queries": the kept tokens attend to all, so it is called with the kept ones, and with all tokens
    as `encoder_hidden_states`. Tokens are axis 1 of its first argument.
    """

    path: str
    kind: str
    outputs: tuple[int, ...] = ()
    last_outputs: tuple[int, ...] = ()
    renew: Literal["", "tokens", "queries"] = ""
    contains: bool = False


@dataclass(frozen=True)
class Latents:
    """An argument of forward that takes the latents [R, *latent_shape]. beside: ports whose values follow these along
    the channels."""

    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timestep:
    """An argument that takes the step's timestep [R], times `scale`."""

    scale: float = 1.0


@dataclass(frozen=True)
class Request:
    """An argument that takes what a request gives under `port`: [R, *shape], or [R] for a label or number. change: what
    the pipeline makes of it first, in torch."""

    port: str
    change: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Constant:
    """An argument that is the same in every call: `make(sizes)` gives nested dicts of tensors, or a tensor. A row axis
    is left to the record: make(sizes) with one row, `rows` says that it is repeated for each row."""

    make: Callable[[Sizes], Any]
    rows: bool = False


@dataclass(frozen=True)
class Combined:
    """An argument made of a constant and of what the request gives: combine(constant [R, ...], *values of the ports
    [R, ...]), in torch. make: as a Constant's with one row."""

    make: Callable[[Sizes], Any]
    ports: tuple[str, ...]
    combine: Callable[..., Any]


Argument = Latents | Timestep | Request | Constant | Combined | Mapping[str, Request | Constant | Combined]


@dataclass(frozen=True)
class Size:
    """Of what a model makes, in pixels, 0 where its configuration decides. frames, fps: of a clip, 0 for pictures.
    seconds: of a sound."""

    height: int = 0
    width: int = 0
    frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Sizes:
    """What a family reads off a configuration. config: of the denoiser, defaults filled in, and whether its
    pipeline has AESTHETICS (published.py). parts: of the other parts of the pipeline, by name. text_tokens: length that
    prompts are padded to. size: the family's, with what the user chose of it."""

    config: Mapping[str, Any]
    parts: Mapping[str, Any]
    text_tokens: int
    size: Size = Size()
    latent_shape: tuple[int, ...] = ()

    def latent_sides(self, own: int) -> tuple[int, int]:
        """Height and width in latents: of what the user chose, else of a square whose side is `own`."""
        side = self.pixels_per_latent
        return (self.size.height // side, self.size.width // side) if self.size.height else (own, own)

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that the autoencoder makes of a latent; 8 where nothing is known of it."""
        vae = self.parts.get("vae")
        return pixels_per_latent(vae) if vae else 8


def pixels_per_latent(vae: Mapping[str, Any]) -> int:
    """The same, of an autoencoder's configuration: each of its levels but one halves the image."""
    given = vae.get("scale_factor_spatial")
    if given:
        return int(given)
    levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or vae.get("dim_mult")
    return 1 << (len(levels) - 1) if levels else 8


@dataclass(frozen=True)
class Family:
    """One family of denoisers.

    classes: diffusers classes. arguments: of forward, by name, those of a dict by its keys; what is not named keeps its
    default. latent_shape, prediction_shape, ports: read off the sizes. sites: in any order, as the model's run
    tells it. once: paths of linear layers that count once a step, whatever the batch (adaLN).
    blocks: paths of the blocks, several in one text where they take turns; 3 FLOPs count for an entry of each's output
    (docs/concepts.md).
    guidance: "rows" = two rows a sample; "port" = a number that the model takes; "none" = distilled away.
    texts: how prompts become ports (recipe.py); text_tokens: length that they are padded to.
    size: of what it makes unless the user chooses; with frames where it makes clips. any_size: whether the user may
    choose the height and width; cuts: these need not be multiples of what a latent covers, the rest is cut off.
    sounds: whether it makes sounds, whose length the user may choose.
    shift: by which a scheduler with use_timestep_transform shifts timesteps.
    check(path, config) refuses what would not be reproduced exactly.
    """

    name: str
    classes: tuple[str, ...]
    arguments: Mapping[str, Argument]
    sites: tuple[SiteRule, ...]
    latent_shape: Callable[[Sizes], tuple[int, ...]]
    prediction_shape: Callable[[Sizes], tuple[int, ...]]
    ports: Callable[[Sizes], tuple[Port, ...]]
    steps: int
    default_guidance: float
    blocks: tuple[str, ...]
    once: tuple[str, ...] = ()
    guidance: Literal["rows", "port", "none"] = "rows"
    text_tokens: int = 0
    text_tokens_by_pipeline: Mapping[str, int] = field(default_factory=dict)
    texts: TextRecipe = NO_TEXT
    patch: int = 0
    any_size: bool = False
    size: Size = Size()
    cuts: bool = False
    sounds: bool = False
    image_tokens: Callable[[Sizes], int] = lambda sizes: 0
    shift: Callable[[Sizes], float] = lambda sizes: 1.0
    uniform_sigmas: bool = False
    adapt: Callable[[Family, Mapping[str, Any]], Family] = lambda family, config: family
    check: Callable[[Path, Mapping[str, Any]], None] = lambda path, config: None

"""The seam between a model family and everything else: a diffusion transformer cut into traceable pieces.

    conditioning = conditioning(labels or nothing, tables)       once per request
    context = context(text embeddings, mask)                     once per request, where the condition is a text
    x = embed(latents)                                           every step
    for layer, module:  y = module(normalize(x, its conditioning), its context);  x = residual(x, y, its gate)
    output = head(x, its conditioning)

Every piece is an nn.Module whose forward is plain tensor code, so one trace of it serves all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .context import TextContext
from .spec import DenoiserSpec, LabelCondition

CONDITIONING = "conditioning"


class DenoiserModule(nn.Module):
    """One kind of module (attn, ff, ...) of one layer. Its output is the cached quantity: before the gate."""

    def normalize(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Hidden states [R, N, D] -> the module's input [R, N, D]; token selection scores it."""
        raise NotImplementedError

    def forward(self, inputs: Tensor, *context: Tensor) -> Tensor:
        """The module for all tokens: [R, N, D] -> [R, N, D]. context: tensors of the request, as TextContext has."""
        raise NotImplementedError

    def kept(self, inputs: Tensor, kept: Tensor, *context: Tensor) -> Tensor:
        """All tokens' inputs [R, N, D] and the kept tokens' [R, keep, D] -> output of the kept ones [R, keep, D]."""
        raise NotImplementedError


class Denoiser(Protocol):
    """A loaded model of a supported family, in evaluation mode and float32."""

    spec: DenoiserSpec
    conditioning: nn.Module
    """(labels [R] where the condition is a label, *tables [W, ...]) -> conditioning [W, R, entries, D], or
    [W, 1, entries, D] where all rows share it."""
    context: TextContext | None
    """The text side, where the condition is a text."""
    embed: nn.Module
    """latents [R, C, H, W] -> x [R, N, D]."""
    head: nn.Module
    """(x [R, N, D], *conditions [R or 1, 1, D]) -> the model's prediction [R, out_channels, H, W]."""

    def module(self, layer: int, name: str) -> DenoiserModule:
        """The module `name` of a layer."""

    def residual(self, name: str) -> nn.Module:
        """How a module's output joins: (x [R, N, D], y [R, N, D], *gate conditions [R or 1, 1, D]) -> x."""

    def module_conditions(self, layer: int, name: str) -> tuple[int, ...]:
        """Which conditioning entries its normalize takes."""

    def module_context(self, layer: int, name: str) -> tuple[str, ...]:
        """Names of the context tensors that it takes."""

    def gate_conditions(self, layer: int, name: str) -> tuple[int, ...]:
        """Which conditioning entries its residual takes."""

    def head_conditions(self) -> tuple[int, ...]:
        """Which conditioning entries the head takes."""

    @property
    def num_conditions(self) -> int:
        """Entries of the conditioning tensor."""

    def tables(self, timesteps: tuple[float, ...]) -> dict[str, Tensor]:
        """Constants of the frozen timesteps that conditioning reads: name -> [S, ...] float32."""


@dataclass(frozen=True)
class LabelRows:
    """Class labels int64 [R], the conditional half first."""

    labels: Tensor


@dataclass(frozen=True)
class TextRows:
    """Text embeddings float32 [R, T, E] and their mask int64 [R, T], the conditional half first."""

    embeds: Tensor
    mask: Tensor


def label_rows(labels: Tensor, spec: DenoiserSpec, rows: int) -> LabelRows:
    """Labels [B] with the unconditional half behind them where there are two rows a sample."""
    assert isinstance(spec.condition, LabelCondition)
    null = torch.full_like(labels, spec.condition.null_class)
    return LabelRows(torch.cat([labels, null]) if rows == 2 else labels)


class Prepared:
    """What a request's condition comes to for one denoiser and its frozen timesteps."""

    def __init__(self, denoiser: Denoiser, timesteps: tuple[float, ...], rows: LabelRows | TextRows) -> None:
        self._denoiser, self._tables = denoiser, tuple(denoiser.tables(timesteps).values())
        self._labels = (rows.labels,) if isinstance(rows, LabelRows) else ()
        self._context: dict[str, Tensor] = {}
        if isinstance(rows, TextRows):
            assert denoiser.context is not None
            self._context = denoiser.context(rows.embeds, rows.mask)

    @torch.no_grad()
    def conditioning(self, step: int) -> Tensor:
        """The conditioning of a step: [R or 1, entries, D]."""
        made: Tensor = self._denoiser.conditioning(*self._labels, *(t[step : step + 1] for t in self._tables))
        return made[0]

    def context(self, layer: int, name: str) -> tuple[Tensor, ...]:
        """What module `name` of a layer takes beside its inputs."""
        return tuple(self._context[key] for key in self._denoiser.module_context(layer, name))


ModuleOutput = Callable[[int, str, Callable[[], Tensor]], Tensor]
"""(layer, module, its inputs [R, N, D] when called) -> the module's output [R, N, D]"""


def call_denoiser(
    denoiser: Denoiser, latents: Tensor, conditioning: Tensor, module_output: ModuleOutput
) -> tuple[Tensor, Tensor]:
    """One model call with every module's output supplied by `module_output`.

    latents [R, C, H, W], conditioning [R or 1, entries, D] -> prediction [R, out_channels, H, W] and the last block's
    output [R, N, D].
    """
    x: Tensor = denoiser.embed(latents)
    for layer in range(denoiser.spec.num_layers):
        for name in denoiser.spec.modules:

            def inputs(x: Tensor = x, layer: int = layer, name: str = name) -> Tensor:
                conditions = _entries(conditioning, denoiser.module_conditions(layer, name))
                return denoiser.module(layer, name).normalize(x, *conditions)

            y = module_output(layer, name, inputs)
            x = denoiser.residual(name)(x, y, *_entries(conditioning, denoiser.gate_conditions(layer, name)))
    return call_head(denoiser, x, conditioning), x


def call_head(denoiser: Denoiser, hidden: Tensor, conditioning: Tensor) -> Tensor:
    """The last block's output [R, N, D] -> prediction [R, out_channels, H, W]."""
    prediction: Tensor = denoiser.head(hidden, *_entries(conditioning, denoiser.head_conditions()))
    return prediction


def _entries(conditioning: Tensor, entries: tuple[int, ...]) -> list[Tensor]:
    """Conditioning entries [R or 1, 1, D]."""
    return [conditioning[:, entry, None] for entry in entries]

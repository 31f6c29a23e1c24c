"""The seam between a model family and everything else: a diffusion transformer cut into traceable pieces.

    conditioning = prepare(labels, tables)                       once per request
    x = embed(latents)                                           every step
    for layer, module:  y = module(normalize(x, its conditioning));  x = residual(x, y, its gate)
    output = head(x, its conditioning)

Every piece is an nn.Module whose forward is plain tensor code, so one trace of it serves all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from .spec import DenoiserSpec

CONDITIONING = "conditioning"


class DenoiserModule(nn.Module):
    """One kind of module (attn, ff, ...) of one layer. Its output is the cached quantity: before the gate."""

    def normalize(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Hidden states [R, N, D] -> the module's input [R, N, D]; token selection scores it."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """The module for all tokens: [R, N, D] -> [R, N, D]."""
        raise NotImplementedError

    def kept(self, inputs: Tensor, kept: Tensor) -> Tensor:
        """All tokens' inputs [R, N, D] and the kept tokens' [R, keep, D] -> output of the kept ones [R, keep, D]."""
        raise NotImplementedError


class Denoiser(Protocol):
    """A loaded model of a supported family, in evaluation mode and float32."""

    spec: DenoiserSpec
    prepare: nn.Module
    """(labels [R], *tables [W, ...]) -> conditioning [W, R, entries, D]."""
    embed: nn.Module
    """latents [R, C, H, W] -> x [R, N, D]."""
    residual: nn.Module
    """(x [R, N, D], y [R, N, D], *gate conditions [R, 1, D]) -> x."""
    head: nn.Module
    """(x [R, N, D], *conditions [R, 1, D]) -> the model's prediction [R, C, H, W]."""

    def module(self, layer: int, name: str) -> DenoiserModule:
        """The module `name` of a layer."""

    def module_conditions(self, layer: int, name: str) -> tuple[int, ...]:
        """Which conditioning entries its normalize takes."""

    def gate_conditions(self, layer: int, name: str) -> tuple[int, ...]:
        """Which conditioning entries its residual takes."""

    def head_conditions(self) -> tuple[int, ...]:
        """Which conditioning entries the head takes."""

    @property
    def num_conditions(self) -> int:
        """Entries of the conditioning tensor."""

    def tables(self, timesteps: tuple[int, ...]) -> dict[str, Tensor]:
        """Constants of the frozen timesteps that prepare reads: name -> [S, ...] float32."""


ModuleOutput = Callable[[int, str, Callable[[], Tensor]], Tensor]
"""(layer, module, its inputs [R, N, D] when called) -> the module's output [R, N, D]"""


def call_denoiser(
    denoiser: Denoiser, latents: Tensor, conditioning: Tensor, module_output: ModuleOutput
) -> tuple[Tensor, Tensor]:
    """One model call with every module's output supplied by `module_output`.

    latents [R, C, H, W], conditioning [R, entries, D] -> prediction [R, C, H, W] and the last block's output [R, N, D].
    """

    def conditions(entries: tuple[int, ...]) -> list[Tensor]:
        return [conditioning[:, entry, None] for entry in entries]

    x: Tensor = denoiser.embed(latents)
    for layer in range(denoiser.spec.num_layers):
        for name in denoiser.spec.modules:

            def inputs(x: Tensor = x, layer: int = layer, name: str = name) -> Tensor:
                return denoiser.module(layer, name).normalize(x, *conditions(denoiser.module_conditions(layer, name)))

            y = module_output(layer, name, inputs)
            x = denoiser.residual(x, y, *conditions(denoiser.gate_conditions(layer, name)))
    return denoiser.head(x, *conditions(denoiser.head_conditions())), x

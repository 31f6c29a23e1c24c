"""A UNet and its ControlNets (Zhang et al. 2023) as one module, so that one trace and one program hold both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .family import Family, Request, SiteRule, Sizes
from .spec import IS_NEGATIVE, Port

_GUESS_MODE = "guess_mode"
KIND, UNET, CONTROLS = "ControlNetModel", "unet", "controls"
_MUST_AGREE = {
    "block_out_channels": "block_out_channels", "cross_attention_dim": "cross_attention_dim",
    "in_channels": "out_channels", "layers_per_block": "layers_per_block",
}  # fmt: skip
"""Of a ControlNet -> of the UNet: it takes the latents alone, without what a UNet for inpainting takes beside them."""


@dataclass(frozen=True)
class Control:
    """A ControlNet: its configuration, where that stands, and the folder of its weights, None for random ones."""

    config: Mapping[str, Any]
    path: Path
    folder: Path | None


class ControlledUNet(nn.Module):
    """Called as StableDiffusionControlNetPipeline calls the two: the ControlNets' residuals, summed, go into the UNet.

    hints: name -> picture [R, 3, H, W] in 0..1. scales: name -> [R], what each ControlNet's residuals are times.
    guess_mode: [R], 1: residuals grow from a tenth to the whole along the layers, and unconditional rows get none.
    is_negative: [R], 1 in these rows.
    """

    def __init__(self, unet: nn.Module, controls: Sequence[nn.Module]) -> None:
        super().__init__()
        self.unet = unet
        self.controls = nn.ModuleList(_Residuals(control) for control in controls)

    @property
    def config(self) -> Any:
        """The UNet's."""
        return self.unet.config

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, hints: Mapping[str, Tensor],
        scales: Mapping[str, Tensor], guess_mode: Tensor, is_negative: Tensor, timestep_cond: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None, return_dict: bool = False,
    ) -> Any:  # fmt: skip
        channels = self.unet.config.out_channels  # type: ignore[union-attr]
        latents = sample if sample.shape[1] == channels else sample[:, :channels]
        if pools(self.controls[0].controlnet.config):  # type: ignore[union-attr, arg-type]  # as pipelines have it
            guess_mode = torch.ones_like(guess_mode)
        kept = 1 - guess_mode * is_negative
        made = [
            control(latents, timestep, encoder_hidden_states, hint, scale * kept, guess_mode, timestep_cond,
                    added_cond_kwargs)
            for control, hint, scale in zip(self.controls, hints.values(), scales.values(), strict=True)
        ]  # fmt: skip
        *down, middle = (sum(same[1:], same[0]) for same in zip(*made, strict=True))
        return self.unet(
            sample, timestep, encoder_hidden_states=encoder_hidden_states, timestep_cond=timestep_cond,
            added_cond_kwargs=added_cond_kwargs, down_block_additional_residuals=tuple(down),
            mid_block_additional_residual=middle, return_dict=return_dict,
        )  # fmt: skip


class _Residuals(nn.Module):
    """A ControlNet whose residuals are one flat tuple, the middle's last: the values of one site."""

    def __init__(self, controlnet: nn.Module) -> None:
        super().__init__()
        self.controlnet = controlnet

    def forward(
        self, sample: Tensor, timestep: Tensor, text: Tensor, hint: Tensor, scale: Tensor, guess_mode: Tensor,
        timestep_cond: Tensor | None, added_cond_kwargs: dict[str, Tensor] | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        down, middle = self.controlnet(
            sample, timestep, encoder_hidden_states=text, controlnet_cond=hint,
            conditioning_scale=scale.to(sample.dtype).reshape(-1, 1, 1, 1), timestep_cond=timestep_cond,
            added_cond_kwargs=added_cond_kwargs, return_dict=False,
        )  # fmt: skip
        residuals = (*down, middle)
        if pools(self.controlnet.config):  # type: ignore[arg-type]
            return residuals
        last = len(residuals) - 1
        shares = [torch.exp(math.log(10.0) * (k / last - 1) * guess_mode) for k in range(last)]  # 0.1 .. 1
        weakened = (r * share.to(r.dtype).reshape(-1, 1, 1, 1) for r, share in zip(residuals[:-1], shares, strict=True))
        return (*weakened, residuals[-1])


def pools(config: Mapping[str, Any]) -> bool:
    """Whether a ControlNet's residuals are means over the picture (Shuffle)."""
    return bool(config.get("global_pool_conditions"))


def controlled_family(family: Family, controls: Sequence[Control], config: Mapping[str, Any]) -> Family:
    """The record of a UNet with ControlNets: their residuals are one site each, which a plan may reuse. Each has two
    ports, its picture and its scale; `guess_mode` is that of all. config: of the UNet. Raises ModelError where one does
    not fit the UNet."""
    suffixes = ["", *(f"_{i}" for i in range(2, len(controls) + 1))]
    for control in controls:
        for key, own in _MUST_AGREE.items():
            ours, theirs = _plain(config[own]), _plain(control.config.get(key, config[own]))
            if ours != theirs:
                raise ModelError(f"{control.path}: {key}={theirs}, but the UNet has {ours}; it is another model's")
    sites = [replace(rule, path=f"{UNET}.{rule.path}") for rule in family.sites]
    blocks, layers = len(config["block_out_channels"]), config["layers_per_block"]
    in_blocks = blocks * layers if isinstance(layers, int) else sum(layers)
    count = 1 + in_blocks + (blocks - 1) + 1  # of conv_in, the layers, all downsamplers and the middle
    residuals = SiteRule(f"{CONTROLS}.*", "control", outputs=tuple(range(count)))
    arguments = {
        **family.arguments,
        "hints": {f"hint{s}": Request(f"hint{s}") for s in suffixes},
        "scales": {f"control_scale{s}": Request(f"control_scale{s}") for s in suffixes},
        "guess_mode": Request(_GUESS_MODE), "is_negative": Request(IS_NEGATIVE),
    }

    def ports(sizes: Sizes) -> tuple[Port, ...]:
        made = list(family.ports(sizes))
        for suffix, control in zip(suffixes, controls, strict=True):
            halvings = len(control.config.get("conditioning_embedding_out_channels") or range(4)) - 1
            height, width = (side << halvings for side in sizes.latent_shape[1:])
            made.append(Port(f"hint{suffix}", "hint", (control.config.get("conditioning_channels", 3), height, width)))
            made.append(Port(f"control_scale{suffix}", "scalar", default=1.0))
        return (*made, Port(_GUESS_MODE, "scalar", most=1.0), Port(IS_NEGATIVE, "row"))

    prefixed = (f"{CONTROLS}.*", *(f"{UNET}.{path}" for path in family.blocks))
    return replace(family, sites=(residuals, *sites), blocks=prefixed, arguments=arguments, ports=ports)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value

"""A UNet and its ControlNets (Zhang et al. 2023) as one module, so that one trace and one program hold both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from .family import Family, Request, SiteRule, Sizes
from .spec import Port

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
        scales: Mapping[str, Tensor], timestep_cond: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None, return_dict: bool = False,
    ) -> Any:  # fmt: skip
        channels = self.unet.config.out_channels  # type: ignore[union-attr]
        latents = sample if sample.shape[1] == channels else sample[:, :channels]
        made = [
            control(latents, timestep, encoder_hidden_states, hint, scale, timestep_cond, added_cond_kwargs)
            for control, hint, scale in zip(self.controls, hints.values(), scales.values(), strict=True)
        ]
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
        self, sample: Tensor, timestep: Tensor, text: Tensor, hint: Tensor, scale: Tensor, timestep_cond: Tensor | None,
        added_cond_kwargs: dict[str, Tensor] | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        down, middle = self.controlnet(
            sample, timestep, encoder_hidden_states=text, controlnet_cond=hint,
            conditioning_scale=scale.to(sample.dtype).reshape(-1, 1, 1, 1), timestep_cond=timestep_cond,
            added_cond_kwargs=added_cond_kwargs, return_dict=False,
        )  # fmt: skip
        return (*down, middle)


def controlled_family(family: Family, controls: Sequence[Control], config: Mapping[str, Any]) -> Family:
    """The record of a UNet with ControlNets: their residuals are one site each, which a plan may reuse. Each has two
    ports, its picture and its scale. config: of the UNet. Raises ModelError where one does not fit the UNet."""
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
    }

    def ports(sizes: Sizes) -> tuple[Port, ...]:
        made = list(family.ports(sizes))
        for suffix, control in zip(suffixes, controls, strict=True):
            halvings = len(control.config.get("conditioning_embedding_out_channels") or range(4)) - 1
            side = sizes.latent_shape[1] << halvings
            made.append(Port(f"hint{suffix}", "hint", (control.config.get("conditioning_channels", 3), side, side)))
            made.append(Port(f"control_scale{suffix}", "scalar", default=1.0))
        return tuple(made)

    prefixed = (f"{CONTROLS}.*", *(f"{UNET}.{path}" for path in family.blocks))
    return replace(family, sites=(residuals, *sites), blocks=prefixed, arguments=arguments, ports=ports)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value

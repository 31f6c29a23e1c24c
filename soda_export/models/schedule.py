"""A scheduler's configuration, with what the family's pipeline adds to it when it sets the timesteps. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def pipeline_schedule(
    config: Mapping[str, Any], image_tokens: int, uniform_sigmas: bool, shift: float = 1.0
) -> dict[str, Any]:
    """`mu`: the shift for an image of so many tokens, where the scheduler shifts by them; 0: not known.
    `uniform_sigmas`: the pipeline gives the noise levels linspace(1, 1/S, S), which the scheduler then shifts.
    `shift`: of RFlow where it has use_timestep_transform."""
    made = dict(config)
    if config.get("use_dynamic_shifting") and image_tokens:
        made["mu"] = _shift(config, image_tokens)
    if uniform_sigmas:
        made["uniform_sigmas"] = True
    if config.get("use_timestep_transform"):
        made["shift"] = shift
    return made


def _shift(config: Mapping[str, Any], image_tokens: int) -> float:
    """A line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift), as in diffusers."""
    least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (most - least)
    return float(image_tokens * slope + (low - slope * least))

"""Open-Sora's rectified flow (Liu et al. 2022) as a scheduler like diffusers': z += v dt, v = clean - noise."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor


class RFlowScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """timesteps: 1000 (1 - i / S), each t / 1000 then shifted to shift t / (1 + (shift - 1) t). The last step ends at
    0. Before a step latents are (1 - t) clean + t noise.

    use_timestep_transform: whether `shift` follows from the video's size (models/schedule.py).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, num_train_timesteps: int = 1000, shift: float = 1.0, use_timestep_transform: bool = False
    ) -> None:
        if not shift > 0:
            raise ValueError(f"shift={shift} must be above 0")
        self.timesteps = torch.zeros(0, dtype=torch.float64)

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Spread the timesteps of a run."""
        even = 1 - torch.arange(num_inference_steps, dtype=torch.float64) / num_inference_steps
        shift = self.config.shift
        self.timesteps = self.config.num_train_timesteps * shift * even / (1 + (shift - 1) * even)

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> SimpleNamespace:
        """The latents after the step that begins at `timestep`."""
        now = int((self.timesteps - timestep).abs().argmin())
        after = float(self.timesteps[now + 1]) if now + 1 < len(self.timesteps) else 0.0
        length = (float(self.timesteps[now]) - after) / self.config.num_train_timesteps
        return SimpleNamespace(prev_sample=sample + length * model_output)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Clean latents and noise [B, ...] as they are before a step. timestep: [B], or [1] for all."""
        share = timestep.to(sample.dtype).reshape(-1, *(1,) * (sample.ndim - 1)) / self.config.num_train_timesteps
        mixed: Tensor = (1 - share) * sample + share * noise
        return mixed

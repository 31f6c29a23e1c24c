"""Turn a diffusers scheduler into a table of affine maps, by probing it in float64.

With the timesteps fixed, a step of DDIM or DDPM maps the latents x and the model's output e to
    model input = s * x,    x' = A * x + b * e + c * noise.
The coefficients are what the scheduler answers to basis vectors; an extra random probe proves that it is affine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ModelError

SAMPLERS = ("ddim", "ddpm")
_CONFIG = "scheduler/scheduler_config.json"
_BETA_SCHEDULERS = (
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler",
    "LMSDiscreteScheduler", "DEISMultistepScheduler",
)  # fmt: skip
_SHAPE = (1, 1, 8, 8)
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class SamplerTable:
    """A frozen sampler of S steps with a state of n tensors (n = 1: the latents alone).

    coefficients: float32 [S, 1 + n*n + 2n], a row being s, A (row by row), b, c. stochastic: some c is not zero.
    """

    name: str
    timesteps: tuple[int, ...]
    state_size: int
    initial_scale: float
    coefficients: NDArray[np.float32]

    @property
    def steps(self) -> int:
        """Number of model calls."""
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        return bool(np.any(self.coefficients[:, -self.state_size :]))

    def begin(self, noise: Tensor) -> Tensor:
        """Initial noise [B, C, H, W] -> the state z = (x, h1..) [n, B, C, H, W]."""
        state = torch.zeros(self.state_size, *noise.shape)
        state[0] = noise * self.initial_scale
        return state

    def model_input(self, step: int, state: Tensor) -> Tensor:
        """What the model is called with: [B, C, H, W]."""
        return float(self.coefficients[step, 0]) * state[0]

    def advance(self, step: int, state: Tensor, output: Tensor, noise: Tensor | None) -> Tensor:
        """z' = A z + b * output + c * noise; output and noise are [B, C, H, W]."""
        row, n = torch.from_numpy(self.coefficients[step]), self.state_size
        a, b, c = row[1 : 1 + n * n].reshape(n, n), row[1 + n * n : 1 + n * n + n], row[1 + n * n + n :]
        column = (n, *[1] * output.ndim)
        state = torch.einsum("ij,j...->i...", a, state) + b.reshape(column) * output
        return state if noise is None else state + c.reshape(column) * noise


def guide(output: Tensor, rows: int, guidance: float | Tensor) -> Tensor:
    """Classifier-free guidance: the model's output [R, ...] -> [B, ...]. The conditional half comes first."""
    if rows == 1:
        return output
    conditional, unconditional = output.reshape(2, -1, *output.shape[1:]).unbind(0)
    return unconditional + guidance * (conditional - unconditional)


def make_scheduler(sampler: str, config: dict[str, Any]) -> Any:
    """The diffusers scheduler of that name with the model's own noise schedule. Raises ModelError."""
    from diffusers import DDIMScheduler, DDPMScheduler

    classes = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}
    own_class = config.get("_class_name", "DDIMScheduler")
    if own_class not in _BETA_SCHEDULERS:
        raise ModelError(
            f"{_CONFIG}: {own_class!r} has no noise schedule that {sampler} could follow; "
            f"supported: {', '.join(_BETA_SCHEDULERS)}"
        )
    if sampler not in classes:
        raise ModelError(f"--sampler {sampler}: not supported; choose one of {', '.join(SAMPLERS)}")
    clips_unless_told = own_class in ("DDIMScheduler", "DDPMScheduler")  # diffusers' default of these two
    config = {"clip_sample": clips_unless_told, "thresholding": False, **config}
    for switch in ("clip_sample", "thresholding"):
        if config[switch]:
            raise ModelError(
                f"{_CONFIG}: {switch}=true makes the sampler non-affine, so it cannot be frozen "
                f"into a table; set it to false if your model allows"
            )
    if str(config.get("variance_type", "")).startswith("learned"):
        if sampler == "ddpm":
            raise ModelError(f"{_CONFIG}: a learned variance is not affine; use --sampler ddim")
        config = {key: value for key, value in config.items() if key != "variance_type"}
    try:
        return classes[sampler].from_config(config)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(f"{_CONFIG}: diffusers refuses it: {' '.join(str(error).split())}") from None


def freeze_sampler(sampler: str, config: dict[str, Any], steps: int, eta: float = 0.0) -> SamplerTable:
    """Probe the scheduler `sampler` over a run of `steps` steps. eta: DDIM's share of DDPM's noise, 0..1."""
    scheduler = make_scheduler(sampler, config)
    limit = scheduler.config.num_train_timesteps
    if not 1 <= steps <= limit:
        raise ModelError(f"--steps {steps}: the scheduler was trained with {limit} timesteps; choose 1..{limit}")
    if eta and sampler != "ddim":
        raise ModelError(f"--eta {eta}: only ddim takes it; {sampler} always adds its own noise")
    if not 0.0 <= eta <= 1.0:
        raise ModelError(f"--eta {eta}: must be within 0 .. 1")
    options = {"eta": eta} if sampler == "ddim" else {}
    try:
        scheduler.set_timesteps(steps)
        timesteps = tuple(int(t) for t in scheduler.timesteps)
        rows = [_probe_step(scheduler, t, options, f"{sampler} step {i}") for i, t in enumerate(timesteps)]
    except (IndexError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{_CONFIG}: {sampler} cannot make {steps} steps of it: {reason}") from None
    return SamplerTable(sampler, timesteps, 1, float(scheduler.init_noise_sigma), np.array(rows, np.float32))


def _probe_step(scheduler: Any, timestep: int, options: dict[str, Any], where: str) -> list[float]:
    zero = torch.zeros(_SHAPE, dtype=torch.float64)
    noise = torch.randn(_SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def step(sample: Tensor, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)  # draws `noise` again
        result: Tensor = scheduler.step(output, timestep, sample, generator=generator, **options).prev_sample
        return result

    offset = step(zero, zero)
    c = float((offset * noise).sum() / (noise * noise).sum())
    a = float((step(zero + 1, zero) - offset).mean())
    b = float((step(zero, zero + 1) - offset).mean())
    s = float(scheduler.scale_model_input(zero + 1, timestep).mean())
    probe = torch.Generator().manual_seed(1)
    x, e = (100 * torch.randn(_SHAPE, dtype=torch.float64, generator=probe) for _ in range(2))
    expected, answer = a * x + b * e + c * noise, step(x, e)
    # written so that a NaN, which compares false, is refused, too
    if not float((expected - answer).abs().max()) <= _TOLERANCE * float(answer.abs().max() + 1):
        raise ModelError(f"{where}: {type(scheduler).__name__} is not a finite affine map of latents and model output")
    return [s, a, b, c]

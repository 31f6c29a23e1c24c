"""Turn one step of a diffusers scheduler into the affine map that it applies, by asking it about basis vectors.

The scheduler walks once through its run. Before each step everything it remembers is overwritten with a batch of
probes, whose rows it treats alike: zero, one basis vector of each part of the state, one of the model's output, and
random values that prove the answer.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError

_PIXELS = (1, 8, 8)
# These compute in float32 whatever they are given. The others round nothing below float64.
_FLOAT32_SCHEDULERS = (
    "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
)  # fmt: skip
_PNDM_OUTPUTS = 4
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(frozen=True)
class StepMap:
    """Model input = s x; z' = A z + b e + c noise, over all P parts (x, h1..hK, last_sample) of a scheduler's state.

    h1 is the newest of the *converted* model outputs that multistep schedulers keep. a: [P, P], b and c: [P].
    log_variance: the logarithms (min, max) between which a learned variance lies, else empty; c is 1 or 0 then.
    """

    s: float
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    c: NDArray[np.float64]
    log_variance: tuple[float, ...]


def probe_step(scheduler: Any, step: int, options: dict[str, Any], learned_variance: bool, where: str) -> StepMap:
    """Measure step number `step` and leave the scheduler at the next one. Raises ModelError where it is not affine."""
    name, timestep = type(scheduler).__name__, scheduler.timesteps[step]
    dtype = torch.float32 if name in _FLOAT32_SCHEDULERS else torch.float64
    remembered = [part is not None for part in _history(scheduler)]
    state, output, variance = _probes(remembered)
    answer_row, parts = len(state) + 2, len(state)  # rows: zero, parts, output, random
    _overwrite(scheduler, state[1:])

    # flow-matching schedulers scale nothing
    scaled = scheduler.scale_model_input(state[0], timestep) if hasattr(scheduler, "scale_model_input") else state[0]
    s = float(scaled[1].mean())
    noise = torch.randn(1, *_PIXELS, dtype=dtype, generator=torch.Generator().manual_seed(0)).double()
    if "generator" in inspect.signature(scheduler.step).parameters:  # one a row, so that all rows get `noise`
        options = {**options, "generator": [torch.Generator().manual_seed(0) for _ in output]}
    given = torch.cat([output, variance], dim=1) if learned_variance else output
    log_variance = tuple(_log_variance(scheduler, timestep)) if learned_variance else ()
    x = scheduler.step(given.to(dtype), timestep, state[0], **options).prev_sample
    after = torch.stack([x, *(torch.zeros_like(x) if h is None else h for h in _history(scheduler))]).double()

    offset = after[:, 0]  # what is left when state and output are 0: noise
    c = (offset * noise).sum((1, 2, 3)) / (noise * noise).sum()
    a = (after[:, 1 : 1 + parts] - offset[:, None]).mean((2, 3, 4))
    b = (after[:, 1 + parts] - offset).mean((1, 2, 3))
    if learned_variance:
        low, high = log_variance
        std = torch.exp(0.25 * torch.tensor(low + high, dtype=torch.float64))  # at v = 0, as in all but the last row
        c = (c / std).round()
        fraction = (variance[answer_row] + 1) / 2
        noise = noise * torch.exp(0.5 * (fraction * high + (1 - fraction) * low))
    expected = torch.einsum("jk,k...->j...", a, state[:, answer_row]) + b[:, None, None, None] * output[answer_row]
    expected = expected + c[:, None, None, None] * noise
    errors = (expected - after[:, answer_row]).abs().amax((1, 2, 3)) / (after[:, answer_row].abs().amax((1, 2, 3)) + 1)
    scale_error = (s * state[0, answer_row] - scaled[answer_row]).abs().max() / (scaled.abs().max() + 1)
    # written so that a NaN, which compares false, is refused, too
    if not all(error <= _TOLERANCE[dtype] for error in (*errors.tolist(), float(scale_error))):
        raise ModelError(f"{where}: {name} is not a finite affine map of latents and model output")
    return StepMap(s, a.numpy(), b.numpy(), c.numpy(), log_variance)


def _probes(remembered: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """State [P, R, 1, 8, 8], model output and variance [R, 1, 8, 8]; a part not remembered yet stays 0."""
    parts = 1 + len(remembered)
    state = torch.zeros(parts, parts + 3, *_PIXELS, dtype=torch.float64)
    output, variance = torch.zeros_like(state[0]), torch.zeros_like(state[0])
    generator = torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randn(_PIXELS, generator=generator).double()  # float32 values, so that a cast loses nothing

    for k, known in enumerate([True, *remembered]):
        if known:
            state[k, 1 + k] = 1.0
            state[k, -1] = 100 * draw()  # far beyond any clipping
    output[1 + parts] = 1.0
    output[-1], variance[-1] = 100 * draw(), torch.tanh(draw())
    return state, output, variance


def _history(scheduler: Any) -> list[Tensor | None]:
    """What the scheduler remembers beside the latents, newest first; UniPC's corrector needs the last sample, PNDM's
    second step the first sample."""
    if hasattr(scheduler, "ets"):
        return [*scheduler.ets[::-1], *[None] * (_PNDM_OUTPUTS - len(scheduler.ets)), scheduler.cur_sample]
    outputs = list(getattr(scheduler, "model_outputs", ()))[::-1]
    return [*outputs, scheduler.last_sample] if hasattr(scheduler, "last_sample") else outputs


def _overwrite(scheduler: Any, probes: Tensor) -> None:
    """Replace what it remembers. What is still None stays so: the scheduler's order depends on it."""
    if hasattr(scheduler, "ets"):
        scheduler.ets = [probes[k] for k in range(len(scheduler.ets))][::-1]
        scheduler.cur_sample = None if scheduler.cur_sample is None else probes[_PNDM_OUTPUTS]
        return
    count = len(getattr(scheduler, "model_outputs", ()))
    for k in range(count):
        if scheduler.model_outputs[-1 - k] is not None:
            scheduler.model_outputs[-1 - k] = probes[k]
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = probes[count]


def _log_variance(scheduler: Any, timestep: Tensor) -> list[float]:
    """DDPMScheduler's own min_log and max_log, its clamp included: its answers to v = -1 and v = 1."""
    bounds: list[float] = scheduler._get_variance(timestep, predicted_variance=torch.tensor([-1.0, 1.0])).tolist()
    return bounds

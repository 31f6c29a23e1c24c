"""SADA's released decisions and fills, written out over diffusers' own schedulers, one sample at a time.

Facts from the released code (github.com/Ting-Justin-Jiang/sada-icml at 8148bde, sada/solver.py): what is compared, with
which signs and weights, which steps are open to it, and what stands in for a prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Predict = Callable[[int, Tensor], Tensor]
"""(step, latents) -> guided prediction"""


@dataclass
class Settings:
    """Of 50 steps, as published for SD-2 and SDXL."""

    first: int = 10
    last: int = 47
    multistep: int = 24
    period: int = 4
    nodes: int = 4
    most: int = 4


@dataclass
class Run:
    """What a run did: 0 computed, 1 step-wise, 2 multistep; and the means whose signs it went by."""

    latents: Tensor
    decisions: list[int] = field(default_factory=list)
    means: list[float] = field(default_factory=list)


def run_released(scheduler: Any, predict: Predict, noise: Tensor, settings: Settings) -> Run:
    """DPMSolverMultistepScheduler or EulerDiscreteScheduler, set to its timesteps. noise: [1, C, H, W]."""
    is_euler = type(scheduler).__name__.startswith("Euler")
    steps, kind = len(scheduler.timesteps), scheduler.config.prediction_type
    x = noise * scheduler.init_noise_sigma
    run, count = Run(x), 0
    before: list[Tensor] = []  # derivatives
    nodes: list[tuple[int, Tensor]] = []
    last = torch.zeros_like(x)  # prediction
    action, estimate = 0, x
    for i, timestep in enumerate(scheduler.timesteps):
        run.decisions.append(action)
        sigma = float(scheduler.sigmas[i])
        alpha = 1 / (sigma**2 + 1) ** 0.5
        level = sigma * alpha  # of noise in variance-preserving scale
        size = alpha if is_euler else 1.0  # of x there
        if action == 0:
            last = predict(i, x)
            clean = _clean(kind, last, x * size, alpha, level)
        elif action == 1:
            clean = _clean(kind, last, x * size if is_euler and kind == "v_prediction" else estimate, alpha, level)
        else:
            clean = sum(
                (node * _weight(i, t, [other for other, _ in nodes]) for t, node in nodes), torch.zeros_like(x)
            )
        if i % settings.period == 1:
            nodes = [*nodes, (i, clean)][-settings.nodes :]
        after = _advance(scheduler, timestep, x, clean, is_euler)
        beta = float(scheduler.betas[int(timestep)])
        if kind == "epsilon":
            derivative = -0.5 * beta * steps * (x * size) + 0.5 * beta * steps / level * last
        else:
            derivative = 0.5 * beta * steps / level * alpha * last
        action = 0
        if len(before) >= 2:
            one, two = before[-1], before[-2]
            estimate = x * size - (0.625 * derivative + 0.75 * one - 0.375 * two) / steps
            following = float(scheduler.sigmas[i + 1])
            there = after * (1 / (following**2 + 1) ** 0.5 if is_euler else 1.0)
            mean = float(((there - estimate) * (derivative - 2 * one + two)).mean())
            run.means.append(mean)
            if count >= settings.most:
                pass
            elif mean <= 0 and settings.first <= i < settings.multistep:
                action = 1
            elif i % settings.period and settings.multistep <= i < settings.last:
                action = 2
        else:
            run.means.append(float("nan"))
        count = count + 1 if action else 0
        before = [*before, derivative][-2:]
        x = after
    run.latents = x
    return run


def run_released_flow(scheduler: Any, predict: Predict, noise: Tensor, settings: Settings) -> Run:
    """FlowMatchEulerDiscreteScheduler; multistep is where every step but each fourth is skipped without a look."""
    run, x, count, action = Run(noise), noise, 0, 0
    history: list[Tensor] = []  # what the transformer gave, or is taken to have given
    for i in range(len(scheduler.timesteps)):
        run.decisions.append(action)
        history = [*history, predict(i, x) if action == 0 else history[-1]][-3:]
        used = history[-1] if action == 0 else 2 * history[-2] - history[-3]
        x = x + float(scheduler.sigmas[i + 1] - scheduler.sigmas[i]) * used
        action = 0
        if len(history) == 3:
            mean = float((-(used - history[-2]) + (history[-2] - history[-3])).mean())
            run.means.append(mean)
            if count < settings.most and i < settings.last:
                tested = settings.first <= i < settings.multistep and mean <= 0
                action = int(tested or (i >= settings.multistep and i % settings.period > 0))
        else:
            run.means.append(float("nan"))
        count = count + 1 if action else 0
    run.latents = x
    return run


def _clean(kind: str, prediction: Tensor, x: Tensor, alpha: float, sigma: float) -> Tensor:
    return (x - sigma * prediction) / alpha if kind == "epsilon" else alpha * x - sigma * prediction


def _weight(step: int, node: int, others: list[int]) -> float:
    weight = 1.0
    for other in others:
        if other != node:
            weight *= (step - other) / (node - other)
    return weight


def _advance(scheduler: Any, timestep: Tensor, x: Tensor, clean: Tensor, is_euler: bool) -> Tensor:
    """The scheduler's own step with this clean sample in the place of what it would make of a prediction."""
    if is_euler:
        i = scheduler.timesteps.tolist().index(float(timestep))
        sigma, following = float(scheduler.sigmas[i]), float(scheduler.sigmas[i + 1])
        return x + (x - clean) / sigma * (following - sigma)
    scheduler.convert_model_output = lambda *_, **__: clean
    moved: Tensor = scheduler.step(clean, timestep, x).prev_sample
    return moved

"""Latents as diffusers' pipelines draw and pack them: equal generators give equal noise."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from soda_runtime import Noise
from soda_runtime.manifest import Manifest
from torch import Generator, Tensor

from ..errors import RequestError

Generators = Generator | Sequence[Generator] | None


def unpacked_shape(manifest: Manifest, size: tuple[int, int]) -> tuple[int, ...]:
    """Latents of one sample as the autoencoder has them: packed ones, [tokens, 4 C], are [C, h, w] there, h and w even.
    size: height and width of the picture, for its ratio; zeros where it is not known."""
    shape = tuple(manifest.model.latent_shape)
    if len(shape) != 2:
        return shape
    tokens, channels = shape
    rows = isqrt(tokens * size[0] // size[1]) if all(size) else isqrt(tokens)
    if not rows or tokens % rows:
        raise RequestError(f"{tokens} tokens of latents are no rectangle; give packed latents")
    return (channels // 4, 2 * rows, 2 * (tokens // rows))


def pack(latents: Tensor, manifest: Manifest) -> Tensor:
    """[n, C, h, w] as the model takes it: [n, *latent_shape]."""
    if len(manifest.model.latent_shape) != 2:
        return latents
    packed: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


def draw_initial(manifest: Manifest, samples: int, generator: Generators, size: tuple[int, int]) -> NDArray[np.float32]:
    """Noise as prepare_latents draws it: [samples, *latent_shape]. Raises RequestError."""
    check_generators(generator, samples)
    drawn = _draw((samples, *unpacked_shape(manifest, size)), generator)
    return np.ascontiguousarray(pack(drawn, manifest).numpy())


def draw_noise(
    manifest: Manifest, initial: NDArray[np.float32], generator: Generators, first: int
) -> Noise:
    """The same with what a stochastic scheduler draws at each of the steps from `first` on."""
    if not manifest.sampler.stochastic:
        return Noise(initial)
    steps = np.zeros((manifest.sampler.steps, *initial.shape), np.float32)
    for step in range(first, manifest.sampler.steps):
        steps[step] = _draw(initial.shape, generator).numpy()
    return Noise(initial, steps)


def check_generators(generator: Generators, samples: int) -> None:
    """One for all samples, or one for each. Raises RequestError."""
    if generator is None or isinstance(generator, Generator):
        return
    if not isinstance(generator, (list, tuple)) or not all(isinstance(each, Generator) for each in generator):
        raise RequestError("generator: give a torch.Generator, or a list of them")
    if len(generator) not in (1, samples):
        raise RequestError(f"{len(generator)} generators for {samples} samples; give one, or one per sample")


def _draw(shape: tuple[int, ...], generator: Generators) -> Tensor:
    given: Any = generator if generator is None or isinstance(generator, Generator) else list(generator)
    drawn: Tensor = randn_tensor(shape, generator=given, device=_device(given), dtype=torch.float32).cpu()
    return drawn


def _device(generator: Any) -> torch.device:
    """Where numbers are drawn: those of a GPU's generator are others than a CPU's."""
    first = generator[0] if isinstance(generator, list) else generator
    return torch.device("cpu") if first is None else first.device

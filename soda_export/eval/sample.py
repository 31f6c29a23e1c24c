"""Samples of seeds: what a plan, the unaccelerated model or a bundle draws, all from the same noise."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from soda_runtime import Bundle
from soda_runtime.manifest import EmbeddingPort, HintPort, LabelPort, Manifest, MaskPort
from soda_runtime.philox import INITIAL_STREAM, normal
from soda_runtime.policy import FULL
from torch import Tensor

from ..eager.adaptive import run_policy
from ..eager.reference import run_reference
from ..eager.sampling import Sampling
from ..export.decoders import decoder_source, open_decoder
from ..lower.lower import lower_plan
from ..lower.program import ProgramTable
from ..plan.plan import Plan
from ..plan.schedule import Schedule
from ..policy.adaptive import AdaptivePolicy
from ..workbench.pipeline import Workbench
from .conditions import SeedConditions, held_out_hints, model_prompts
from .seeds import seed_noise

log = logging.getLogger(__name__)
Images = NDArray[np.float32]
"""[B, 1 or 3, H, W] or clips [B, frames, 3, H, W] in 0..1; sounds [B, channels, samples] in -1..1"""


@dataclass(frozen=True)
class Drawn:
    """Samples of some seeds. images: None where latents are not pixels and there is no decoder. prompts: one a sample,
    or none. calls: model calls of each sample [B], where a policy decided."""

    latents: NDArray[np.float32]
    images: Images | None
    prompts: tuple[str, ...] = ()
    calls: NDArray[np.int64] | None = None


class SampleSource(Protocol):
    """Anything that draws samples."""

    def draw(self, seeds: range) -> Drawn:
        """The sample of each seed, together in one batch."""


class ModelSamples:
    """Eager samples of one model with its frozen sampler (soda_export/eager/reference.py), for any plan."""

    def __init__(self, bench: Workbench, hints: Path | None = None) -> None:
        self.bench, self._spec = bench, bench.loaded.spec
        self._conditions = SeedConditions(bench, hints)

    def of_table(self, table: ProgramTable) -> SampleSource:
        """Samples of a lowered plan that fits the model."""
        return _Eager(self, lambda seeds: self._run(table, seeds))

    def of_policy(self, policy: AdaptivePolicy) -> SampleSource:
        """Samples that decide for themselves."""
        return _Deciding(self, policy)

    def sampling(self, seeds: range) -> Sampling:
        """The seeds as a batch that any sampler may lead to its end."""
        bench = self.bench
        noise, steps = self._noise(seeds)
        return Sampling(
            bench.eager, bench.eager.place(self._conditions(seeds)), noise, bench.options.guidance, bench.rows,
            bench.options.guided_channels, steps,
        )  # fmt: skip

    def of_reference(self, seeds: range, batch: int, progress: Callable[[int, int], None]) -> SampleSource:
        """Samples of `seeds` with everything computed, drawn once and kept in the stage store for every later plan."""
        bench = self.bench
        inputs = {
            "model": self._spec, "scheduler": bench.loaded.scheduler_config, "sampler": bench.options,
            "prompts": self._conditions.prompts, "seeds": [seeds.start, seeds.stop],
            "text_encoder": bench.components.text_hashes if self._conditions.prompts else {},
            **self._conditions.hints_key,
        }  # fmt: skip

        def make(folder: Path) -> None:
            table, parts = lower_plan(compute_everything(bench), self._spec), []
            for part in batches(seeds, batch):
                parts.append(self._run(table, part))
                progress(part.stop - seeds.start, len(seeds))
            np.save(folder / "latents.npy", np.concatenate(parts))

        latents = np.load(bench.store.produce("reference", inputs, make) / "latents.npy")
        return _Eager(self, lambda part: latents[part.start - seeds.start : part.stop - seeds.start])

    def images(self, latents: NDArray[np.float32]) -> Images | None:
        """Pixels of the model's latents."""
        if self._spec.output == "pixels":
            return np.clip(latents / 2 + 0.5, 0.0, 1.0)
        if self._decoder is None:
            return None
        with torch.no_grad():
            image: Images = self._decoder(torch.from_numpy(latents)).numpy()
        return image

    @cached_property
    def _decoder(self) -> Any:
        source = decoder_source(self.bench.loaded)
        return None if source is None or source.seed is not None else open_decoder(source).module()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in turn; none for class labels or without a text encoder."""
        return self._conditions.prompts

    def prompts_of(self, seeds: range) -> tuple[str, ...]:
        """The prompt of each seed, or none at all."""
        return self._conditions.prompts_of(seeds)

    def _run(self, table: ProgramTable, seeds: range) -> NDArray[np.float32]:
        noise, steps = self._noise(seeds)
        latents: NDArray[np.float32] = run_reference(
            self.bench.eager, self.bench.sampler, table, self._conditions(seeds), noise, steps
        ).numpy()
        return latents

    def _noise(self, seeds: range) -> tuple[Tensor, Tensor | None]:
        sampler = self.bench.sampler
        noise = seed_noise(seeds, self._spec.latent_shape, sampler.steps if sampler.stochastic else 0)
        return torch.from_numpy(noise.initial), None if noise.steps is None else torch.from_numpy(noise.steps)


@dataclass(frozen=True)
class _Eager:
    samples: ModelSamples
    latents_of: Callable[[range], NDArray[np.float32]]

    def draw(self, seeds: range) -> Drawn:
        latents = self.latents_of(seeds)
        return Drawn(latents, self.samples.images(latents), self.samples.prompts_of(seeds))


@dataclass(frozen=True)
class _Deciding:
    samples: ModelSamples
    policy: AdaptivePolicy

    def draw(self, seeds: range) -> Drawn:
        result = run_policy(self.samples.sampling(seeds), self.policy)
        latents: NDArray[np.float32] = result.latents.cpu().numpy()
        return Drawn(latents, self.samples.images(latents), self.samples.prompts_of(seeds), result.calls)


class BundleSamples:
    """Samples of a bundle by the runtime; accelerated=False plays it with everything computed.

    prompts: in turn, for a bundle with a text encoder; default those that its model's name is judged by. hints: folder
    of pictures for ControlNets, in place of the model's own.
    """

    def __init__(
        self, bundle: Bundle, *, accelerated: bool, prompts: Sequence[str] = (), hints: Path | None = None
    ) -> None:
        self._session, self._accelerated = bundle.session(), accelerated
        self._manifest = bundle.manifest
        self._prompts = prompts or model_prompts(self._manifest.model.name)
        ports = [port for port in self._manifest.ports if isinstance(port, HintPort)]
        self._hints = {
            name: pictures.numpy()
            for name, pictures in held_out_hints(self._manifest.model.name, ports, hints).items()
        }
        if accelerated and takes_embeddings_alone(self._manifest):
            log.warning("eval: the bundle has no text encoder, so random embeddings are used")

    def draw(self, seeds: range) -> Drawn:
        """The sample of each seed, together in one batch."""
        manifest = self._manifest
        steps = manifest.sampler.steps if manifest.sampler.stochastic else 0
        noise, request = seed_noise(seeds, manifest.model.latent_shape, steps), self._request(seeds)
        latents = self._session.generate(**request, noise=noise, accelerated=self._accelerated)
        images = self._images() if manifest.result_kind else None
        is_adaptive = self._session.playback.play == "adaptive"
        calls = (self._session.decisions == FULL).sum(axis=0) if is_adaptive else None
        return Drawn(latents, images, tuple(request.get("prompt", ())), calls)

    def _images(self) -> Images:
        """The result with its channels where a decoder has them."""
        made = self._session.result()
        return made if self._manifest.result_kind == "audio" else np.ascontiguousarray(np.moveaxis(made, -1, -3))

    def _request(self, seeds: range) -> dict[str, Any]:
        manifest = self._manifest
        for port in manifest.ports:
            if isinstance(port, LabelPort):
                return {"labels": [seed % port.num_classes for seed in seeds]}
        hints = {name: pictures[[seed % len(pictures) for seed in seeds]] for name, pictures in self._hints.items()}
        if manifest.tokenizers:
            return {"prompt": [self._prompts[seed % len(self._prompts)] for seed in seeds], "inputs": hints}
        made: dict[str, NDArray[Any]] = {}
        for port in manifest.ports:
            size = math.prod(port.shape)
            if isinstance(port, EmbeddingPort):
                rows = [normal(seed, INITIAL_STREAM, 1, size).reshape(port.shape) for seed in (*seeds, 0)]
                made[port.name] = np.stack(rows)
            elif isinstance(port, MaskPort):
                made[port.name] = np.ones((len(seeds) + 1, *port.shape), np.int64)
        given = {"inputs": {name: array[:-1] for name, array in made.items()} | hints}
        if manifest.rows_per_sample == 2:
            given["negative_inputs"] = {name: array[-1:] for name, array in made.items()}
        return given


def takes_embeddings_alone(manifest: Manifest) -> bool:
    """Whether a bundle is conditioned on text and has no text encoder."""
    return any(isinstance(port, EmbeddingPort) for port in manifest.ports) and not manifest.tokenizers


def compute_everything(bench: Workbench) -> Plan:
    """The plan of the unaccelerated model."""
    return bench.plan_of(Schedule.full(bench.loaded.spec, bench.sampler.steps), "everything computed")


def batches(seeds: range, batch: int) -> list[range]:
    """The seeds in order, `batch` at a time."""
    return [range(first, min(first + batch, seeds.stop)) for first in range(seeds.start, seeds.stop, batch)]

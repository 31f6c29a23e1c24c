"""Samples of several requests as one request of a session, whose results do not depend on who shares it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import RequestError
from ..judge import judge_request
from ..manifest import Manifest
from ..philox import INITIAL_STREAM, normal
from ..prompts import Truncation
from ..request import Noise, Request
from .api_error import ApiError
from .images_request import ImagesRequest

Pixels = NDArray[np.uint8]


@dataclass(eq=False)
class Sample:
    """Number `index` of a request's samples, and what will be its picture [H, W, channels]."""

    asked: ImagesRequest
    index: int
    arrived: float
    picture: Future[Pixels] = field(default_factory=Future)

    @property
    def is_wanted(self) -> bool:
        """Whether whoever asked for it still waits."""
        return not self.picture.cancelled()


def merge_samples(samples: Sequence[Sample]) -> Request:
    """All with the same `together`; without their noise. Those that a policy decides about decide alone, so that none
    depends on its neighbours."""
    first = samples[0].asked
    fields: dict[str, Any] = {name: [sample.asked.texts[name] for sample in samples] for name in first.together.texts}
    if first.labels:
        fields["labels"] = [sample.asked.labels[sample.index] for sample in samples]
    fields["inputs"] = {
        name: np.array([sample.asked.inputs[name] for sample in samples], np.float32) for name in first.together.inputs
    }
    policy = first.together.policy
    return Request(
        **fields, size=first.together.size, batch=len(samples), guidance=first.together.guidance, policy=policy,
        vote="sample" if policy == "adaptive" else "",
    )  # fmt: skip


def noise_of(samples: Sequence[Sample], manifest: Manifest) -> Noise:
    """Of each sample's own seed and number, which is what `Session.generate` makes of the seed. manifest: of their
    size."""
    sampler, shape = manifest.sampler, manifest.model.latent_shape
    count = int(np.prod(shape))

    def stream(number: int) -> NDArray[np.float32]:
        rows = [normal(sample.asked.seed, number, sample.index, count) for sample in samples]
        return np.stack(rows).reshape(len(samples), *shape)

    steps = np.stack([stream(1 + i) for i in range(sampler.steps)]) if sampler.stochastic else None
    return Noise(stream(INITIAL_STREAM), steps)


def judge_asked(asked: ImagesRequest, bundle: Bundle) -> tuple[Truncation, ...]:
    """By the runtime's own rules, before it shares a batch with others: its prompts that are cut. Raises ApiError."""
    try:
        sized = bundle.at(asked.together.size)
        request = merge_samples([Sample(asked, 0, 0.0)])
        return judge_request(request, sized.manifest, sized.tokenize, sized.vocabulary, sized.tables).truncated
    except RequestError as error:
        raise ApiError(400, str(error)) from None

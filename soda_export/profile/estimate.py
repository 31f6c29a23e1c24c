"""What a profile will take, from its first few model calls."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from ..eager.conditions import Conditions
from ..eager.model import EagerModel
from ..plan.sensitivity import MAX_INTERVAL, MapInfo
from ..sampler import SamplerTable
from .accumulate import ErrorSums
from .generations import WatchedBatch
from .subset import Watched

_CALLS = 3  # the first warms up, the second compares with one output, the third with two


@dataclass(frozen=True)
class ProfileCost:
    """seconds: of the whole profile. bytes: of the weights and the history. share: of the tokens that are compared."""

    seconds: float
    bytes: int
    share: float


def time_profile(
    model: EagerModel, sampler: SamplerTable, info: MapInfo, conditions: Conditions, watched: Watched
) -> ProfileCost:
    """Time the first calls of the first batch. Their results are thrown away."""
    batch = WatchedBatch(
        model, sampler, info, conditions, range(watched.batch), watched, ErrorSums(sampler.steps, len(model.spec.sites))
    )
    state = batch.sampling.begin(sampler)
    calls, comparisons = [], [0.0]
    for step in range(min(_CALLS, sampler.steps)):
        started = time.perf_counter()
        prediction = batch.sampling.predict(sampler, step, state, batch.hook(step))
        calls.append(time.perf_counter() - started - batch.comparing)
        if step:
            comparisons.append(batch.comparing / step)
        state = batch.sampling.advance(sampler, step, state, prediction)
    intervals = sum(min(step, MAX_INTERVAL) for step in range(sampler.steps))
    one = sampler.steps * min(calls) + intervals * comparisons[-1]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.module.parameters())
    return ProfileCost(one * math.ceil(info.samples / watched.batch), weights + watched.bytes, watched.share)

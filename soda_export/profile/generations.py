"""A batch of generations, everything computed, in which each site's outputs are compared with its older ones."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from ..eager.conditions import Conditions
from ..eager.model import EagerModel
from ..eager.sampling import Sampling, StepHook, run_noise
from ..eager.sites import SiteCall
from ..models.spec import STACK
from ..plan.sensitivity import MapInfo
from ..sampler import SamplerTable
from .accumulate import ErrorSums
from .history import SiteHistory
from .subset import Watched, tokens_and_width


class WatchedBatch:
    """The generations of the samples with the numbers `batch`, whose errors go into `sums`.

    comparing: seconds that the comparisons of the last step took.
    """

    def __init__(
        self, model: EagerModel, sampler: SamplerTable, info: MapInfo, conditions: Conditions, batch: range,
        watched: Watched, sums: ErrorSums,
    ) -> None:  # fmt: skip
        self.sampler, self.comparing = sampler, 0.0
        self._sums = sums
        rows, spec = model.rows_for(info.guidance), model.spec
        noise, step_noise = run_noise(info.seed, batch, spec.latent_shape, sampler)
        self.sampling = Sampling(
            model, model.place(conditions.rows(batch, rows)), noise, info.guidance, rows, info.sampler.guided_channels,
            step_noise,
        )  # fmt: skip
        self._histories = [
            SiteHistory(
                [watched.chosen(tokens_and_width(shape)[0], info.seed) for shape in site.outputs], rows,
                "cosine" if site.kind == STACK else info.metric, info.token_score if site.tokens else None,
            )
            for site in spec.sites
        ]  # fmt: skip

    def run(self, advance: Callable[[int], None]) -> None:
        """The whole run. advance(number of steps done)."""
        self.sampling.run(self.sampler, self.hook, observe=lambda step, _: advance(step + 1))

    def hook(self, step: int) -> StepHook:
        """Computes every site of a step and compares what it gives."""
        self.comparing = 0.0

        def watch(k: int, call: SiteCall) -> tuple[Tensor, ...]:
            outputs = call.compute()
            started = time.perf_counter()
            errors = self._histories[k].compare(outputs, call.inputs)
            if len(errors):
                self._sums.add(step, k, errors.numpy())
            self.comparing += time.perf_counter() - started
            return outputs

        return StepHook(watch)

"""The project's reference interpreter: a plan in eager torch, as SODA's authors would run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soda_export.eager.model import EagerModel
from soda_export.eager.reference import run_reference
from soda_export.lower.lower import lower_plan
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.load import ModelRequest, load_model
from soda_export.plan.plan import Plan, read_plan
from soda_export.plan.schedule import Schedule
from soda_export.sampler import freeze_sampler

from .case import Case
from .eager import TORCH_DTYPES
from .systems import System


class ReferencePlayer:
    """run_reference on a plan, or on everything computed where there is none."""

    flops_ratio = 0.0
    computed: list[bool] | None = None

    def __init__(self, case: Case, system: System, shared: dict[str, Any]) -> None:
        torch.set_num_threads(case.threads)
        self.case, asked = case, case.sampler
        key = f"reference-{system.precision}"
        if key not in shared:
            loaded = load_model(ModelRequest(str(case.folder)))
            spec = loaded.spec
            learned = spec.prediction_shape[0] == 2 * spec.latent_shape[0]
            sampler = freeze_sampler(asked.sampler, loaded.scheduler_config, asked.steps, asked.eta, learned)
            shared[key] = EagerModel.of(loaded, dtype=TORCH_DTYPES[system.precision]), sampler
        self._model, self._sampler = shared[key]
        spec, path = self._model.spec, system.options["plan"]
        identity = SamplerIdentity(asked.sampler, asked.steps, asked.eta, asked.guided_channels)
        everything = Plan(identify(spec), identity, asked.guidance, Schedule.full(spec, asked.steps))
        self._table = lower_plan(read_plan(Path(path)) if path else everything, spec)

    def warm(self) -> None:
        """One request: a plan's steps differ, and the last kind may come late."""
        self.play(0)

    def play(self, request: int, steps: int = 0) -> NDArray[np.float32]:
        """Latents of a request; always all steps."""
        inputs = {port: torch.from_numpy(rows[request]) for port, rows in self.case.condition.items()}
        noise = torch.from_numpy(self.case.noise[request])
        latents: NDArray[np.float32] = run_reference(self._model, self._sampler, self._table, inputs, noise).numpy()
        return latents


def open_player(case: Case, system: System, shared: dict[str, Any]) -> ReferencePlayer:
    """The plan of the system's options, by the reference interpreter."""
    return ReferencePlayer(case, system, shared)

"""The project's reference interpreter: a plan in eager torch, as SODA's authors would run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soda_export.eager.reference import run_reference
from soda_export.lower.lower import lower_plan
from soda_export.models.blocks import TORCH_DTYPES
from soda_export.models.denoiser import LabelRows, TextRows
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.load import ModelRequest, load_model
from soda_export.plan.plan import Plan, read_plan
from soda_export.plan.schedule import Schedule
from soda_export.sampler import freeze_sampler

from .case import Case
from .systems import System


class ReferencePlayer:
    """run_reference on a plan, or on everything computed where there is none."""

    flops_ratio = 0.0
    computed: list[bool] | None = None

    def __init__(self, case: Case, system: System, shared: dict[str, Any]) -> None:
        torch.set_num_threads(case.threads)
        self.case, asked = case, case.sampler
        key = f"denoiser-{system.precision}"
        if key not in shared:
            loaded = load_model(ModelRequest(str(case.folder)))
            spec = loaded.spec
            learned = spec.out_channels == 2 * spec.latent_shape[0]
            sampler = freeze_sampler(asked.sampler, loaded.scheduler_config, asked.steps, asked.eta, learned)
            dtype = TORCH_DTYPES[system.precision]
            shared[key] = loaded.denoiser if dtype == torch.float32 else _Cast(loaded.denoiser, dtype), sampler
        self._denoiser, self._sampler = shared[key]
        spec, path = self._denoiser.spec, system.options["plan"]
        self._plan = read_plan(Path(path)) if path else _everything(spec, asked)
        self._table = lower_plan(self._plan, spec)

    def warm(self) -> None:
        """One request: a plan's steps differ, and the last kind may come late."""
        self.play(0)

    def play(self, request: int, steps: int = 0) -> NDArray[np.float32]:
        """Latents of a request; always all steps."""
        values = {name: torch.from_numpy(v[request]) for name, v in self.case.condition.items()}
        rows = LabelRows(values["labels"]) if "labels" in values else TextRows(values["embeds"], values["mask"])
        noise = torch.from_numpy(self.case.noise[request])
        latents: NDArray[np.float32] = run_reference(
            self._denoiser, self._sampler, self._table, rows, noise
        ).numpy()
        return latents


def open_player(case: Case, system: System, shared: dict[str, Any]) -> ReferencePlayer:
    """The plan of the system's options, by the reference interpreter."""
    return ReferencePlayer(case, system, shared)


def _everything(spec: Any, asked: Any) -> Plan:
    kept = np.full((asked.steps, spec.num_layers, len(spec.modules)), spec.num_tokens, np.int64)
    identity = SamplerIdentity(asked.sampler, asked.steps, asked.eta, asked.guided_channels)
    return Plan(identify(spec), identity, asked.guidance, Schedule.of(kept))


class _Cast:
    """A denoiser whose embedding, modules and head compute in another type; conditioning is made in float32, once."""

    def __init__(self, inner: Any, dtype: torch.dtype) -> None:
        self._inner, self._dtype = inner, dtype
        self.spec = inner.spec
        for layer in range(self.spec.num_layers):
            for name in self.spec.modules:
                inner.module(layer, name).to(dtype)
        self.embed = _Typed(inner.embed.to(dtype), dtype, dtype)
        self.head = _Typed(inner.head.to(dtype), dtype, torch.float32)
        self.conditioning = _Typed(inner.conditioning, None, dtype)
        self.context = None if inner.context is None else _cast_context(inner.context, dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Typed(nn.Module):
    def __init__(self, inner: nn.Module, takes: torch.dtype | None, gives: torch.dtype) -> None:
        super().__init__()
        self.inner, self._takes, self._gives = inner, takes, gives

    def forward(self, *inputs: Tensor) -> Tensor:
        """The inner module between two casts."""
        if self._takes is not None:
            inputs = tuple(tensor.to(self._takes) for tensor in inputs)
        output: Tensor = self.inner(*inputs)
        return output.to(self._gives)


def _cast_context(context: Any, dtype: torch.dtype) -> Any:
    def cast(*inputs: Tensor) -> dict[str, Tensor]:
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in context(*inputs).items()}

    return cast

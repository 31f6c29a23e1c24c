"""diffusers in eager torch: its model and its scheduler in the loop of its pipelines, and what other peers start from.

The scheduler's arithmetic stays in float32 in every precision, as in our bundles; the model alone computes in bfloat16.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soda_export.sampler import guide
from soda_export.sampler.scheduler import make_scheduler

from .case import Case
from .player import PeerError
from .systems import System

_WARM_STEPS = 2
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class DiffusersPlayer:
    """A diffusers transformer, with whatever was done to it. begin: called before every request."""

    flops_ratio = 0.0
    computed: list[bool] | None = None

    def __init__(self, case: Case, model: nn.Module, precision: str) -> None:
        self.case, self.model, self.dtype = case, model, TORCH_DTYPES[precision]
        channels = case.noise.shape[2]
        self.scheduler = make_scheduler(case.sampler.sampler, case.scheduler_config, model.out_channels == 2 * channels)
        self.begin: Callable[[], None] = lambda: None
        self.after_step: Callable[[], None] = lambda: None
        self.timestep, self.step = 0.0, 0
        self.rows = case.rows
        self.noise = torch.from_numpy(case.noise)
        self.inputs = [self._inputs(request) for request in range(case.requests)]

    def warm(self) -> None:
        """The first calls of a kernel choose its implementation."""
        self.play(0, _WARM_STEPS)

    @torch.no_grad()
    def play(self, request: int, steps: int = 0) -> NDArray[np.float32]:
        """As the pipelines do: the scheduler is set up for every request."""
        case, scheduler, channels = self.case, self.scheduler, self.noise.shape[2]
        scheduler.set_timesteps(case.sampler.steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        self.begin()
        latents = self.noise[request] * float(scheduler.init_noise_sigma)
        for self.step, t in enumerate(scheduler.timesteps[: steps or None]):
            self.timestep = float(t)
            rows = scheduler.scale_model_input(torch.cat([latents] * self.rows), t)
            output = self.call_model(rows, t, request)
            halves = torch.cat(output.chunk(self.rows)[::-1])  # guide() has the conditional half first
            guided = guide(halves, self.rows, case.sampler.guidance, case.sampler.guided_channels or channels, channels)
            latents = scheduler.step(guided[:, :channels], t, latents, return_dict=False)[0]
            self.after_step()
        result: NDArray[np.float32] = latents.numpy()
        return result

    def call_model(self, rows: Tensor, timestep: Tensor, request: int) -> Tensor:
        """The model's prediction, float32 [R, C or 2C, H, W], the unconditional half first."""
        output: Tensor = self.model(
            hidden_states=rows.to(self.dtype), timestep=timestep.expand(len(rows)), **self.inputs[request],
            return_dict=False,
        )[0]  # fmt: skip
        return output.float()

    def _inputs(self, request: int) -> dict[str, Any]:
        found = {}
        for name, values in self.case.condition.items():
            halves = torch.from_numpy(values[request]).chunk(self.rows)
            found[name] = torch.cat(halves[::-1])
        if "labels" in found:
            return {"class_labels": found["labels"]}
        if self.model.use_additional_conditions:
            raise PeerError("the benchmark has no image sizes to condition this model on")
        return {
            "encoder_hidden_states": found["embeds"].to(self.dtype), "encoder_attention_mask": found["attention_mask"],
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }  # fmt: skip


def load_model(case: Case, precision: str, shared: dict[str, Any]) -> nn.Module:
    """The diffusers transformer of the case; a new one each time, on weights that a process has once."""
    key = f"model-{precision}"
    if key not in shared:
        import diffusers

        torch.set_num_threads(case.threads)
        diffusers.utils.logging.set_verbosity_error()
        config = json.loads((case.folder / "transformer/config.json").read_text())
        kind = getattr(diffusers, config["_class_name"])
        model = kind.from_pretrained(case.folder / "transformer", torch_dtype=TORCH_DTYPES[precision])
        shared[key] = model.eval().requires_grad_(False)
    model = shared[key]
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def open_player(case: Case, system: System, shared: dict[str, Any]) -> DiffusersPlayer:
    """diffusers as it comes."""
    return DiffusersPlayer(case, load_model(case, system.precision, shared), system.precision)


def count_flops(player: DiffusersPlayer, shared: dict[str, Any]) -> None:
    """Play once and set the player's flops_ratio and computed: products and attention, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    if "step_flops" not in shared:
        plain = DiffusersPlayer(player.case, load_model(player.case, _precision(player), shared), _precision(player))
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            plain.play(0, 1)
        shared["step_flops"] = counter.get_total_flops()
    totals: list[int] = [0]
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        player.after_step = lambda: totals.append(counter.get_total_flops())
        player.play(0)
    player.after_step = lambda: None
    steps, full = np.diff(totals), shared["step_flops"]
    player.flops_ratio = float(full * len(steps) / max(1, steps.sum()))
    player.computed = [bool(flops > full / 2) for flops in steps]


def _precision(player: DiffusersPlayer) -> str:
    return next(name for name, dtype in TORCH_DTYPES.items() if dtype == player.dtype)

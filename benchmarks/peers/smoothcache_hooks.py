"""SmoothCache as its authors run it: hooks on the diffusers modules that return the last output where a plan reuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soda_export.plan.plan import read_plan

from .case import Case
from .eager import DiffusersPlayer, count_flops, load_model
from .player import PeerError
from .systems import System

_MODULES = {"attn": "attn1", "cross_attn": "attn2", "ff": "ff"}


class SkippingPlayer(DiffusersPlayer):
    """A model whose modules are called or not, by a plan that computes all tokens or none."""

    def __init__(self, case: Case, system: System, shared: dict[str, Any]) -> None:
        super().__init__(case, load_model(case, system.precision, shared), system.precision)
        plan = read_plan(Path(system.options["plan"]))
        computes = torch.from_numpy(plan.schedule.kept) == plan.model.num_tokens  # [S, L, M]
        if not (computes | (torch.from_numpy(plan.schedule.kept) == 0)).all() or (plan.schedule.stack >= 0).any():
            raise PeerError("the plan does more than to compute or reuse modules")
        self._shared = shared
        for layer, block in enumerate(self.model.transformer_blocks):
            for index, name in enumerate(plan.model.modules):
                inner = getattr(block, _MODULES[name])
                setattr(block, _MODULES[name], _Skipping(inner, computes[:, layer, index].tolist(), self))

    def warm(self) -> None:
        count_flops(self, self._shared)


class _Skipping(nn.Module):
    def __init__(self, inner: nn.Module, computes: list[bool], player: SkippingPlayer) -> None:
        super().__init__()
        self.inner, self.computes, self._player = inner, computes, [player]  # a list: no submodule
        self.latest: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The module, or what it gave last."""
        if self.computes[self._player[0].step]:
            self.latest = self.inner(*args, **kwargs)
        assert self.latest is not None
        return self.latest


def open_player(case: Case, system: System, shared: dict[str, Any]) -> DiffusersPlayer:
    """A plan of the smoothcache planner, in eager torch."""
    return SkippingPlayer(case, system, shared)

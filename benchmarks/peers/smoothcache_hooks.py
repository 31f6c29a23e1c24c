"""SmoothCache as its authors run it: hooks on the diffusers modules that return the last output where a plan reuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from soda_export.models.decisions import COMPUTE, REUSE
from soda_export.plan.plan import read_plan

from .case import Case
from .eager import DiffusersPlayer, count_flops, load_model
from .player import PeerError
from .systems import System


class SkippingPlayer(DiffusersPlayer):
    """A model whose sites are called or not, by a plan that computes or reuses them."""

    def __init__(self, case: Case, system: System, shared: dict[str, Any]) -> None:
        super().__init__(case, load_model(case, system.precision, shared), system.precision)
        plan = read_plan(Path(system.options["plan"]))
        computes = plan.schedule.work == COMPUTE  # [S, K]
        if not (computes | (plan.schedule.work == REUSE)).all():
            raise PeerError("the plan does more than to compute or reuse modules")
        self._shared = shared
        for site, column in zip(plan.model.names, computes.T, strict=True):
            if not column.all():
                where, _, name = site.rpartition(".")
                parent = self.model.get_submodule(where)
                setattr(parent, name, _Skipping(getattr(parent, name), column.tolist(), self))

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

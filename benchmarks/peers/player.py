"""The seam between the systems and the instrument: a player answers requests."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .case import Case
from .systems import System


class PeerError(Exception):
    """Why a system cannot run here, in words for the table."""


class Player(Protocol):
    """A system, opened. flops_ratio: counted while it warmed up, 0 where its plan says it. computed: which steps ran
    the blocks, for a cache that decides while it plays."""

    flops_ratio: float
    computed: list[bool] | None

    def warm(self) -> None:
        """Whatever must not be measured: compiling, calibrating, counting."""

    def play(self, request: int, steps: int = 0) -> NDArray[np.float32]:
        """Latents [B, C, H, W] of a request, after the first `steps` steps where it is not 0."""


def open_player(case: Case, system: System, shared: dict[str, Any]) -> Player:
    """Open a system. shared: what the systems of a process have in common. Raises PeerError and what libraries do."""
    module = importlib.import_module(f"peers.{system.kind}")
    player: Player = module.open_player(case, system, shared)
    return player

"""torch.compile of the diffusers model, weights frozen. Compiling is part of opening, not of the measurement."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import torch
import torch._inductor.config
from numpy.typing import NDArray
from torch import nn

from .case import Case
from .eager import DiffusersPlayer, load_model
from .player import PeerError
from .systems import System


class CompiledPlayer(DiffusersPlayer):
    """A model that is compiled at its first call. torch heeds freezing as a setting of the process alone, and silently
    ignores it among the options of a call."""

    def play(self, request: int, steps: int = 0) -> NDArray[np.float32]:
        with freezing():
            return super().play(request, steps)


def open_player(case: Case, system: System, shared: dict[str, Any]) -> DiffusersPlayer:
    """The model compiled whole, for the shapes of the case, with inductor's options as the system names them."""
    _prepare()
    model = load_model(case, system.precision, shared)
    model.forward = torch.compile(model.forward, fullgraph=True, dynamic=False, options=dict(system.options))
    return CompiledPlayer(case, model, system.precision)


def compile_blocks(case: Case, model: nn.Module, precision: str, shared: dict[str, Any]) -> None:
    """Compile what a cache's hooks leave whole, the blocks, once for all caches of a process."""
    _prepare()
    key = f"blocks-{precision}"
    if key not in shared:
        plain = load_model(case, precision, shared)
        blocks = plain.transformer_blocks
        shared[key] = [torch.compile(block.forward, fullgraph=True, dynamic=False) for block in blocks]
    for block, forward in zip(model.transformer_blocks, shared[key], strict=True):
        block.forward = forward


def freezing() -> Any:
    """Compile with weights as constants while this context lasts."""
    return torch._inductor.config.patch(freezing=True)


def _prepare() -> None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        raise PeerError("torch.compile needs a C++ compiler on the path")
    torch._dynamo.config.recompile_limit = 1000  # many models of one class in a process

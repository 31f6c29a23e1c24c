"""torch.compile of the diffusers model, weights frozen. Compiling is part of opening, not of the measurement."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import nn

from .case import Case
from .eager import DiffusersPlayer, load_model
from .player import PeerError
from .systems import System


def compile_blocks(model: nn.Module) -> None:
    """Compile what is left whole between a cache's hooks, the blocks; one graph serves them all. Weights cannot be
    frozen in it."""
    _check_compiler()
    for block in model.transformer_blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)


def _check_compiler() -> None:
    torch._dynamo.config.recompile_limit = 1000  # many models of one class in a process
    if not (shutil.which("g++") or shutil.which("clang++")):
        raise PeerError("torch.compile needs a C++ compiler on the path")


def open_player(case: Case, system: System, shared: dict[str, Any]) -> DiffusersPlayer:
    """The model compiled whole, for the shapes of the case, with inductor's options as the system names them."""
    _check_compiler()
    model = load_model(case, system.precision, shared)
    model.forward = torch.compile(model.forward, fullgraph=True, dynamic=False, options=system.options)
    return DiffusersPlayer(case, model, system.precision)

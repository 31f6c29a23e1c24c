"""plan.json of versions 1 to 3, by layers and modules: read as what it says of the sites of a DiT or PixArt."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.decisions import COMPUTE
from ..models.identity import ModelIdentity, SamplerIdentity, TokenScore
from ..models.spec import STACK
from .steps import StepWord, read_step

VERSIONS = (1, 2, 3)  # 1 without forecasts and reuse_stack, 2 without coefficients
_MODULES = {"attn": "attn1", "cross_attn": "attn2", "ff": "ff"}
"""Module -> its attribute of a diffusers block; the block is transformer_blocks.<layer>."""
_Word = Literal["compute", "reuse", "reuse1", "reuse2"]
_Ops = dict[str, list[int | _Word] | _Word]
_MOST_LAYERS, _MOST_TOKENS = 1000, 1 << 20


class OldIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model as layers of equal modules over one number of tokens."""

    name: str
    hash: str
    num_layers: int
    modules: tuple[str, ...]
    num_tokens: int


class OldPlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """plan.json as it was written."""

    format: str
    version: int
    model: OldIdentity
    sampler: SamplerIdentity
    guidance: float
    steps: list[_Ops | StepWord]
    token_score: TokenScore = "mean"
    map_hash: str = ""
    made_by: str = ""
    coefficients: list[list[float]] = []


def identity_of(model: OldIdentity) -> ModelIdentity:
    """The model's sites: layer by layer, module by module, the last block at the end. Raises PlanError."""
    layers, width = model.num_layers, len(model.modules)
    if not 1 <= layers <= _MOST_LAYERS or not 1 <= model.num_tokens <= _MOST_TOKENS or not model.modules:
        raise PlanError("a plan needs at least one step and module, 1 .. 1000 layers and 1 .. 1048576 tokens")
    odd = [module for module in model.modules if module not in _MODULES]
    if odd or len(set(model.modules)) != width:
        raise PlanError(f"modules {', '.join(model.modules)}: not those of a DiT or PixArt; plan again")
    sites = {
        module: tuple(f"transformer_blocks.{layer}.{_MODULES[module]}" for layer in range(layers))
        for module in model.modules
    }
    kinds = {module: tuple(range(m, layers * width, width)) for m, module in enumerate(model.modules)}
    last = {STACK: (f"transformer_blocks.{layers - 1}",)}
    return ModelIdentity(
        model.name, model.hash, sites | last, kinds | {STACK: (layers * width,)},
        dict.fromkeys(model.modules, model.num_tokens),
    )  # fmt: skip


def work_of(file: OldPlanFile, model: ModelIdentity) -> NDArray[np.int64]:
    """[S, K]; as many tokens as there are meant computing everything."""
    work = np.stack([read_step(model, t, ops) for t, ops in enumerate(file.steps)])  # type: ignore[arg-type]
    return np.where(work == file.model.num_tokens, COMPUTE, work)

"""What stands around the denoiser in a step: the sampler's two halves and the token scorer, traced from torch code."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import onnx_ir as ir
import torch
from soda_runtime.signature import coefficient_count
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..eager.tokens import TokenScorer
from ..lower.program import ProgramTable
from ..models.identity import TokenScore
from ..models.spec import ModelSpec
from ..sampler import SamplerTable, advance_known, advance_state, guide
from ..trace.onnx import TracedGraph, trace_to_onnx
from .builder import GraphBuilder

_BATCH, _TOKENS, _WIDTH = 3, 8, 4


class Around(nn.Module):
    """Everything of a step but the denoiser, called with the values of one dict in order:

    state [n, B, *latents], coefficients -> the model's input [R, *latents], once per guidance half;
    prediction [R, *prediction], state, coefficients, then guidance [1], noise [B, *latents] and mask [R, *mask] where
    the sampler has them -> the next state: guided, through the step's affine map, all in fp32 (docs/concepts.md);
    inputs and cached [R, N, D] of a site -> scores [B, N].
    """

    def __init__(self, names: tuple[str, ...], setting: Setting) -> None:
        super().__init__()
        self._names, self._setting = names, setting
        self._scorer = TokenScorer(setting.token_score, setting.rows)

    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given, set_ = dict(zip(self._names, values, strict=True)), self._setting
        state, row = given["state"], given["coefficients"]
        scaled = (state[0] * row[0]).to(set_.dtype)
        entry = torch.cat([scaled] * set_.rows) if set_.rows > 1 else scaled
        output = guide(
            given["prediction"].float(), set_.rows, given.get("guidance", 1.0), set_.guided_channels, set_.channels
        )
        noise = given.get("noise")
        if set_.mask_shape:
            mask = given["mask"].reshape(set_.rows, -1, *set_.mask_shape)[0]  # the same in all rows
            after = advance_known(row, state, output, noise, set_.learned_variance, mask)
        else:
            after = advance_state(row, state, output, noise, set_.learned_variance)
        return entry, after, self._scorer(given["inputs"], given["cached"])


class Setting(NamedTuple):
    """What these parts depend on. mask_shape: of an inpainting bundle, else empty."""

    latent_shape: tuple[int, ...]
    prediction_shape: tuple[int, ...]
    state_size: int
    rows: int
    guided_channels: int
    stochastic: bool
    learned_variance: bool
    token_score: TokenScore
    dtype: torch.dtype
    mask_shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.latent_shape[0]


class Pieces:
    """Splices the traced parts into step programs."""

    def __init__(
        self, spec: ModelSpec, sampler: SamplerTable, table: ProgramTable, dtype: torch.dtype,
        mask_shape: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self._traced = _trace(
            Setting(
                spec.latent_shape, spec.prediction_shape, sampler.state_size, table.rows,
                table.sampler.guided_channels or spec.latent_shape[0], sampler.stochastic, sampler.learned_variance,
                table.token_score, dtype, mask_shape,
            )
        )  # fmt: skip

    def model_input(self, builder: GraphBuilder, **given: ir.Value) -> ir.Value:
        """state, coefficients -> the model's input."""
        return builder.splice(self._traced, 0, given, prefix="sampler.")

    def next_state(self, builder: GraphBuilder, **given: ir.Value) -> ir.Value:
        """prediction, state, coefficients and so on -> the next state."""
        return builder.splice(self._traced, 1, given, prefix="sampler.")

    def scores(self, builder: GraphBuilder, inputs: ir.Value, cached: ir.Value, prefix: str) -> ir.Value:
        """A site's inputs and cached output -> scores."""
        return builder.splice(self._traced, 2, {"inputs": inputs, "cached": cached}, prefix=prefix)


@lru_cache(maxsize=64)
def _trace(setting: Setting) -> TracedGraph:
    mode, n, rows = FakeTensorMode(), setting.state_size, _BATCH * setting.rows
    with mode:
        examples = {
            "state": torch.zeros(n, _BATCH, *setting.latent_shape),
            "coefficients": torch.zeros(coefficient_count(n, setting.learned_variance)),
            "prediction": torch.zeros(rows, *setting.prediction_shape, dtype=setting.dtype),
            "inputs": torch.zeros(rows, _TOKENS, _WIDTH, dtype=setting.dtype),
            "cached": torch.zeros(rows, _TOKENS, _WIDTH, dtype=setting.dtype),
        }
        if setting.rows == 2:
            examples["guidance"] = torch.ones(1)
        if setting.stochastic:
            examples["noise"] = torch.zeros(_BATCH, *setting.latent_shape)
        if setting.mask_shape:
            examples["mask"] = torch.zeros(rows, *setting.mask_shape)
    axes = {"mask": (0,), "prediction": (0,), "state": (1,), "noise": (0,), "inputs": (0, 1), "cached": (0, 1)}
    symbolic = {name: axes.get(name, ()) for name in examples}
    call = Around(tuple(examples), setting)
    return trace_to_onnx(call, examples, symbolic, mode, {}, "sampler", independent=True)

"""The small graphs around the denoiser: the sampler's two halves and the token scorer, traced from torch code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from soda_runtime.signature import coefficient_count
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..eager.tokens import TokenScorer
from ..lower.program import ProgramTable
from ..models.spec import ModelSpec
from ..sampler import SamplerTable, advance_state, guide
from ..trace.onnx import TracedGraph, trace_to_onnx

_BATCH, _TOKENS, _WIDTH = 3, 8, 4


class SamplerIn(nn.Module):
    """(state [n, B, *latents], coefficients) -> the model's input [R, *latents], once per guidance half."""

    def __init__(self, rows: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows, self.dtype = rows, dtype

    def forward(self, *given: Tensor) -> Tensor:
        state, coefficients = given
        scaled = (state[0] * coefficients[0]).to(self.dtype)
        return torch.cat([scaled] * self.rows) if self.rows > 1 else scaled


class SamplerOut(nn.Module):
    """The model's prediction, guided, through the step's affine map, all in fp32 (docs/concepts.md).

    Inputs: prediction [R, *prediction], state [n, B, *latents], coefficients, then guidance [1] and noise [B, *latents]
    where the sampler has them.
    """

    def __init__(self, table: ProgramTable, sampler: SamplerTable, channels: int) -> None:
        super().__init__()
        self.rows, self.channels = table.rows, channels
        self.guided_channels = table.sampler.guided_channels or channels
        self.stochastic, self.learned_variance = sampler.stochastic, sampler.learned_variance

    def forward(self, *given: Tensor) -> Tensor:
        prediction, state, coefficients, *rest = given
        guidance = rest[0] if self.rows == 2 else 1.0
        output = guide(prediction.float(), self.rows, guidance, self.guided_channels, self.channels)
        noise = rest[-1] if self.stochastic else None
        return advance_state(coefficients, state, output, noise, self.learned_variance)


class _Scorer(nn.Module):
    """TokenScorer with its inputs given one after another."""

    def __init__(self, scorer: TokenScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, *given: Tensor) -> Tensor:
        return self.scorer(*given)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Pieces:
    """Traced: SamplerIn, SamplerOut, and TokenScorer for any number of tokens and any width."""

    sampler_in: TracedGraph
    sampler_out: TracedGraph
    scorer: TracedGraph


def trace_pieces(spec: ModelSpec, sampler: SamplerTable, table: ProgramTable, dtype: torch.dtype) -> Pieces:
    """Trace all of them."""
    mode, n, shape = FakeTensorMode(), sampler.state_size, spec.latent_shape
    rows = _BATCH * table.rows
    with mode:
        state = torch.zeros(n, _BATCH, *shape)
        coefficients = torch.zeros(coefficient_count(n, sampler.learned_variance))
        prediction = torch.zeros(rows, *spec.prediction_shape, dtype=dtype)
        hidden = torch.zeros(rows, _TOKENS, _WIDTH, dtype=dtype)
        after = {"prediction": prediction, "state": state.clone(), "coefficients": coefficients.clone()}
        if table.rows == 2:
            after["guidance"] = torch.ones(1)
        if sampler.stochastic:
            after["noise"] = torch.zeros(_BATCH, *shape)
    before = {"state": state, "coefficients": coefficients}
    axes = {"prediction": (0,), "state": (1,), "noise": (0,), "inputs": (0, 1), "cached": (0, 1)}

    def trace(module: nn.Module, examples: dict[str, Tensor], where: str) -> TracedGraph:
        symbolic = {name: axes.get(name, ()) for name in examples}
        return trace_to_onnx(module, examples, symbolic, mode, {}, where, independent=True)

    scorer = _Scorer(TokenScorer(table.token_score, table.rows))
    return Pieces(
        trace(SamplerIn(table.rows, dtype), before, "sampler"),
        trace(SamplerOut(table, sampler, shape[0]), after, "sampler"),
        trace(scorer, {"inputs": hidden, "cached": hidden.clone()}, "token scores"),
    )

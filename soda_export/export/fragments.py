"""Trace every piece of a denoiser that a program table needs: each once, whatever the number of layers and programs."""

from __future__ import annotations

import torch
from soda_runtime.signature import coefficient_count
from torch import Tensor, nn

from ..lower.program import ProgramTable
from ..models.denoiser import Denoiser
from ..models.spec import DenoiserSpec
from ..sampler import SamplerTable, guide
from ..tokens import TokenScorer
from .trace import Example, Fragment, Piece, trace_pieces


class SamplerIn(nn.Module):
    """(state [n, B, C, H, W], coefficients) -> the model's input [R, C, H, W], once per guidance half."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, state: Tensor, coefficients: Tensor) -> Tensor:
        scaled = state[0] * coefficients[0]
        return torch.cat([scaled] * self.rows) if self.rows > 1 else scaled


class SamplerOut(nn.Module):
    """The model's prediction, guided, through the step's affine map: z' = A z + b e + c noise (docs/concepts.md).

    Inputs: prediction [R, C, H, W], state [n, B, C, H, W], coefficients, then guidance [1] and noise [B, C, H, W]
    where the sampler has them.
    """

    def __init__(self, rows: int, state_size: int, stochastic: bool) -> None:
        super().__init__()
        self.rows, self.n, self.stochastic = rows, state_size, stochastic

    def forward(self, prediction: Tensor, state: Tensor, coefficients: Tensor, *rest: Tensor) -> Tensor:
        n, column = self.n, (self.n, 1, 1, 1, 1)
        a = coefficients[1 : 1 + n * n]
        b = coefficients[1 + n * n : 1 + n * n + n].reshape(column)
        if self.rows == 2:
            prediction = guide(prediction, self.rows, rest[0])
        mixed = a * state if n == 1 else (a.reshape(n, n) @ state.flatten(1)).reshape(state.shape)
        result = mixed + b * prediction
        if self.stochastic:
            result = result + coefficients[1 + n * n + n :].reshape(column) * rest[-1]
        return result


def trace_fragments(denoiser: Denoiser, sampler: SamplerTable, table: ProgramTable) -> dict[str, Fragment]:
    """Trace all pieces; the examples' sizes stand for the symbolic ones. Raises ExportError.

    Keys: prepare, sampler_in, embed, residual, head, sampler_out, scorer; <module>.normalize, <module>.forward, and
    <module>.kept where some program prunes that module.
    """
    spec, batch, rows = denoiser.spec, 3, 3 * table.rows
    n, shape = sampler.state_size, spec.latent_shape
    hidden = Example(torch.zeros(rows, spec.num_tokens, spec.width), (0,))
    kept = Example(torch.zeros(rows, 5, spec.width), (0, 1))
    condition = Example(torch.zeros(rows, 1, spec.width), (0,))
    state = Example(torch.zeros(n, batch, *shape), (1,))
    latents = Example(torch.zeros(rows, *shape), (0,))
    coefficients = Example(torch.zeros(coefficient_count(n)))
    labels = Example(torch.zeros(rows, dtype=torch.int64), (0,))
    window = [Example(t, (0,)) for t in denoiser.tables(sampler.timesteps[:1] * 4).values()]
    rest = [Example(torch.ones(1))] if table.rows == 2 else []
    if sampler.stochastic:
        rest.append(Example(torch.zeros(batch, *shape), (0,)))
    pieces = {
        "prepare": Piece(denoiser.prepare, (labels, *window)),
        "sampler_in": Piece(SamplerIn(table.rows), (state, coefficients)),
        "embed": Piece(denoiser.embed, (latents,)),
        "residual": Piece(
            denoiser.residual, (hidden, hidden, *[condition] * len(denoiser.gate_conditions(0, spec.modules[0])))
        ),
        "head": Piece(denoiser.head, (hidden, *[condition] * len(denoiser.head_conditions()))),
        "sampler_out": Piece(
            SamplerOut(table.rows, n, sampler.stochastic), (latents, state, coefficients, *rest)
        ),
        "scorer": Piece(TokenScorer(table.token_score, table.rows), (hidden, hidden)),
    }  # fmt: skip
    pruned = _pruned_modules(table, spec)
    for name in spec.modules:
        module = denoiser.module(0, name)
        conditions = [condition] * len(denoiser.module_conditions(0, name))
        pieces[f"{name}.normalize"] = Piece(module, (hidden, *conditions), "normalize")
        pieces[f"{name}.forward"] = Piece(module, (hidden,))
        if name in pruned:
            pieces[f"{name}.kept"] = Piece(module, (hidden, kept), "kept")
    return trace_pieces(pieces)


def _pruned_modules(table: ProgramTable, spec: DenoiserSpec) -> set[str]:
    return {
        name
        for program in table.programs
        for layer in program.kept
        for name, keep in zip(spec.modules, layer, strict=True)
        if 0 < keep < spec.num_tokens
    }

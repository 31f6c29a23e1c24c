"""Trace every piece of a denoiser that a program table needs: each once, whatever the number of layers and programs."""

from __future__ import annotations

import copy

import torch
from soda_runtime.signature import coefficient_count
from torch import Tensor, nn

from ..eager.tokens import TokenScorer
from ..lower.program import ProgramTable
from ..models.blocks import TORCH_DTYPES
from ..models.context import TextContext
from ..models.denoiser import Denoiser
from ..models.spec import DenoiserSpec, TextCondition
from ..sampler import SamplerTable, advance_state, guide
from .trace import Example, Fragment, Piece, trace_pieces


class SamplerIn(nn.Module):
    """(state [n, B, C, H, W], coefficients) -> the model's input [R, C, H, W], once per guidance half."""

    def __init__(self, rows: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows, self.dtype = rows, dtype

    def forward(self, state: Tensor, coefficients: Tensor) -> Tensor:
        scaled = (state[0] * coefficients[0]).to(self.dtype)
        return torch.cat([scaled] * self.rows) if self.rows > 1 else scaled


class SamplerOut(nn.Module):
    """The model's prediction, guided, through the step's affine map, all in fp32 (docs/concepts.md).

    Inputs: prediction [R, C or 2C, H, W], state [n, B, C, H, W], coefficients, then guidance [1] and noise
    [B, C, H, W] where the sampler has them.
    """

    def __init__(self, table: ProgramTable, sampler: SamplerTable, channels: int) -> None:
        super().__init__()
        self.rows, self.channels = table.rows, channels
        self.guided_channels = table.sampler.guided_channels or channels
        self.stochastic, self.learned_variance = sampler.stochastic, sampler.learned_variance

    def forward(self, prediction: Tensor, state: Tensor, coefficients: Tensor, *rest: Tensor) -> Tensor:
        guidance = rest[0] if self.rows == 2 else 1.0
        output = guide(prediction.float(), self.rows, guidance, self.guided_channels, self.channels)
        noise = rest[-1] if self.stochastic else None
        return advance_state(coefficients, state, output, noise, self.learned_variance)


def trace_fragments(
    denoiser: Denoiser, sampler: SamplerTable, table: ProgramTable, precision: str
) -> dict[str, Fragment]:
    """Trace all pieces; the examples' sizes stand for the symbolic ones. Raises ExportError.

    Keys: conditioning, sampler_in, embed, head, sampler_out, scorer; <module>.normalize, <module>.forward,
    <module>.residual, and <module>.kept where some program prunes that module; with a text condition caption,
    projection and text_bias.
    """
    spec, batch, rows, dtype = denoiser.spec, 3, 3 * table.rows, TORCH_DTYPES[precision]
    n, shape = sampler.state_size, spec.latent_shape
    hidden = Example(torch.zeros(rows, spec.num_tokens, spec.width, dtype=dtype), (0,))
    kept = Example(torch.zeros(rows, 5, spec.width, dtype=dtype), (0, 1))
    condition = _condition_example(spec, rows, dtype)
    state = Example(torch.zeros(n, batch, *shape), (1,))
    latents = Example(torch.zeros(rows, *shape, dtype=dtype), (0,))
    prediction = Example(torch.zeros(rows, spec.out_channels, *shape[1:], dtype=dtype), (0,))
    coefficients = Example(torch.zeros(coefficient_count(n, sampler.learned_variance)))
    window = [Example(t.to(dtype), (0,)) for t in denoiser.tables(sampler.timesteps[:1] * 4).values()]
    labels = [] if denoiser.context else [Example(torch.zeros(rows, dtype=torch.int64), (0,))]
    rest = [Example(torch.ones(1))] if table.rows == 2 else []
    if sampler.stochastic:
        rest.append(Example(torch.zeros(batch, *shape), (0,)))
    pieces = {
        "conditioning": Piece(_cast(denoiser.conditioning, dtype), (*labels, *window)),
        "sampler_in": Piece(SamplerIn(table.rows, dtype), (state, coefficients)),
        "embed": Piece(_cast(denoiser.embed, dtype), (latents,)),
        "head": Piece(_cast(denoiser.head, dtype), (hidden, *[condition] * len(denoiser.head_conditions()))),
        "sampler_out": Piece(SamplerOut(table, sampler, shape[0]), (prediction, state, coefficients, *rest)),
        "scorer": Piece(TokenScorer(table.token_score, table.rows), (hidden, hidden)),
    }
    pruned, context = _pruned_modules(table, spec), _context_examples(spec, rows, dtype)
    for name in spec.modules:
        module = _cast(denoiser.module(0, name), dtype)
        conditions = [condition] * len(denoiser.module_conditions(0, name))
        gates = [condition] * len(denoiser.gate_conditions(0, name))
        taken = context if denoiser.module_context(0, name) else []
        pieces[f"{name}.normalize"] = Piece(module, (hidden, *conditions), "normalize")
        pieces[f"{name}.forward"] = Piece(module, (hidden, *taken))
        pieces[f"{name}.residual"] = Piece(denoiser.residual(name), (hidden, hidden, *gates))
        if name in pruned:
            pieces[f"{name}.kept"] = Piece(module, (hidden, kept, *taken), "kept")
    if denoiser.context:
        pieces |= _text_pieces(denoiser.context, spec, rows, dtype)
    return trace_pieces(pieces)


def _condition_example(spec: DenoiserSpec, rows: int, dtype: torch.dtype) -> Example:
    """Labels differ from row to row; without them all rows share a condition."""
    if isinstance(spec.condition, TextCondition):
        return Example(torch.zeros(1, 1, spec.width, dtype=dtype))
    return Example(torch.zeros(rows, 1, spec.width, dtype=dtype), (0,))


def _context_examples(spec: DenoiserSpec, rows: int, dtype: torch.dtype) -> list[Example]:
    """Keys, values and the mask's bias, as cross-attention takes them."""
    if not isinstance(spec.condition, TextCondition):
        return []
    tokens, heads = spec.condition.max_tokens, spec.num_heads
    keys = Example(torch.zeros(rows, heads, tokens, spec.width // heads, dtype=dtype), (0,))
    return [keys, keys, Example(torch.zeros(rows, 1, 1, tokens), (0,))]


def _text_pieces(context: TextContext, spec: DenoiserSpec, rows: int, dtype: torch.dtype) -> dict[str, Piece]:
    assert isinstance(spec.condition, TextCondition)
    tokens = spec.condition.max_tokens
    embeds = Example(torch.zeros(rows, tokens, spec.condition.embed_width, dtype=dtype), (0,))
    caption = Example(torch.zeros(rows, tokens, spec.width, dtype=dtype), (0,))
    projection = next(iter(context.projections.values()))
    return {
        "caption": Piece(_cast(context.caption, dtype), (embeds,)),
        "projection": Piece(_cast(projection, dtype), (caption,)),
        "text_bias": Piece(context.bias, (Example(torch.zeros(rows, tokens, dtype=torch.int64), (0,)),)),
    }


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module in another precision; the denoiser's own stays as it is."""
    return module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)


def _pruned_modules(table: ProgramTable, spec: DenoiserSpec) -> set[str]:
    return {
        name
        for program in table.programs
        for layer in program.kept
        for name, keep in zip(spec.modules, layer, strict=True)
        if 0 < keep < spec.num_tokens
    }

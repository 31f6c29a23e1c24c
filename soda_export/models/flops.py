"""FLOPs of a step in the convention of the ToCa, DuCa and SODA papers.

A multiply-add is 2; softmax costs 5 an entry, GELU 6; adaLN's linear layers count once a step, whatever the batch;
normalising, modulating and gating cost 3 an entry of the hidden state and layer; embedding, final layer and VAE are
left out. DiT-XL/2 at 256 px with guidance: 0.474706 TFLOPs a step, so 23.735 for 50 steps and 118.676 for 250, as
those papers report. A caption's keys and values are made once a request and count nowhere; PixArt's adaLN-single is
one linear layer a step.
"""

from __future__ import annotations

from collections.abc import Iterable

from .spec import DenoiserSpec, TextCondition


def module_flops(spec: DenoiserSpec, module: str, kept_tokens: int) -> int:
    """FLOPs of one module for one row, computing `kept_tokens` of the tokens (0 = reused, -1 or -2 = forecast)."""
    if kept_tokens <= 0:
        return forecast_flops(spec, -kept_tokens)
    n, d, k = spec.num_tokens, spec.width, kept_tokens
    if module == "attn":
        projections = 2 * k * d * d * 2 + 2 * n * d * 2 * d  # queries and outputs of the kept, keys and values of all
        return projections + 2 * 2 * k * n * d + 5 * spec.num_heads * k * n
    if module == "cross_attn":
        assert isinstance(spec.condition, TextCondition)
        keys = spec.condition.max_tokens
        return 2 * 2 * k * d * d + 2 * 2 * k * keys * d + 5 * spec.num_heads * k * keys  # queries and outputs
    if module == "ff":
        return 2 * 2 * k * d * spec.ff_width + 6 * k * spec.ff_width
    raise ValueError(f"no FLOPs formula for module {module!r}")


def forecast_flops(spec: DenoiserSpec, order: int) -> int:
    """FLOPs of one row's weighted sum of order + 1 outputs; reading one as it is costs nothing."""
    return (2 * order + 1) * spec.num_tokens * spec.width if order else 0


def fixed_flops(spec: DenoiserSpec, rows: int) -> int:
    """FLOPs that every step pays whatever is reused: adaLN once, the gated sums of every layer for each row."""
    adaln = 2 * spec.width * 6 * spec.width
    modulated = adaln * (1 if isinstance(spec.condition, TextCondition) else spec.num_layers)
    return modulated + spec.num_layers * rows * 3 * spec.num_tokens * spec.width


def step_flops(spec: DenoiserSpec, rows: int, kept: Iterable[Iterable[int]], stack: int = -1) -> int:
    """FLOPs of a step for one sample of `rows` rows (2 with guidance). kept: [L][M] tokens each module computes.

    stack: order at which the output of all blocks is reused, -1 where they run. Without them no adaLN is needed.
    """
    if stack >= 0:
        return rows * forecast_flops(spec, stack)
    modules = sum(
        module_flops(spec, module, int(keep))
        for layer in kept
        for module, keep in zip(spec.modules, layer, strict=True)
    )
    return fixed_flops(spec, rows) + rows * modules


def full_step_flops(spec: DenoiserSpec, rows: int) -> int:
    """FLOPs of a step that computes everything, for one sample."""
    return step_flops(spec, rows, [[spec.num_tokens] * len(spec.modules)] * spec.num_layers)

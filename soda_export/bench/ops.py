"""Where a program's time goes: seconds by kind of operator, and what each operator moves that computes nothing."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import msgspec
from soda_runtime import Bundle
from soda_runtime.signature import BATCH_AXIS, ROWS_AXIS, step_signature

from ..errors import UsageError
from .profilers import PROFILERS, Operator
from .result import BenchOptions

_PRODUCTS = {
    "MatMul", "FusedMatMul", "Gemm", "Conv", "FullyConnected", "Convolution", "MultiHeadAttention", "Attention",
    "ScaledDotProductAttention",
}  # fmt: skip
_MOVES = {
    "Broadcast", "Cast", "Concat", "Convert", "Expand", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
    "Reorder", "ReorderInput", "ReorderOutput", "Reshape", "ScatterElements", "ScatterND", "ScatterNDUpdate", "Slice",
    "Split", "Squeeze", "StridedSlice", "Tile", "Transpose", "Unsqueeze", "VariadicSplit",
}  # fmt: skip


class Move(msgspec.Struct, frozen=True):
    """One operator that only moves values: what it stands between, `a -> b`, and seconds of one run."""

    what: str
    seconds: float


class OpTime(msgspec.Struct, frozen=True):
    """One kind of operator in a program: how many, seconds of one run, and whether it is a product or attention.
    moves: each of its operators, slowest first, where the kind only moves values.

    OpenVINO fuses attention into a `Subgraph` where it can, beside elementwise ones, which count as the rest."""

    op: str
    count: int
    seconds: float
    is_product: bool
    moves: tuple[Move, ...] = ()


def profile_ops(path: Path, options: BenchOptions) -> dict[str, tuple[OpTime, ...]]:
    """Every step program's operators, slowest first. Raises UsageError for a backend without such a profiler."""
    manifest = Bundle.open(path, backend="null").at(options.pixels).manifest
    backend = options.backend or manifest.backend
    if backend not in PROFILERS or options.device not in ("auto", "cpu"):
        raise UsageError(f"--ops: there is a profiler for {' and '.join(PROFILERS)} on cpu; this is {backend}")
    axes = {BATCH_AXIS: options.batch, ROWS_AXIS: options.batch * manifest.rows_per_sample}
    return {
        program.file: _by_kind(
            PROFILERS[backend](path / program.file, step_signature(manifest, number), axes, options.threads)
        )
        for number, program in enumerate(manifest.programs)
    }


def _by_kind(operators: list[Operator]) -> tuple[OpTime, ...]:
    kinds: dict[str, list[Operator]] = defaultdict(list)
    for operator in sorted(operators, key=lambda operator: -operator.seconds):
        kinds[operator.kind].append(operator)
    times = [
        OpTime(
            kind, len(found), sum(operator.seconds for operator in found), kind in _PRODUCTS,
            tuple(Move(operator.what, operator.seconds) for operator in found if kind in _MOVES),
        )
        for kind, found in kinds.items()
    ]  # fmt: skip
    return tuple(sorted(times, key=lambda time: -time.seconds))

"""Fold what torch spells out in many nodes into the one operator that libraries have a kernel for."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import RewriteRule, pattern, rewrite
from onnxscript.rewriter.rules.common import (
    div_by_1_rule,
    max_min_rule,
    mul_by_1_rule,
    no_op_transpose_rule,
    transpose_transpose_rule,
)
from onnxscript.rewriter.rules.fusion._rms_normalization import rms_normalization_rules

from .onnx import TracedGraph, quiet

_CUBIC, _INNER = 0.044715, math.sqrt(2 / math.pi)  # Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", section 2


def fuse(traced: TracedGraph) -> TracedGraph:
    """The same graph with RMSNormalization, Gelu and Clip, and no transposes, products or quotients that do nothing."""
    model = ir.Model(traced.graph, ir_version=10)
    with quiet():
        rewrite(model, pattern_rewrite_rules=_rules())
    common.IdentityEliminationPass()(model)
    return traced


def _rules() -> list[RewriteRule]:
    return [
        *mul_by_1_rule.commute(), *rms_normalization_rules, *RewriteRule(_spelled_gelu, _gelu).commute(),
        transpose_transpose_rule, no_op_transpose_rule, div_by_1_rule, max_min_rule,
    ]  # fmt: skip


def _spelled_gelu(op: Any, x: Any) -> Any:
    """transformers' NewGELUActivation."""
    cubic = op.Mul(op.Pow(x, pattern.Constant(3.0)), pattern.Constant(_CUBIC))
    inner = op.Mul(op.Add(x, cubic), pattern.Constant(_INNER))
    return op.Mul(op.Mul(x, pattern.Constant(0.5)), op.Add(op.Tanh(inner), pattern.Constant(1.0)))


def _gelu(op: Any, x: Any) -> Any:
    return op.Gelu(x, approximate="tanh")

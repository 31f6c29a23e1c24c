"""Products of int8 numbers, by the formula: each token has a scale of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from soda_export.export.builder import GraphBuilder
from soda_export.export.int8 import Int8Products
from soda_export.export.tensor_file import TensorSource, write_tensors
from soda_export.export.weights import WEIGHTS_NAME, WeightsFile, quantized_sources

TOKENS, WIDTH, OUT = 6, 32, 5
NAMES = "first.weight.T", "second.weight.T"


def quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [N, D] -> whole numbers, and the scale of each token [N, 1]."""
    scale = np.maximum(np.abs(x).max(axis=-1, keepdims=True) / 127, 1e-20)
    return np.rint(x / scale), scale


@pytest.fixture
def matrices(tmp_path: Path) -> dict[str, np.ndarray]:
    """As they are dequantized; their weights file lies in tmp_path."""
    generator, sources, values = torch.Generator().manual_seed(0), [], {}
    for name in NAMES:
        matrix = torch.randn(WIDTH, OUT, generator=generator)
        parts = quantized_sources(TensorSource(name, torch.float32, (WIDTH, OUT), lambda matrix=matrix: matrix))
        sources += parts
        values[name] = (parts[0].make().float() * parts[1].make()).numpy()
    write_tensors(tmp_path / WEIGHTS_NAME, sources)
    return values


def build(folder: Path) -> None:
    """x -> its products with both matrices."""
    builder = GraphBuilder("products", WeightsFile(folder))
    products = Int8Products(builder)
    x = builder.input("x", "float32", [TOKENS, WIDTH])
    for i, name in enumerate(NAMES):
        traced = ir.node("MatMul", [ir.Value(name="x"), ir.Value(name=name)], name=f"product{i}")
        result = products.instead(traced, [x, builder.weight(name)])
        assert result is not None
        builder.output(result, f"out{i}", "float32", [TOKENS, OUT])
    builder.save(folder / "products.onnx", "two products")


def test_tokens_are_quantized_one_by_one(matrices: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Tokens of sizes far apart, and one that is 0: whatever multiplies it, none takes another's scale."""
    build(tmp_path)
    x = np.random.default_rng(0).standard_normal((TOKENS, WIDTH)).astype(np.float32)
    x *= 10.0 ** np.arange(-3, 3)[:, None]
    x[2] = 0
    session = ort.InferenceSession(str(tmp_path / "products.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x})
    whole, scale = quantize(x)
    assert np.abs(whole).max(axis=-1).tolist() == [127, 127, 0, 127, 127, 127]
    for name, result in zip(NAMES, found, strict=True):
        np.testing.assert_allclose(result, whole @ matrices[name] * scale, rtol=1e-5, atol=1e-6 * scale.max())
        assert (result[2] == 0).all()


def test_what_is_no_product_with_an_int8_matrix_is_copied(tmp_path: Path) -> None:
    ones = TensorSource("m", torch.float32, (WIDTH, OUT), lambda: torch.ones(WIDTH, OUT))
    write_tensors(tmp_path / WEIGHTS_NAME, [ones])
    builder = GraphBuilder("products", WeightsFile(tmp_path))
    x, matrix = builder.input("x", "float32", [TOKENS, WIDTH]), builder.weight("m")
    products = Int8Products(builder)
    for op in ("MatMul", "Add"):
        assert products.instead(ir.node(op, [x, matrix], name=op), [x, matrix]) is None
    assert products.instead(ir.node("Relu", [x], name="relu"), [x]) is None

"""Values that cross to the steps lie side by side in tensors that readers open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import onnx_ir as ir

from soda_export.export.crossing import pack_crossing
from soda_export.trace.bind import REQUEST, STEP


def value(name: str, dtype: ir.DataType, *row: int) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(["rows", *row]))


def test_no_tensor_is_wider_than_a_reader_takes() -> None:
    """As the keys and values of SDXL's UNet and its ControlNet at 1024 pixels are together."""
    keys = [value(f"key_{i}", ir.DataType.FLOAT16, 10, 77, 64) for i in range(28)]
    picture = value("picture", ir.DataType.FLOAT16, 320, 128, 128)
    times = dict.fromkeys((*keys, picture), REQUEST) | {value("time", ir.DataType.FLOAT, 320): STEP}
    packed = pack_crossing(list(times), cast(Any, SimpleNamespace(of=times.__getitem__)))
    assert [(t.name, t.shape) for t in packed] == [
        ("context", (21 * 49280,)), ("schedule", (320,)), ("context_0", (320, 128, 128)), ("context_1", (7 * 49280,)),
    ]  # fmt: skip
    assert [part for t in packed for part in t.parts if part.name.startswith("key")] == keys

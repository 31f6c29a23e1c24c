"""ONNX Runtime with shared weights: fp16 ones, which its CPU kernels take as fp32, stay in the file that is mapped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
_WIDTH, _LAYERS = 1024, 16
_BYTES = _LAYERS * _WIDTH * _WIDTH * 2
_OPENED = """
import re, sys
from pathlib import Path
from soda_runtime.backends import DeviceOptions
from soda_runtime.backends.ort import open_backend
from soda_runtime.signature import Port, Signature

def private_bytes():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

backend = open_backend("cpu", 1, "shared", DeviceOptions())
port = Port("float16", (1, int(sys.argv[2])))
before = private_bytes()
engine = backend.open_engine(Path(sys.argv[1]), Signature({"x": port}, {"y": port}))
print(private_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is private")
def test_weights_in_fp16_are_not_copied(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OPENED, str(save_layers(tmp_path)), str(_WIDTH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < _BYTES / 4  # it was twice their size


def save_layers(folder: Path) -> Path:
    """x [1, width] -> x W W ... in fp16, with the weights in a file of their own."""
    onnx = pytest.importorskip("onnx")
    helper, half, shape = onnx.helper, onnx.TensorProto.FLOAT16, [_WIDTH, _WIDTH]
    np.zeros(_BYTES // 2, np.float16).tofile(folder / "weights.bin")
    nodes, weights = [], []
    for i in range(_LAYERS):
        weight = onnx.TensorProto(
            name=f"w{i}", data_type=half, dims=shape, data_location=onnx.TensorProto.EXTERNAL
        )
        for key, value in (
            ("location", "weights.bin"), ("offset", i * _BYTES // _LAYERS), ("length", _BYTES // _LAYERS)
        ):  # fmt: skip
            weight.external_data.add(key=key, value=str(value))
        weights.append(weight)
        ends = ("x" if i == 0 else f"h{i}", "y" if i == _LAYERS - 1 else f"h{i + 1}")
        nodes.append(helper.make_node("MatMul", [ends[0], weight.name], [ends[1]]))
    ports = [helper.make_tensor_value_info(name, half, [1, _WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "layers", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "layers.onnx").write_bytes(model.SerializeToString())
    return folder / "layers.onnx"

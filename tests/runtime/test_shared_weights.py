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
    helper, half = onnx.helper, onnx.TensorProto.FLOAT16
    values = ["x", *(f"h{i}" for i in range(1, _LAYERS)), "y"]
    nodes = [helper.make_node("MatMul", [values[i], f"w{i}"], [values[i + 1]]) for i in range(_LAYERS)]
    weight = np.zeros((_WIDTH, _WIDTH), np.float16)
    weights = [onnx.numpy_helper.from_array(weight, f"w{i}") for i in range(_LAYERS)]
    ports = [helper.make_tensor_value_info(name, half, [1, _WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "layers", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "layers.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin")
    return path

"""benchmarks/trace_speed.py on two toy exports, and what benchmarks/big_models.py reads off a build."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import big_models
import trace_speed


def save_toy(path: Path, kind: int) -> None:
    """state + state, a slot passed on."""
    path.parent.mkdir(exist_ok=True)
    state = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("state", "state_out")]
    slot = [helper.make_tensor_value_info(name, kind, ["rows", 2, 4]) for name in ("cache.x", "cache_out.x")]
    nodes = [helper.make_node("Add", ["state", "state"], ["state_out"]),
             helper.make_node("Identity", ["cache.x"], ["cache_out.x"])]  # fmt: skip
    graph = helper.make_graph(nodes, "toy", [state[0], slot[0]], [state[1], slot[1]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.mark.parametrize(("backend", "kind"), [("ort", TensorProto.FLOAT), ("openvino", TensorProto.BFLOAT16)])
def test_programs_are_paired_by_number_and_timed(
    backend: str, kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime" if backend == "ort" else backend)
    for i in range(2):
        save_toy(tmp_path / f"old/step-0{i}.onnx", kind)
        save_toy(tmp_path / f"new/program-0{i}.onnx", kind)
    save_toy(tmp_path / "new/request.onnx", kind)
    words = ["--before", tmp_path / "old", "--after", tmp_path / "new", "--backend", backend, "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", ["trace_speed.py", *map(str, words)])
    trace_speed.main()
    found = json.loads(capsys.readouterr().out)
    assert [row["program"] for row in found["programs"]] == [0, 1]
    for row in found["programs"]:
        assert 0 < row["least_before_ms"] <= row["before_ms"]
        assert row["ratio"] == pytest.approx(row["after_ms"] / row["before_ms"])
    (tmp_path / "new/program-01.onnx").unlink()
    with pytest.raises(SystemExit, match=r"step programs \[0, 1\], .* \[0\]; give equal exports"):
        trace_speed.main()


def test_a_weights_file_with_two_names_counts_once(tmp_path: Path) -> None:
    for name in (".work/export-1/weights", ".work/decoder-2/decoder"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).with_suffix(".safetensors").write_bytes(b"12345")
    (tmp_path / "bundle").mkdir()
    os.link(tmp_path / ".work/export-1/weights.safetensors", tmp_path / "bundle/weights.safetensors")
    assert big_models.bytes_on_disk(tmp_path) == 10


def test_a_stage_lasts_from_the_line_before() -> None:
    lines = [(2.0, "model x: 1 M weights"), (2.5, "a warning"), (3.5, "export: 4 graphs in 1.2 s")]
    assert [stage["seconds"] for stage in big_models.stages_of(lines)] == [2.0, 1.5]
    assert {"processor", "amx_bf16", "avx512_bf16", "cores"} <= big_models.machine().keys()


def test_a_child_says_what_it_took(tmp_path: Path) -> None:
    done = big_models.run([sys.executable, "-c", "import sys; print('one', file=sys.stderr)"], tmp_path)
    assert done.log == "one"
    assert done.seconds >= done.lines[0][0] > 0
    assert done.peak_bytes > 1 << 20
    with pytest.raises(SystemExit, match="boom"):
        big_models.run([sys.executable, "-c", "raise SystemExit('boom')"], tmp_path)

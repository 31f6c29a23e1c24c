"""The script for a GPU machine, as far as it goes without one: which rows there are, how they are kept, the tables, and
that what is measured eagerly lies on one device."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu
import gpu_eager
from gpu_table import table_of

from soda_export.models.published import read_published

MACHINE = {"device": "GPU X, 80 GB, sm90", "torch": "2"}
MEMORY = {"weights_once": 1_000_000, "weights_resident": 1_100_000, "arena": 5_000_000, "activations": 7_000_000,
          "peak": 13_200_000}  # fmt: skip


def arguments(**more: Any) -> argparse.Namespace:
    given = {
        "cases": list(gpu.BATCHES), "ratios": list(gpu.RATIOS), "systems": list(gpu.SYSTEMS), "rounds": 1,
        "minutes": 0.0, "row_minutes": 1.0, "device": "cuda", "smoke": False,
    }  # fmt: skip
    return argparse.Namespace(**{**given, **more})


def test_everything_that_is_asked_for_has_a_row() -> None:
    jobs = list(gpu.list_jobs(arguments()))
    assert len(set(jobs)) == len(jobs)
    for model, batch in (("dit-xl-2-256", 1), ("dit-xl-2-256", 8), ("pixart", 1), ("pixart-1024", 1)):
        assert {gpu.Job(model, 0.0, system, "bf16", batch) for system in ("eager", "compiled")} <= set(jobs)
        for ratio in (1.9, 2.5):
            assert gpu.Job(model, ratio, "reference", "fp32", batch) in jobs
            for system in ("ort", "trt_rtx", "trt"):
                assert {gpu.Job(model, ratio, system, "fp16", batch, graph) for graph in ("off", "on")} <= set(jobs)


class Measured:
    """Stands for the measuring: figures for most systems, failures for two."""

    def __init__(self) -> None:
        self.jobs: list[gpu.Job] = []

    def measure(self, job: gpu.Job) -> dict[str, Any]:
        self.jobs.append(job)
        if job.system == "trt":
            raise gpu.Failure("tensorrt is not installed")
        if job.system == "compiled":
            raise KeyError("no such figure")
        if job.system == "eager":
            return {"steps": 50, "baseline_latency_s": 0.5, "peak_bytes": 2_000_000}
        figures = {"latency_s": 0.1, "baseline_latency_s": 0.2, "speedup": 2.0, "realization": 0.8}
        more = {"dispatch_us_per_step": 12.34, "memory_bytes": MEMORY} if job.graph else {}
        return {"steps": 50, **figures, **more}


def test_a_run_goes_on_with_the_rows_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, first, second = arguments(), Measured(), Measured()
    gpu.measure_all(args, gpu.Record(tmp_path / "x2.5", MACHINE), first)  # type: ignore[arg-type]
    assert first.jobs == list(gpu.list_jobs(args))
    gpu.measure_all(args, gpu.Record(tmp_path / "x2.5", MACHINE), second)  # type: ignore[arg-type]
    assert second.jobs == [job for job in first.jobs if job.system in ("trt", "compiled")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x2.5.json", "x2.5.md"]
    rows = json.loads((tmp_path / "x2.5.json").read_text())["rows"]
    assert len(rows) == len(first.jobs)
    with pytest.raises(SystemExit, match="name another file with --out"):
        gpu.Record(tmp_path / "x2.5", {**MACHINE, "device": "GPU Y"})


def test_rows_are_there_as_soon_as_they_are_measured(tmp_path: Path) -> None:
    class Stopped(Measured):
        def measure(self, job: gpu.Job) -> dict[str, Any]:
            if len(self.jobs) == 3:
                raise KeyboardInterrupt
            return super().measure(job)

    with pytest.raises(KeyboardInterrupt):
        gpu.measure_all(arguments(), gpu.Record(tmp_path / "gpu", MACHINE), Stopped())  # type: ignore[arg-type]
    assert len(json.loads((tmp_path / "gpu.json").read_text())["rows"]) == 3
    assert (tmp_path / "gpu.md").read_text().count("diffusers eager") >= 3


def test_no_row_is_begun_after_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1 << 20, 20))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    measured = Measured()
    gpu.measure_all(arguments(minutes=2), gpu.Record(tmp_path / "gpu", MACHINE), measured)  # type: ignore[arg-type]
    assert 0 < len(measured.jobs) < 4


def test_the_table() -> None:
    rows = [
        {**Measured().measure(job), **gpu.asdict(job)} for job in (
            gpu.Job("pixart", 0.0, "eager", "bf16", 1), gpu.Job("pixart", 2.5, "reference", "fp32", 1),
            gpu.Job("pixart", 2.5, "ort", "fp16", 1, "on"),
        )
    ]  # fmt: skip
    rows.append({**gpu.asdict(gpu.Job("pixart", 2.5, "trt", "fp16", 1, "off")), "why_not": "tensorrt is not installed"})
    lines = table_of(rows, MACHINE).splitlines()
    assert lines[0] == "# GPU X, 80 GB, sm90, torch 2"
    assert "## pixart, 50 steps, FLOPs ratio 2.5" in lines
    assert "| diffusers eager bf16 | 1 | 500.00 |  |  |  |  |  |  |  | 2.0 |" in lines
    assert "| eager reference fp32 | 1 | 200.00 | 100.00 | 2.000 | 0.800 |  |  |  |  |  |" in lines
    engine = "200.00 | 100.00 | 2.000 | 0.800 | 12.3 | 1.0 / 1.1 | 5.0 | 7.0 | 13.2 |"
    assert f"| ort fp16, CUDA graph on | 1 | {engine}" in lines
    assert "- trt fp16, CUDA graph off, batch 1: tensorrt is not installed" in lines
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert len(widths) == 1


def test_a_child_that_hangs_or_fails_is_a_failure_of_its_row(tmp_path: Path) -> None:
    measurer = gpu.Measurer(arguments(row_minutes=0.02), tmp_path)
    hang = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {'import time; time.sleep(60)'!r}])"
    started = time.monotonic()
    with pytest.raises(gpu.Failure, match=r"took more than 0\.02 minutes"):
        measurer._run([sys.executable, "-c", hang])
    assert time.monotonic() - started < 30
    with pytest.raises(gpu.Failure, match=r"^RuntimeError: CUDA error$"):
        measurer._run([sys.executable, "-c", "raise RuntimeError('CUDA error')"])
    with pytest.raises(gpu.Failure, match="exit code -6"):
        measurer._run([sys.executable, "-c", "import os; os.abort()"])


def test_a_build_that_fails_is_not_tried_again_for_its_other_rows(tmp_path: Path) -> None:
    measurer, tried = gpu.Measurer(arguments(), tmp_path), []

    def build() -> None:
        tried.append(1)
        raise gpu.Failure("no memory")

    for _ in range(2):
        with pytest.raises(gpu.Failure, match="no memory"):
            measurer._make(tmp_path / "bundle.json", build)
    assert len(tried) == 1


def test_without_a_gpu_the_script_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^this torch sees no GPU; --device cpu --smoke tries the script$"):
        gpu.describe("cuda")


class OneDevice(TorchDispatchMode):
    """Refuses what a GPU would: tensors of the host beside those of the device, here torch's device without data."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.dim()]
        moves = "copy" in str(function)
        assert moves or len({tensor.device.type for tensor in tensors}) < 2, f"{function} has tensors of both devices"
        return function(*args, **(kwargs or {}))


@pytest.fixture
def on_one_device() -> Iterator[None]:
    with OneDevice():
        yield


@pytest.mark.parametrize("model", ["dit-xl-2-256", "pixart", "pixart-1024"])
def test_the_eager_model_lies_on_the_device(model: str, on_one_device: None) -> None:
    config = {**read_published(model)["transformer"], "num_layers": 1, "num_attention_heads": 1}
    if "cross_attention_dim" in config:
        config["cross_attention_dim"] = config["attention_head_dim"]
    found = gpu_eager.measure_diffusers(config, 2, 1, "meta", False, 1)
    assert found["baseline_latency_s"] > 0


@pytest.mark.parametrize("kind", ["labels", "text"])
@pytest.mark.long
def test_the_eager_reference_lies_on_the_device(
    kind: str, tiny_pixart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = gpu.write_small(tmp_path / "small") if kind == "labels" else tiny_pixart
    monkeypatch.setitem(gpu.CASES, "pixart", ["--model", str(model), "--random-weights", "0"])
    measurer = gpu.Measurer(arguments(), tmp_path / "work")
    plan = measurer._plan("pixart", 1.5)
    with OneDevice():
        found = gpu_eager.measure_reference(str(model), plan, 2, "meta", 1)
    assert found["realization"] == pytest.approx(found["speedup"] / found["flops_ratio"])

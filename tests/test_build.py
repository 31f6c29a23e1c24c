"""A build as a whole: reproducible, resumable, never half-done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Session
from soda_runtime.checks import verify_hashes

from soda_export.cli.app import main
from soda_export.errors import ExportError
from soda_export.models.load import load_model
from soda_export.options import SamplerOptions
from soda_export.plan.plan import plan_text
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.tiny import LAYERS, TOKENS, make_plan, mixed_kept

STAGES = ["map", "programs", "export", "engines-ort"]


def command(model: Path, *extra: str) -> list[str]:
    return [
        sys.executable, "-m", "soda_export", "build", "--model", str(model), "--steps", "8", "--samples", "4",
        "--budget", "3", "--planner", "soda", "--json", *extra,
    ]  # fmt: skip


def test_two_clean_builds_are_byte_identical_and_a_third_takes_every_stage_from_its_file(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In a process of its own, with other hashes of strings; in this one, which has traced models before; once more."""
    manifests = [tmp_path / folder / "engines/tiny-b3-ort/manifest.json" for folder in ("own", "here")]
    for folder in ("own", "here"):
        (tmp_path / folder).mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"}
    words = command(tiny_model)
    own = subprocess.run(words, cwd=tmp_path / "own", env=environment, capture_output=True, text=True, check=False)
    assert own.returncode == 0, own.stderr
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.argv", ["soda-export", *words[words.index("build") :]])
    for again in (False, True):
        caplog.clear()
        main()
        told = "".join(capsys.readouterr()) + caplog.text
        assert manifests[0].read_bytes() == manifests[1].read_bytes()
        assert all((f'"{stage}"' in told) == again for stage in STAGES), told
        assert ("up to date" in told) == again


def test_what_was_traced_before_does_not_change_a_bundle(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trace of a process has the renewals that any export of it has asked for."""
    loaded, options = load_model(str(tiny_model)), SamplerOptions("ddim", 8, 0.0, 1.5)
    monkeypatch.setattr("soda_export.export.arrange._traces", OrderedDict())
    kept, files = mixed_kept(), []
    kept[:, :, 0] = np.where((kept[:, :, 0] > 0) & (kept[:, :, 0] < TOKENS), 0, kept[:, :, 0])
    for number, steps in enumerate((kept, mixed_kept(), kept)):
        bench = Workbench(loaded, options, StageStore(tmp_path / f"store-{number}"), lambda *_: None)
        out = bench.build(make_plan(loaded.spec, steps), "ort", tmp_path / f"bundle-{number}").out
        files.append({path.name: path.read_bytes() for path in sorted(out.glob("*.onnx"))})
    assert files[0] == files[2] != files[1]


def test_a_plan_written_by_hand_is_a_first_class_input(open_bench: OpenBench, tmp_path: Path) -> None:
    """docs/PLAN.md's contract: given a schedule and frozen decisions, build."""
    bench = open_bench(steps=6, guidance=1.0)
    spec = bench.loaded.spec
    (tmp_path / "plan.json").write_text(
        f"""{{
        "format": "soda-plan", "version": 1, "made_by": "hand",
        "model": {{"name": "{spec.name}", "hash": "{spec.hash}", "num_layers": {LAYERS}, "modules": ["attn", "ff"],
                  "num_tokens": {TOKENS}}},
        "sampler": {{"name": "ddim", "steps": 6}}, "guidance": 1.0,
        "steps": ["compute", "reuse", {{"attn": "reuse", "ff": [8, "reuse", 4]}}, "compute", "reuse", "compute"]
        }}"""
    )
    built = bench.build(bench.load_plan(tmp_path / "plan.json"), "ort", tmp_path / "bundle")
    assert built.table.num_engines == 3
    session = Session.open(built.out)
    latents = session.generate([1, 2], seed=3)
    assert np.isfinite(latents).all()
    assert np.abs(latents - session.generate([1, 2], seed=3, accelerated=False)).max() > 0


def test_stages_are_shared_by_equal_inputs_alone(tmp_path: Path) -> None:
    store, calls = StageStore(tmp_path), []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("x")

    first = store.produce("stage", {"a": 1}, make)
    assert store.produce("stage", {"a": 1}, make) == first
    assert store.produce("stage", {"a": 2}, make) != first
    assert len(calls) == 2


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    store = StageStore(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        store.produce("stage", {}, fails)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_builds_are_swept_and_live_ones_are_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    live = StageStore(tmp_path).temporary("tmp", "stage-1")
    dead = live.with_name(live.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))
    foreign = [dead.with_name(dead.name.replace(dead.name.split("-")[1], host)) for host in ("01234567", "89abcdef")]
    for folder in (live, dead, *foreign):
        folder.mkdir()
    os.utime(foreign[1], (1e9, 1e9))
    StageStore(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {live.name, foreign[0].name}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "unlisted"])
def test_a_damaged_stage_is_made_again(tmp_path: Path, damage: str) -> None:
    store, calls = StageStore(tmp_path), []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("whole")

    stage = store.produce("stage", {}, make)
    assert store.produce("stage", {}, make) == stage
    assert len(calls) == 1
    if damage == "missing":
        (stage / "x").unlink()
    elif damage == "unlisted":  # as versions before lists of files left it
        (stage / ".files.json").unlink()
    else:
        (stage / "x").write_text("" if damage == "truncated" else "Whole")
    assert store.produce("stage", {}, make) == stage
    assert len(calls) == 2
    assert (stage / "x").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == [stage.name]


def test_the_slower_of_two_builds_of_a_stage_takes_what_the_faster_made(tmp_path: Path) -> None:
    """On two hosts, neither of which knows the other's processes."""
    slow = StageStore(tmp_path)

    def overtaken(folder: Path) -> None:
        fast = StageStore(tmp_path).produce("stage", {}, lambda other: (other / "x").write_text("fast"))
        assert fast.is_dir()
        assert folder.is_dir()
        (folder / "x").write_text("slow")

    assert (slow.produce("stage", {}, overtaken) / "x").read_text() == "fast"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_bundle_that_is_replaced_is_whole_before_and_after(open_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_bench(steps=6)
    spec = bench.loaded.spec
    kept = np.full((6, LAYERS, 2), TOKENS)
    bench.build(make_plan(spec, kept), "ort", tmp_path / "bundle")
    kept[1] = 0
    plan = make_plan(spec, kept)
    started = time.time()
    bench.build(plan, "ort", tmp_path / "bundle")
    verify_hashes(tmp_path / "bundle")
    assert (tmp_path / "bundle/plan.json").read_bytes() == plan_text(plan)
    assert (tmp_path / "bundle/manifest.json").stat().st_mtime >= started - 1
    shutil.rmtree(tmp_path / "bundle")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("renames_before", [0, 1])
def test_a_stop_while_a_bundle_is_put_in_place_leaves_a_whole_one_or_none(
    open_bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: object, renames_before: int
) -> None:
    bench, out = open_bench(steps=6), tmp_path / "bundle"
    spec, kept = bench.loaded.spec, np.full((6, LAYERS, 2), TOKENS)
    bench.build(make_plan(spec, kept), "ort", out)
    kept[1] = 0
    original, calls = Path.rename, []

    def stopping(self: Path, target: Path) -> Path:
        if target == out or self == out:
            calls.append(target)
            if len(calls) == renames_before + 1:
                raise error  # type: ignore[misc]
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopping)
        # where the file system has no exchange
        patch.setattr("soda_export.workbench.place._exchange", lambda *_: False)
        with pytest.raises((KeyboardInterrupt, OSError, ExportError)):
            bench.build(make_plan(spec, kept), "ort", out)
    if out.exists():
        verify_hashes(out)
    bench.build(make_plan(spec, kept), "ort", out)
    assert len(verify_hashes(out).programs) == 3

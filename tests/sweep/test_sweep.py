"""`soda-export sweep`: rows that survive a kill, refusals, workers, paired comparisons, tables and plot."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from soda_export.cli.sweep import sweep
from soda_export.errors import PlanError, UsageError
from soda_export.eval.sample import ModelSamples
from soda_export.files import naming
from soda_export.models.decisions import COMPUTE
from soda_export.models.identity import ModelIdentity, SamplerIdentity
from soda_export.models.load import ModelRequest, load_model
from soda_export.options import ProfileOptions, SamplerOptions, SamplerRequest
from soda_export.plan.plan import Plan, read_plan
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from soda_export.sweep.plot import plot_sweep
from soda_export.sweep.rows import RowFile
from soda_export.sweep.run import Supply, WorkerOptions
from soda_export.sweep.summary import (
    BEST_OF_ALL,
    BEST_PUBLISHED,
    pool_points,
    shares_near_best,
    summarise_pairs,
)
from soda_export.sweep.sweep import SweepOptions, make_units
from soda_export.sweep.table import markdown
from soda_export.sweep.unit import Finished, SweepRow, Unit, UnitRunner
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

REACHABLE = "1.964"  # with whole modules of the toy model
SCORE = {"mean": 0.02, "low": 0.01, "high": 0.03}


def run(
    model: Path, out: Path, planners: str, ratios: str = "1.5,2", workers: int = 1, ray: str | None = None,
    **more: object,
) -> None:  # fmt: skip
    """The verb, on eight steps of the toy model."""
    seeds = str(more.pop("seeds", "50:56"))
    sweep(
        model=ModelRequest(str(model)), sampler=SamplerRequest(steps=8), profiling=ProfileOptions(samples=2),
        options=SweepOptions(planners, ratios, out, seeds, **more), workers=WorkerOptions(workers, ray), json=True,
    )  # fmt: skip


def nearest(problem: Problem, target: Target) -> Schedule:
    """The number of anchors whose FLOPs ratio is nearest, however far that is."""
    made = [Schedule.at_anchors(problem.spec, problem.steps, tuple(range(0, 8, 1 + k))) for k in range(8)]
    return min(made, key=lambda schedule: abs(schedule.flops_ratio(problem.spec, problem.rows) - target.flops_ratio))


@pytest.fixture(autouse=True)
def _nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLANNERS, "nearest", nearest)


def test_a_sweep_scores_every_planner_at_every_target(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tiny_model, Path("out"), "nearest,soda", seeds="50:56,70:73")
    printed = json.loads(capsys.readouterr().out)
    written = json.loads(Path("out/sweep.json").read_bytes())
    assert printed["rows"] == written["rows"]
    assert len(written["rows"]) == 2 * 2 * 2
    for row in written["rows"]:
        assert row["within_1_percent"] == (abs(row["flops_ratio"] / row["target_flops_ratio"] - 1) <= 0.01)
        assert row["rmse"]["low"] <= row["rmse"]["mean"] <= row["rmse"]["high"]
        assert row["frechet_real"] is None
    (pair,) = written["compared"]["pairs"]
    assert (written["compared"]["planner"], pair["other"]) == ("nearest", "soda")
    with Path("out/table.csv").open() as file:
        assert [float(line["rmse"]) for line in csv.DictReader(file)] == [r["rmse"]["mean"] for r in written["rows"]]
    assert "| target | planner |" in Path("out/sweep.md").read_text()
    with Image.open("out/pareto.png") as picture:
        assert picture.size[0] > 500


def test_fewer_steps_are_the_yardstick_of_planners(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same sampler in 8 / 2 steps, against the samples of all 8; other ranges of seeds play the same plan."""
    monkeypatch.chdir(tmp_path)
    run(tiny_model, Path("out"), "nearest,fewer-steps", "2", seeds="50:56,70:73")
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["planner"] == "fewer-steps"]
    assert [row["flops_ratio"] for row in rows] == [2.0, 2.0]
    plan = read_plan(Path("out/plans/fewer-steps-2.plan.json"))
    assert plan.sampler.steps == 4
    assert all(row["rmse"]["mean"] > 0 for row in rows)
    sampler = plan.sampler
    options = SamplerOptions(sampler.name, 8, sampler.eta, plan.guidance, sampler.guided_channels)
    latents, store = {}, StageStore(tmp_path / "store")
    for steps in (4, 8):
        bench = Workbench(load_model(str(tiny_model)), replace(options, steps=steps), store, lambda *_: None)
        samples = ModelSamples(bench)
        latents[steps] = samples.of_reference(range(50, 56), 8, lambda *_: None).draw(range(50, 56)).latents
    assert rows[0]["rmse"]["mean"] == pytest.approx(float(np.sqrt(np.mean((latents[4] - latents[8]) ** 2))), rel=1e-4)


def test_a_refusal_is_a_row_of_its_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(problem: Problem, target: Target) -> Schedule:
        raise PlanError(f"--flops-ratio {target.flops_ratio:g}: this planner reaches 1.10 to 1.40")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PLANNERS, "timid", refuse)
    run(tiny_model, Path("out"), "nearest,timid", "2")
    printed = json.loads(capsys.readouterr().out)
    assert [row["planner"] for row in printed["rows"]] == ["nearest"]
    (refused,) = printed["refused"]
    assert refused["error"] == "--flops-ratio 2: this planner reaches 1.10 to 1.40"
    assert refused["rmse"] is None
    assert "## Refused" in Path("out/sweep.md").read_text()


def test_options_that_a_planner_refuses_are_a_row_too(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tiny_model, Path("out"), "gram,lemica,nearest", "2", fit_sampler="never", plan_seconds=0.0)
    printed = json.loads(capsys.readouterr().out)
    assert [row["planner"] for row in printed["rows"]] == ["nearest"]
    errors = {row["planner"]: row["error"] for row in printed["refused"]}
    assert errors["gram"].startswith("--planner gram fits the sampler: leave out --fit-sampler never")
    assert errors["lemica"] == "--plan-seconds 0: --planner lemica needs time to measure"


def test_a_full_disk_is_no_refusal(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its units run again once there is room."""

    def fill(problem: Problem, target: Target) -> Schedule:
        with naming(Path("journal.jsonl")):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PLANNERS, "timid", fill)
    with pytest.raises(UsageError, match=r"journal\.jsonl"):
        run(tiny_model, Path("out"), "timid", "2")
    assert not Path("out/rows.jsonl").exists()


_KILLED = """
import os, signal, sys
from pathlib import Path
from soda_export.plan.plan import Plan
from soda_export.plan.planners import PLANNERS
from tests.sweep.test_sweep import nearest, run

def third_time_killed(problem, target, calls=[]):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return nearest(problem, target)
PLANNERS["nearest"] = third_time_killed
run(Path(sys.argv[1]), Path("out"), "nearest", "1.5,2,2.5,3")
"""


def test_a_killed_sweep_goes_on_where_it_was(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{_KILLED}", str(tiny_model)],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr.decode()
    rows = tmp_path / "out/rows.jsonl"
    assert len(rows.read_bytes().splitlines()) == 2
    before = rows.read_bytes()
    rows.write_bytes(before + before[: len(before) // 3])  # as if it was killed while writing
    monkeypatch.chdir(tmp_path)
    ran, really = [], UnitRunner.run

    def counted(self: UnitRunner, unit: object) -> Finished:
        finished = really(self, unit)  # type: ignore[arg-type]
        ran.append(finished.row.target_flops_ratio)
        return finished

    monkeypatch.setattr(UnitRunner, "run", counted)
    run(tiny_model, Path("out"), "nearest", "1.5,2,2.5,3")
    assert ran == [2.5, 3.0]
    assert rows.read_bytes().startswith(before)
    assert len(rows.read_bytes().splitlines()) == 4
    assert len(list((tmp_path / "out/errors").glob("*.npy"))) == 4


@pytest.mark.long
def test_two_workers_make_the_rows_that_one_makes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    figures = []
    for workers in (1, 2):  # each with planners that a new process knows
        run(tiny_model, Path(f"out{workers}"), "uniform,fora", REACHABLE, workers)
        figures.append([row["rmse"]["mean"] for row in json.loads(capsys.readouterr().out)["rows"]])
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)


def test_a_unit_waits_for_the_plan_that_another_one_makes(tmp_path: Path) -> None:
    rows = made_rows(tmp_path)
    key, seeds = ("new", 2.0), [(50, 56), (70, 73), (80, 83)]
    planned = [Unit(*key, seeds[0]), Unit(*key, seeds[1]), Unit(*key, seeds[2]), Unit("new", 3.0, seeds[0])]
    decided = [Unit("misfit", 2.0, seeds[0]), Unit("misfit", 2.0, seeds[1])]
    supply = Supply([*planned, *decided], rows)
    assert supply.take(2) == [planned[0], planned[3]]
    assert supply.take(3) == decided
    assert supply.take(1) == []
    refused = SweepRow(*planned[0].key, error="reaches 1.1 to 1.4")
    rows.add(Finished(refused, np.empty(0), None))
    supply.finish(refused)
    assert supply.take(2) == [planned[1]]
    row = msgspec.convert({"planner": "new", "target_flops_ratio": 2.0, "seeds": "70:73"}, SweepRow)
    rows.add(Finished(row, np.ones(3), read_plan(tmp_path / "plans/best-2.plan.json")))
    supply.finish(row)
    (last,) = supply.take(2)
    assert (last.seeds, last.plan is None) == (seeds[2], False)


@pytest.mark.long
@pytest.mark.parametrize("ray", [None, "local"])
def test_workers_plan_once_for_all_seeds(
    ray: str | None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that was made twice took other seconds each time."""
    if ray:
        pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    run(tiny_model, Path("out"), "uniform", REACHABLE, 2, ray, seeds="50:53,70:73")
    rows = [json.loads(line) for line in Path("out/rows.jsonl").read_bytes().splitlines()]
    assert len(rows) == 2
    assert rows[0]["planning_seconds"] == rows[1]["planning_seconds"]


@pytest.mark.long
def test_ray_makes_the_rows_that_one_worker_makes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    figures = []
    for ray in (None, "local"):
        run(tiny_model, Path(f"out-{ray}"), "uniform,fora", REACHABLE, 2 if ray else 1, ray)
        figures.append([row["rmse"]["mean"] for row in json.loads(capsys.readouterr().out)["rows"]])
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)


def test_latency_is_measured_where_it_is_asked_for(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tiny_model, Path("out"), "nearest", "2")
    assert json.loads(capsys.readouterr().out)["rows"][0]["latency_s"] is None
    run(tiny_model, Path("out"), "nearest", "2", bench=True)
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["latency_s"] > 0
    assert row["speedup"] > 0
    with pytest.raises(UsageError, match="--bench times engines"):
        run(tiny_model, Path("out"), "nearest", "2", workers=2, bench=True)


def test_a_policy_has_no_latency_to_wait_for(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(tiny_model, Path("out"), "sada", "2", bench=True)
    before = Path("out/rows.jsonl").read_bytes()
    assert b'"error":""' in before
    monkeypatch.setattr(UnitRunner, "run", None)
    run(tiny_model, Path("out"), "sada", "2", bench=True)
    assert Path("out/rows.jsonl").read_bytes() == before


def test_rows_of_another_setting_are_refused(tmp_path: Path) -> None:
    setting = {"model": "a", "planning": {"plan_seconds": 30.0}}
    RowFile(tmp_path, setting)
    RowFile(tmp_path, setting)
    with pytest.raises(UsageError, match='holds a sweep with model "a", not "b"; name another folder'):
        RowFile(tmp_path, setting | {"model": "b"})
    with pytest.raises(UsageError, match=r"holds a sweep with planning.plan_seconds 30.0, not 100.0"):
        RowFile(tmp_path, setting | {"planning": {"plan_seconds": 100.0}})


def test_a_torn_setting_is_refused(tmp_path: Path) -> None:
    RowFile(tmp_path, {"model": "a"})
    (tmp_path / "setting.json").write_text('{"model": ')
    with pytest.raises(UsageError, match=r"setting.json cannot be read \(.*\); name another folder"):
        RowFile(tmp_path, {"model": "a"})


def test_a_sweep_killed_while_it_wrote_its_first_file_begins_again(tmp_path: Path) -> None:
    left = tmp_path / ".setting.json.01234567-1-0.tmp"
    left.touch()
    os.utime(left, (0, 0))
    RowFile(tmp_path, {"model": "a"})
    assert not left.exists()
    assert (tmp_path / "setting.json").is_file()


def made_rows(folder: Path) -> RowFile:
    """Three planners at three targets; `best` errs half as much as `good`, sample by sample, and a tenth of `bad`."""
    model, sampler = ModelIdentity("m", "0", {"ff": ("ff.0",)}, {"ff": (0,)}), SamplerIdentity("ddim", 2)
    plan = Plan(model, sampler, 1.5, Schedule(np.full((2, 1), COMPUTE)))
    rows, base = RowFile(folder, {}), np.random.default_rng(0).gamma(1.0, 1e-4, 64)
    for planner, factor in (("best", 1.0), ("good", 4.0), ("bad", 100.0)):
        for target in (1.5, 2.0, 3.0):
            errors = base * factor * target**4
            score = {name: float(np.sqrt(errors.mean()) * x) for name, x in zip(SCORE, (1, 0.9, 1.1), strict=True)}
            row = {"planner": planner, "target_flops_ratio": target, "seeds": "0:64", "flops_ratio": target * 1.003,
                   "within_1_percent": True, "rmse": score, "latency_s": 0.01 / target}  # fmt: skip
            rows.add(Finished(msgspec.convert(row, SweepRow), errors, plan))
    rows.add(Finished(SweepRow("bad", 9.0, "0:64", error="reaches | 1.1 to 4"), np.empty(0), None))
    return rows


def test_one_sample_does_not_decide_about_the_typical_one(tmp_path: Path) -> None:
    rows = made_rows(tmp_path)
    for row in rows.rows:
        if row.planner == "best":
            path = tmp_path / "errors" / f"best-{row.target_flops_ratio:g}-0-64.npy"
            np.save(path, np.concatenate([rows.errors(row)[:63], [10.0]]))
    pair = next(pair for pair in summarise_pairs(rows, "best").pairs if pair.other == "good")
    assert pair.geometric_mean is not None
    assert pair.typical is not None
    assert pair.geometric_mean.mean > 2.0
    assert pair.typical.mean < pair.geometric_mean.mean / 2


def test_comparisons_are_paired(tmp_path: Path) -> None:
    summary = summarise_pairs(made_rows(tmp_path), "best")
    pairs = {pair.other: pair for pair in summary.pairs}
    assert pairs.keys() == {"good", "bad", BEST_PUBLISHED}
    for ratio in (*pairs["good"].ratios.values(), pairs["good"].geometric_mean, pairs["good"].typical):
        assert ratio is not None
        assert (ratio.low, ratio.mean, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    assert pairs["bad"].geometric_mean is not None
    assert pairs["bad"].geometric_mean.mean == pytest.approx(0.1)


def test_the_best_of_the_others_is_another_one_at_each_target(tmp_path: Path) -> None:
    rows = made_rows(tmp_path)
    plan = Plan(ModelIdentity("m", "0", {}, {}), SamplerIdentity("ddim", 2), 1.5, Schedule(np.zeros((2, 1))))
    for planner, target, square in (("gram", 1.5, 1e-9), ("gram", 2.0, 1.0), ("bad", 3.0, 1e-8)):
        score = dict.fromkeys(SCORE, 1e-4)
        row = {"planner": planner, "target_flops_ratio": target, "seeds": "0:64", "rmse": score, "flops_ratio": target}
        rows.add(Finished(msgspec.convert(row, SweepRow), np.full(64, square), plan))
    pairs = {pair.other: pair for pair in summarise_pairs(rows, "best").pairs}
    published, best = pairs[BEST_PUBLISHED].ratios, pairs[BEST_OF_ALL].ratios
    assert [published[t] for t in (1.5, 2.0)] == [pairs["good"].ratios[t] for t in (1.5, 2.0)]
    assert published[3.0] == pairs["bad"].ratios[3.0]
    assert best == {1.5: pairs["gram"].ratios[1.5], 2.0: published[2.0], 3.0: published[3.0]}


def test_planners_are_ranked_by_samples_that_both_drew(tmp_path: Path) -> None:
    """On further seeds all draw badly: `bad`, which never drew them, is not the best one for that."""
    rows = made_rows(tmp_path)
    plan = Plan(ModelIdentity("m", "0", {}, {}), SamplerIdentity("ddim", 2), 1.5, Schedule(np.zeros((2, 1))))
    for planner, square in (("best", 50.0), ("good", 100.0)):
        row = {"planner": planner, "target_flops_ratio": 1.5, "seeds": "64:128", "rmse": dict.fromkeys(SCORE, 1.0),
               "flops_ratio": 1.5}  # fmt: skip
        rows.add(Finished(msgspec.convert(row, SweepRow), np.full(64, square), plan))
    pairs = {pair.other: pair for pair in summarise_pairs(rows, "best").pairs}
    assert pairs[BEST_PUBLISHED].ratios[1.5] == pairs["good"].ratios[1.5]


def test_seeds_are_pooled_in_points_and_the_plot_is_written(tmp_path: Path) -> None:
    rows = made_rows(tmp_path)
    points = pool_points(rows)
    assert [point.planner for point in points] == ["bad"] * 3 + ["best"] * 3 + ["good"] * 3
    assert points[0].rmse.low < points[0].rmse.mean < points[0].rmse.high
    plot_sweep(rows, "best", tmp_path / "pareto.png")
    with Image.open(tmp_path / "pareto.png") as picture:
        assert picture.size[0] > picture.size[1]  # two panels


def test_the_table_keeps_refusals_apart_and_is_markdown(tmp_path: Path) -> None:
    rows = made_rows(tmp_path)
    scored = [row for row in rows.rows if not row.error]
    refused, near = [row for row in rows.rows if row.error], shares_near_best(rows)
    text = markdown(scored, refused, summarise_pairs(rows, "best"), near, "m")
    tables = text.split("\n\n")
    for table in (part for part in tables if part.startswith("|")):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| 9 | bad | reaches / 1.1 to 4 |" in text
    assert "0.500 [0.500, 0.500]" in text
    assert "| near the best |" in text


def test_samples_within_1_db_of_the_best_are_counted(tmp_path: Path) -> None:
    rows = made_rows(tmp_path)
    path = tmp_path / "errors/good-2-0-64.npy"
    np.save(path, np.concatenate([rows.errors(rows.rows[0])[:16] * 0, np.load(path)[16:32] / 3.2, np.load(path)[32:]]))
    shares = shares_near_best(rows)
    assert shares["best", 1.5, "0:64"] == 1.0
    assert shares["good", 1.5, "0:64"] == 0.0
    assert shares["best", 2.0, "0:64"] == 0.75  # a quarter of the samples is perfect elsewhere
    assert shares["good", 2.0, "0:64"] == 0.5  # 4 / 3.2 is less than 1 dB
    assert shares["bad", 2.0, "0:64"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planners": "uniform,nosuch"}, "--planners nosuch: no such planner"),
        ({"planners": "uniform,"}, "--planners uniform,"),
        ({"flops_ratios": "2,x"}, "--flops-ratios x"),
        ({"flops_ratios": "0.5"}, r"--flops-ratios 0\.5"),
        ({"flops_ratios": "nan"}, "--flops-ratios nan"),
        ({"seeds": "5:1"}, "--seeds 5:1"),
        ({"seeds": "5:10,8:12"}, "the ranges overlap"),
        ({"against": "soda"}, "--against soda: is not among"),
        ({"batch": 0}, "--batch 0"),
        ({"seeds": "0:6"}, "0 is the profile's seed"),
    ],
)
def test_options_that_mean_nothing_are_named(options: dict[str, object], message: str, tmp_path: Path) -> None:
    defaults = {"planners": "uniform", "flops_ratios": "2", "out": tmp_path}
    with pytest.raises(UsageError, match=message):
        make_units(SweepOptions(**{**defaults, **options}), 0)  # type: ignore[arg-type]

"""build and bench of bundles of several sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from soda_runtime import RequestError, Session
from soda_runtime.policy import FULL

from soda_export.api.make import make_bundle
from soda_export.api.plans import assign_plans
from soda_export.bench.result import BenchOptions
from soda_export.bench.run import bench_bundle
from soda_export.cli.bench import bench, bundle_sizes
from soda_export.errors import UsageError
from soda_export.models.request import ModelRequest
from soda_export.options import BundleOptions, SamplerRequest
from soda_export.plan.plan import plan_text, read_plan
from soda_export.plan.schedule import Schedule
from soda_export.policy.options import PolicyOptions
from tests.sizes_toy import NAMES, SizesToy

REQUESTS = ModelRequest("toy", size=NAMES).by_size()
PROMPTS = {"prompt": ["a red circle", "a blue square"], "negative_prompt": "blue", "seed": 5}
A, B, C = Path("a.json"), Path("b.json"), Path("c.json")


@pytest.mark.parametrize(
    ("given", "plans"),
    [
        ([], [None, None, None]), ([A], [A, None, None]), ([A, B, C], [A, B, C]), ([A, "16x24=b.json"], [A, B, None]),
        ([f"{NAMES[0]}=a.json", B], [A, B, B]),
        ([f"{name}={plan}" for name, plan in zip(NAMES, (A, B, C), strict=True)], [A, B, C]),
    ],
)  # fmt: skip
def test_plans_are_of_the_sizes_that_they_name(given: list[Any], plans: list[Path | None]) -> None:
    assert assign_plans([Path(each) for each in given], REQUESTS) == plans


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([A, B], "2 plans for 3 sizes"), ([A, B, "16x24=c.json"], "3 plans for 3 sizes"),
        (["8x8=a.json"], "8x8 is no --size; there are 16x16, 16x24, 8x16"),
        ([A, "16x24=b.json", "16x24=c.json"], "16x24 has a plan already"),
        (["16x24=a.json"], "none for 16x16, 8x16; give one more without a size"),
    ],
)  # fmt: skip
def test_plans_that_do_not_come_out_even_are_refused(given: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assign_plans([Path(each) for each in given], REQUESTS)


@pytest.mark.long
def test_each_size_is_built_with_the_plan_that_was_given_for_it(
    sizes_toy: SizesToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (_, own), (wide, _), _ = sizes_toy.sized
    other = wide.plan_of(Schedule.at_anchors(wide.loaded.spec, 8, (0, 3)), "by hand")
    for name, plan in (("a.json", own), ("b.json", other)):
        Path(name).write_bytes(plan_text(plan))
    request = ModelRequest(str(sizes_toy.root / "tiny"), size=NAMES[:2])
    made = make_bundle(
        request, lambda *_: None, plan=(A, Path("16x24=b.json")), sampler=SamplerRequest(),
        bundle=BundleOptions(without=("text-encoder", "decoder"), out=tmp_path / "both"),
    )  # fmt: skip
    assert made.sizes == NAMES[:2]
    for name, expected in (("plan.json", own), ("plan-16x24.json", other)):
        assert (read_plan(tmp_path / "both" / name).schedule.work == expected.schedule.work).all()


@pytest.mark.long
def test_bench_measures_each_size_or_the_one_that_is_asked_for(
    sizes_toy: SizesToy, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = BenchOptions(batch=1, rounds=1, threads=1)
    calls: list[str] = []

    def play(path: Path, options: BenchOptions, progress: Any) -> Any:
        calls.append(options.size)
        return result if options.size else bench_bundle(path, options, progress)

    assert bundle_sizes(sizes_toy.bundle) == NAMES
    result = bench_bundle(sizes_toy.bundle, BenchOptions(batch=1, rounds=1, threads=1, size="16x24"), lambda *_: None)
    assert result.size == "16x24"
    single = sizes_toy.single(1)
    assert bundle_sizes(single) == ("",)
    monkeypatch.setattr("soda_export.cli.bench.bench_bundle", play)
    bench(str(sizes_toy.bundle), options=few, json=True)
    assert calls == list(NAMES)
    assert len(json.loads(capsys.readouterr().out)) == 3
    with pytest.raises(UsageError, match="--md: the bundle has 16x16, 16x24, 8x16; say which with --size"):
        bench(str(sizes_toy.bundle), options=few, md=tmp_path / "bench.md")
    with pytest.raises(RequestError, match="this bundle has 16x16"):
        bench_bundle(sizes_toy.bundle, BenchOptions(size="8x8"), lambda *_: None)


@pytest.mark.long
def test_build_calibrates_a_policy_at_each_size(
    sizes_toy: SizesToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_bytes(plan_text(sizes_toy.sized[0][1]))
    made = make_bundle(
        ModelRequest(str(sizes_toy.root / "tiny"), size=("16x16", "16x24")), lambda *_: None, plan=(Path("plan.json"),),
        sampler=SamplerRequest(), bundle=BundleOptions(out=tmp_path / "both"),
        policy=PolicyOptions("misfit", calls=5, policy_samples=16),
    )  # fmt: skip
    assert made.policy is not None
    session = Session.open(tmp_path / "both", threads=1)
    for size in session.bundle.sizes:
        session.generate(**PROMPTS, size=size)
        assert 2 <= (session.decisions == FULL).sum(axis=0).mean() <= 7

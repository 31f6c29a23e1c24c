"""The HTML report: one file that stands alone, that a browser shows without a complaint, and that escapes names."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from soda_runtime.checks import open_manifest
from soda_runtime.errors import RequestError

from soda_export.errors import UsageError
from soda_export.models.decisions import COMPUTE, IDLE
from soda_export.models.identity import ModelIdentity
from soda_export.plan.plan import Plan, hash_of, read_plan
from soda_export.plan.schedule import Schedule
from soda_export.plan.sensitivity import map_bytes
from soda_export.report.html.bundle import find_map, read_bench
from soda_export.report.html.contents import Wanted, report_bundle, report_sweep
from soda_export.report.html.grid import draw_grid
from soda_export.report.html.page import Report, render_report
from tests.plan.problems import TOY, full_work, plan_of, random_map
from tests.report.chromium import needs_browser, visit

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
MOST_BYTES = 3_000_000
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


def timing(median: float) -> dict[str, float]:
    return {"median": median, "low": median * 0.9, "high": median * 1.1}


def bench_json(steps: int) -> dict[str, Any]:
    """What `bench --json` prints, with made-up figures."""
    return {
        "bundle": "b", "backend": "ort", "precision": "fp32", "weights": "", "batch": 1, "rounds": 5,
        "latency_s": 0.25, "baseline_latency_s": 0.5, "speedup": 2.0, "flops_ratio": 2.2, "realization": 0.9,
        "latency": timing(0.25), "baseline_latency": timing(0.5), "speedup_interval": [1.9, 2.1],
        "outside_steps_s": 0.001, "dispatch_us_per_step": 40.0,
        "steps_s": [0.06 if t % 2 == 0 else 0.0025 for t in range(steps)], "baseline_step": timing(0.0625),
        "programs": [], "error": {"rmse": 0.01, "relative": 0.02, "max_abs": 0.1}, "energy_j": None,
        "opening": {"to_first_step_s": 1, "to_first_latents_s": 2, "all_compute_to_first_step_s": 1,
                    "all_compute_to_first_latents_s": 2},
        "memory_bytes": {"weights_once": 1, "weights_private": 2, "weights_mapped": 3, "weights_resident": 5,
                         "arena": 6, "activations": 7, "peak": 8_000_000},
        "text_encoder_s": None, "decoder_s": None,
        "conditions": {"date": "2026-11-29", "processor": "a processor", "usable_cores": 2, "threads": 0, "load": 0.5,
                       "versions": {"soda-export": "0.1.0"}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Every section that a bundle's report may have."""
    folder = tmp_path_factory.mktemp("whole")
    manifest = open_manifest(GOLDEN / "v5-policy")
    bench, map_file = folder / "bench.json", folder / "map.safetensors"
    bench.write_text(json.dumps(bench_json(manifest.sampler.steps)))
    map_file.write_bytes(map_bytes(random_map(TOY, manifest.sampler.steps)))
    requests = [(f"class {label}", {"labels": label}) for label in (0, 1)]
    sweep = ROOT / "docs/results/sweep-digits-100s.json"
    wanted = Wanted(requests, True, 3, bench, sweep=sweep, map=map_file)
    return report_bundle(GOLDEN / "v5-policy", manifest, wanted, lambda *_: None)


@pytest.fixture(scope="module")
def page(whole: Report) -> bytes:
    return render_report(whole)


def big_schedule() -> Report:
    """30 steps and 168 sites with everything that a cell may do."""
    random, layers = np.random.default_rng(0), 56
    kinds = {kind: tuple(range(first, 3 * layers, 3)) for first, kind in enumerate(("attn", "cross_attn", "ff"))}
    sites = {kind: tuple(f"{HOSTILE}.{layer}.{kind}" for layer in range(layers)) for kind in kinds}
    work = np.full((30, 3 * layers), COMPUTE, np.int64)
    work[1:] = random.choice([COMPUTE, 0, -1, -2, IDLE], (29, 3 * layers))
    work[1:, list(kinds["ff"])] = random.integers(1, 1024, (29, layers))
    work[7] = IDLE
    model = ModelIdentity(HOSTILE, "0" * 64, sites, kinds, {"ff": 1024})
    return Report(HOSTILE, "30 steps", schedule=draw_grid(Schedule(work), model))


def test_a_report_has_every_section(page: bytes) -> None:
    text = page.decode()
    for section in ("samples", "comparisons", "latency", "schedule", "decisions", "memory", "sensitivity", "facts"):
        assert f'id="{section}"' in text
    assert 'id="missing"' not in text
    assert len(page) < MOST_BYTES


def test_a_report_asks_for_nothing_else(page: bytes) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]{0,20})', page.decode())
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(rb"@import|url\(|fetch\(|XMLHttpRequest|WebSocket", page)


def test_every_picture_has_a_text_beside_it(page: bytes) -> None:
    text = page.decode()
    assert not [tag for tag in re.findall(r"<img[^>]*>", text) if not re.search(r'alt="[^"]+"', tag)]
    drawn = [tag for tag in re.findall(r"<svg[^>]*>", text) if 'aria-hidden="true"' not in tag]
    assert drawn
    assert all(re.search(r'role="img" aria-label="[^"]+"', tag) for tag in drawn)


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_a_browser_shows_it_without_a_complaint_and_nothing_is_wider_than_the_page(
    page: bytes, tmp_path: Path, width: int, dark: bool
) -> None:
    seen = visit(page, tmp_path, width, dark, f"[...{WIDTHS}, getComputedStyle(document.body).backgroundColor]")
    content, window, ground = seen.found
    assert seen.console == []
    assert content <= window == width
    assert ground == ("rgb(20, 25, 31)" if dark else "rgb(255, 255, 255)")


@needs_browser
def test_a_cell_is_told_in_words_and_hostile_names_stay_text(tmp_path: Path) -> None:
    script = (
        "(() => { const grid = document.querySelector('[data-grid]');"
        "for (const key of ['ArrowRight', 'ArrowDown', 'ArrowDown'])"
        "  grid.dispatchEvent(new KeyboardEvent('keydown', {key}));"
        f"return [document.querySelector('.says').textContent, document.title, ...{WIDTHS}]; }})()"
    )
    content = render_report(big_schedule())
    seen = visit(content, tmp_path, 390, script=script)
    words, title, wide, window = seen.found
    assert seen.console == []
    assert title == HOSTILE
    assert re.fullmatch(rf"Step 1 of 0 to 29, {re.escape(HOSTILE)}\.2\.attn: [a-z].*\.", words)
    assert wide <= window
    assert len(content) < MOST_BYTES


@needs_browser
def test_the_browser_would_have_complained(tmp_path: Path) -> None:
    wrong = b"<!doctype html><body><div style='width:900px'>x</div><script>undefinedName()</script></body>"
    seen = visit(wrong, tmp_path, 390, script=WIDTHS)
    assert "undefinedName is not defined" in "".join(seen.console)
    assert seen.found[0] > seen.found[1]


def test_names_of_a_bundle_are_escaped(tmp_path: Path) -> None:
    bundle = shutil.copytree(GOLDEN / "v5", tmp_path / "bundle")
    plan = json.loads((bundle / "plan.json").read_text())
    plan["made_by"], plan["model"]["name"] = HOSTILE, HOSTILE
    (bundle / "plan.json").write_text(json.dumps(plan))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["model"]["name"] = manifest["builder"] = manifest["sampler"]["name"] = HOSTILE
    content = (bundle / "plan.json").read_bytes()
    manifest["files"]["plan.json"] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    text = render_report(report_bundle(bundle, open_manifest(bundle), Wanted(None), lambda *_: None)).decode()
    assert "<script>document.title" not in text
    assert "<img src=x" not in text
    assert text.count("&lt;/script&gt;&lt;script&gt;document.title") >= 4


def test_samples_at_equal_noise_are_those_of_the_session(page: bytes, whole: Report) -> None:
    assert whole.samples
    assert whole.decisions
    assert [sample.title for sample in whole.samples.samples] == ["class 0", "class 1"]
    assert len({sample.full for sample in whole.samples.samples}) == 2
    assert all(sample.full != sample.difference for sample in whole.samples.samples)
    steps = open_manifest(GOLDEN / "v5-policy").sampler.steps
    assert f"of {steps} do here" in whole.decisions.text
    for _, calls, computed in whole.decisions.table.rows:
        assert int(calls) == len(computed.split())


@pytest.mark.parametrize("asked", [True, False])
def test_samples_that_a_bundle_does_not_take_are_left_out_unless_they_were_asked_for(asked: bool) -> None:
    manifest = open_manifest(GOLDEN / "v5-inpaint")
    wanted = Wanted([("class 0", {"labels": 0})], asked)
    if asked:
        with pytest.raises(RequestError, match="this bundle takes mask"):
            report_bundle(GOLDEN / "v5-inpaint", manifest, wanted, lambda *_: None)
    else:
        report = report_bundle(GOLDEN / "v5-inpaint", manifest, wanted, lambda *_: None)
        assert report.samples is None
        assert "this bundle takes mask" in report.missing[0]


def test_a_sweep_is_drawn_with_its_intervals() -> None:
    path = ROOT / "docs/results/sweep-shapes-100s.json"
    report = report_sweep(path)
    found = json.loads(path.read_text())
    rows = found["rows"]
    table = report.sweep[0][1].table.rows
    assert len(table) == len({(row["planner"], row["target_flops_ratio"]) for row in rows})
    lowest = min(row["rmse"]["low"] for row in rows)
    assert f"{lowest:.4f} to" in " ".join(row[3] for row in table)
    assert report.sweep[0][1].picture.count('class="whisker"') == len(table)
    closest = max(pair["geometric_mean"]["mean"] for pair in found["compared"]["pairs"])
    assert report.headline[0].value == f"{closest:.2f}"


def test_a_measured_sweep_is_drawn_against_latency_and_rows_without_error_are_told(tmp_path: Path) -> None:
    found = json.loads((ROOT / "docs/results/sweep-shapes-100s.json").read_text())
    found["of"] = HOSTILE
    for number, row in enumerate(found["rows"]):
        row["latency_s"] = 0.1 + 0.01 * number
    found["rows"][0]["rmse"] = {"mean": 0.0, "low": 0.0, "high": 0.0}
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(found))
    report = report_sweep(path)
    assert [title for title, _ in report.sweep] == ["Error against computing", "Error against latency"]
    assert "1 rows with no error above 0 cannot be drawn" in report.sweep[0][1].text
    assert "<img src=x" not in render_report(report).decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "not the sweep.json of"), ("[", "not the sweep.json of"), (None, "cannot be read")],
)
def test_what_is_no_sweep_is_refused_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "sweep.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message) as raised:
        report_sweep(path)
    assert "\n" not in str(raised.value)


def test_a_measurement_of_another_number_of_steps_is_refused(tmp_path: Path) -> None:
    path, manifest = tmp_path / "bench.json", open_manifest(GOLDEN / "v5")
    path.write_text(json.dumps(bench_json(manifest.sampler.steps + 1)))
    with pytest.raises(UsageError, match="measure this one"):
        read_bench(path, manifest)
    path.write_text("{}")
    with pytest.raises(UsageError, match="not what `soda-export bench --json` prints"):
        read_bench(path, manifest)


def test_the_map_of_the_plan_is_found_in_the_stage_store(tmp_path: Path) -> None:
    sensitivity = random_map(TOY, 6)
    content = map_bytes(sensitivity)
    for name, stored in (("a", b"damaged"), ("b", map_bytes(random_map(TOY, 6, seed=1))), ("c", content)):
        folder = tmp_path / f".work/map-{name}"
        folder.mkdir(parents=True)
        (folder / "map.safetensors").write_bytes(stored)
    made = plan_of(TOY, full_work(TOY, 6))
    plan = Plan(made.model, made.sampler, made.guidance, made.schedule, made.token_score, hash_of(content))
    found = find_map(plan, tmp_path / "bundle")
    assert found is not None
    assert np.array_equal(found.reuse_error, sensitivity.reuse_error, equal_nan=True)
    assert find_map(made, tmp_path / "bundle") is None


def test_cells_and_runs_say_the_same_as_the_plan() -> None:
    plan = read_plan(GOLDEN / "v5/plan.json")
    grid = draw_grid(plan.schedule, plan.model)
    order = [k for numbers in plan.model.kinds.values() for k in numbers]
    assert [row["name"] for row in grid.data["rows"]] == [plan.model.names[k] for k in order]
    for row, k in zip(grid.data["rows"], order, strict=True):
        codes = [code for code, count in row["runs"] for _ in range(count)]
        for code, does in zip(codes, plan.schedule.work[:, k].tolist(), strict=True):
            assert code == {COMPUTE: "c", 0: "r", -1: "f1", -2: "f2", IDLE: "i"}.get(does, str(does))
    assert len(grid.by_step) == plan.schedule.steps
    assert msgspec.json.encode(grid.data)

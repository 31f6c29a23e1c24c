"""The instrument itself: what it reports adds up, and is read from where it says."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError
from soda_runtime.manifest import Manifest
from soda_runtime.request import example_request

from soda_export.bench import BenchOptions, BenchResult, bench_bundle
from soda_export.bench.energy import EnergyMeter
from soda_export.bench.ops import profile_ops
from soda_export.bench.report import markdown, op_rows, plot_steps
from soda_export.bench.timing import Generations, speedup_interval, timing
from soda_export.errors import UsageError
from soda_export.workbench.pipeline import Built
from tests.runtime.bundles import GOLDEN_V5_TEXT

OPTIONS = BenchOptions(batch=2, rounds=3)


@pytest.fixture(scope="module")
def result(tiny_bundle: Built) -> BenchResult:
    return bench_bundle(tiny_bundle.out, OPTIONS, lambda *_: None)


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Built) -> Manifest:
    return Bundle.open(tiny_bundle.out).manifest


def test_latencies_add_up(result: BenchResult, manifest: Manifest) -> None:
    assert len(result.steps_s) == manifest.sampler.steps
    assert sum(program.steps for program in result.programs) == manifest.sampler.steps
    assert {program.file for program in result.programs} == {manifest.programs[s.program].file for s in manifest.steps}
    assert result.latency.low <= result.latency_s <= result.latency.high
    assert result.speedup_interval[0] <= result.speedup <= result.speedup_interval[1]
    assert result.realization == pytest.approx(result.speedup / result.flops_ratio)
    full = manifest.programs[manifest.baseline_program].flops
    for program in result.programs:
        flops = next(p.flops for p in manifest.programs if p.file == program.file)
        assert program.flops_share == pytest.approx(flops / full)
        assert program.time_share == pytest.approx(program.latency.median / result.baseline_step.median)


def test_the_conditions_of_a_measurement_are_part_of_it(result: BenchResult) -> None:
    given = result.conditions
    assert given.processor
    assert given.usable_cores > 0
    assert datetime.fromisoformat(given.date).utcoffset() == timedelta(0)
    assert {"soda-export", "python", "ort"} <= given.versions.keys()
    page = markdown(result, {})
    assert given.processor in page
    assert given.date in page
    assert result.decoder_s is result.text_encoder_s is None


def test_text_encoder_and_decoder_are_timed_apart() -> None:
    found = bench_bundle(GOLDEN_V5_TEXT, BenchOptions(batch=1, rounds=1), lambda *_: None)
    assert found.text_encoder_s is not None
    assert found.text_encoder_s > 0
    assert found.decoder_s is not None
    assert found.decoder_s > 0
    assert markdown(found, {}).count("not in the latency") == 2


def test_a_generation_is_its_steps_and_what_is_before_them(tiny_bundle: Built) -> None:
    bundle = Bundle.open(tiny_bundle.out)
    generations = Generations(bundle.session(), example_request(bundle, 2), accelerated=True)
    for seed in range(3):
        generations.run(seed)
    generations.forget_first()
    for whole, before, steps in zip(generations.whole, generations.before, generations.steps, strict=True):
        assert len(steps) == bundle.manifest.sampler.steps
        assert 0 < before + sum(steps) <= whole


def test_opening_and_memory_are_of_this_bundle(result: BenchResult, manifest: Manifest) -> None:
    opening, memory = result.opening, result.memory_bytes
    assert 0 < opening.to_first_step_s < opening.to_first_latents_s
    assert 0 < opening.all_compute_to_first_step_s < opening.all_compute_to_first_latents_s
    assert memory.arena == manifest.arena.bytes * OPTIONS.batch
    assert memory.weights_once == sum(manifest.files[name].bytes for name in manifest.weights)
    assert memory.weights_resident == memory.weights_private + memory.weights_mapped
    assert memory.peak >= memory.activations


def test_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(3)
    slow, fast = 2.0 + 0.1 * rng.standard_normal(40), 1.0 + 0.1 * rng.standard_normal(40)
    found = timing(slow.tolist())
    assert found.low < 2.0 < found.high
    assert found.high - found.low < 0.2
    low, high = speedup_interval(slow.tolist(), fast.tolist())
    assert low < 2.0 < high


@pytest.mark.parametrize(("backend", "product"), [("ort", "MatMul"), ("openvino", "FullyConnected")])
def test_operators_are_counted_a_run(tiny_bundle: Built, backend: str, product: str) -> None:
    """A computed step has more products than a reused one, and the counts are of one run."""
    manifest = Bundle.open(tiny_bundle.out).manifest
    times = profile_ops(tiny_bundle.out, BenchOptions(batch=2, backend=backend))
    assert times.keys() == {program.file for program in manifest.programs}
    by_flops = sorted(manifest.programs, key=lambda program: program.flops)
    counts = [sum(op.count for op in times[p.file] if op.op in (product, "Gemm")) for p in (by_flops[0], by_flops[-1])]
    assert 0 <= counts[0] < counts[1] <= 20
    assert all(op.seconds > 0 for op in times[by_flops[-1].file] if op.is_product)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_every_move_is_named_by_what_it_stands_between(tiny_bundle: Built, backend: str) -> None:
    """A reused step reads its cache; a pruned one writes back the tokens that it kept."""
    times = profile_ops(tiny_bundle.out, BenchOptions(backend=backend))
    kinds = [op for program in times.values() for op in program]
    assert not any(op.moves for op in kinds if op.is_product)
    for op in kinds:
        assert len(op.moves) in (0, op.count)
        assert sum(move.seconds for move in op.moves) == pytest.approx(op.seconds if op.moves else 0.0)
    scattered = [move.what for op in kinds if op.op.startswith("Scatter") for move in op.moves]
    assert scattered
    assert all("cache.transformer_blocks." in what.split(" -> ")[0] for what in scattered)
    first = next(iter(times.values()))
    rows = op_rows(first)
    assert [row[0] for row in rows if row[1]] == [op.op for op in first]
    assert all(row[0].startswith("  ") for row in rows if not row[1])


def test_operators_of_another_backend_are_refused(tiny_bundle: Built) -> None:
    with pytest.raises(UsageError, match="--ops"):
        profile_ops(tiny_bundle.out, BenchOptions(device="cuda"))


def test_the_page_and_the_picture_are_written(result: BenchResult, tmp_path: Path) -> None:
    page = markdown(result, {})
    assert f"{result.speedup:.2f}x" in page
    assert all(program.file in page for program in result.programs)
    (tmp_path / "steps.png").write_bytes(plot_steps(result, "png"))
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")


def test_energy_is_read_from_the_packages_counters(tmp_path: Path) -> None:
    for name, energy in (("intel-rapl:0", 500), ("intel-rapl:0:0", 7), ("intel-rapl:1", 900)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{energy}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    assert before == (500, 900)  # the core's own counter is part of its package's
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("800\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("100\n")  # wrapped around
    assert meter.joules(before, meter.read()) == pytest.approx((300 + 200) / 1e6)
    assert EnergyMeter(tmp_path / "none").joules((), ()) is None


def test_weights_are_shared_where_the_backend_can(tiny_bundle: Built) -> None:
    """The same numbers either way; memory is measured by benchmarks/weights.py on a model that is worth it."""
    found = [Bundle.open(tiny_bundle.out, weights=w).session().generate(3, seed=5) for w in ("shared", "prepacked")]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    with pytest.raises(EngineError, match="weights 'shared'"):
        Bundle.open(tiny_bundle.out, backend="openvino", weights="shared")
    with pytest.raises(EngineError, match="weights 'both'"):
        Bundle.open(tiny_bundle.out, weights="both")

"""The sensitivity map: right numbers, resumable, deterministic, independent of the memory limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from soda_export.errors import PlanError
from soda_export.models.identity import rows_per_sample
from soda_export.options import ProfileOptions
from soda_export.plan.sensitivity import RATES, Metric, SensitivityMap, map_bytes, read_map
from soda_export.profile import profile as profile_module
from soda_export.profile.calibration import LabelCalibration
from soda_export.profile.metric import reuse_and_prune_errors, token_terms
from soda_export.profile.profile import profile_denoiser
from tests.conftest import OpenBench


def make_map(
    open_bench: OpenBench, partial: Path, metric: Metric = "cosine", samples: int = 12, memory: int = 1 << 30,
    steps: int = 11, guidance: float = 1.5, bf16: bool = False,
) -> SensitivityMap:  # fmt: skip
    bench = open_bench(steps=steps, guidance=guidance)
    calibration = LabelCalibration(bench.loaded.denoiser.spec, rows_per_sample(guidance))
    return profile_denoiser(
        bench.loaded.denoiser, bench.sampler, calibration, identity=bench.identity, guidance=guidance,
        samples=samples, seed=7, metric=metric, token_score="mean", bf16=bf16, memory_bytes=memory, partial=partial,
        progress=lambda *_: None,
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["cosine", "l1", "l2"])
def test_prune_error_is_what_mixing_tokens_gives(metric: Metric) -> None:
    torch.manual_seed(0)
    new, old = torch.randn(2, 2, 16, 8), torch.randn(2, 2, 16, 8)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    found = reuse_and_prune_errors(token_terms(new, old, metric), order, metric)
    for column, rate in enumerate([1.0, *RATES]):
        mixed = old.clone()
        for b in range(2):
            kept = order[b, : round((1 - rate) * 16)]
            mixed[b, :, kept] = new[b, :, kept]
        for b in range(2):
            if metric == "cosine":
                expected = (1 - torch.nn.functional.cosine_similarity(new[b], mixed[b], dim=-1)).mean()
            else:
                power = 1 if metric == "l1" else 2
                expected = (new[b] - mixed[b]).norm(power) / new[b].norm(power)
            assert float(found[b, column]) == pytest.approx(float(expected), abs=1e-6)


def test_errors_grow_with_the_pruned_share_and_exist_only_where_history_does(
    open_bench: OpenBench, tmp_path: Path
) -> None:
    found = make_map(open_bench, tmp_path / "sums.npz")
    assert np.isnan(found.reuse_error[0]).all()
    assert np.isfinite(found.reuse_error[10, :, :, :9]).all()
    assert np.isnan(found.reuse_error[3, :, :, 3:]).all()
    valid = np.isfinite(found.reuse_error)
    curves = np.concatenate([found.prune_error, found.reuse_error[..., None]], axis=-1)[valid]
    assert (np.diff(curves, axis=-1) >= -1e-7).all()
    assert (found.reuse_spread[valid] >= 0).all()


def test_a_profile_is_deterministic(open_bench: OpenBench, tmp_path: Path) -> None:
    first = make_map(open_bench, tmp_path / "a.npz")
    assert map_bytes(first) == map_bytes(make_map(open_bench, tmp_path / "b.npz"))


def test_a_small_memory_limit_only_costs_passes(open_bench: OpenBench, tmp_path: Path) -> None:
    whole = make_map(open_bench, tmp_path / "a.npz")
    ranges = make_map(open_bench, tmp_path / "b.npz", memory=1)
    np.testing.assert_array_equal(whole.reuse_error, ranges.reuse_error)
    np.testing.assert_array_equal(whole.hidden_error, ranges.hidden_error)


def test_a_killed_profile_resumes_to_the_same_map(
    open_bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_map(open_bench, tmp_path / "whole.npz")
    runs = []
    original = profile_module._Pass.run

    def dies_in_the_second(self: object, advance: object) -> None:
        runs.append(1)
        if len(runs) == 2:
            raise KeyboardInterrupt
        original(self, advance)  # type: ignore[arg-type]

    monkeypatch.setattr(profile_module._Pass, "run", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        make_map(open_bench, tmp_path / "partial.npz")
    assert map_bytes(make_map(open_bench, tmp_path / "partial.npz")) == map_bytes(whole)
    assert len(runs) == 3  # two batches; the finished one was not run again


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04 not a zip at all"])
def test_damaged_unfinished_work_is_done_again(open_bench: OpenBench, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sums.npz").write_bytes(content)
    whole = make_map(open_bench, tmp_path / "whole.npz", samples=2)
    assert map_bytes(make_map(open_bench, tmp_path / "sums.npz", samples=2)) == map_bytes(whole)


def test_profiling_without_guidance_works(open_bench: OpenBench, tmp_path: Path) -> None:
    assert np.isfinite(make_map(open_bench, tmp_path / "sums.npz", guidance=1.0).reuse_error[5, :, :, 0]).all()


def test_a_map_survives_its_file_and_damage_is_named(open_bench: OpenBench, tmp_path: Path) -> None:
    found = open_bench(steps=11).profile(ProfileOptions(samples=4))
    path = tmp_path / "x.map.safetensors"
    path.write_bytes(map_bytes(found))
    again = read_map(path)
    assert map_bytes(again) == map_bytes(found)
    assert 0 < again.relative_standard_error() < 1
    path.write_bytes(map_bytes(found)[:-10])
    with pytest.raises(PlanError, match=r"x\.map\.safetensors"):
        read_map(path)
    with pytest.raises(PlanError, match="no such file"):
        read_map(tmp_path / "missing.safetensors")

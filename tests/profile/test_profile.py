"""The sensitivity map: right numbers, resumable, deterministic, told before it starts what it will take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soda_export.eager.model import EagerModel
from soda_export.eager.sampling import Sampling, sample_noise
from soda_export.models.identity import SamplerIdentity
from soda_export.models.spec import STACK
from soda_export.plan.sensitivity import RATES, Metric, SensitivityMap, map_bytes, read_map
from soda_export.profile import estimate
from soda_export.profile import profile as profile_module
from soda_export.profile.history import SiteHistory
from soda_export.profile.metric import reuse_and_prune_errors, reuse_errors, token_terms
from soda_export.profile.profile import ProfileSettings, estimate_profile, profile_denoiser
from soda_export.profile.subset import as_tokens, fit_history, history_bytes, tokens_and_width
from soda_export.sampler import SamplerTable, freeze_sampler
from tests.eager.toys import digits, toy_conditions, toy_dit, toy_pixart

DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False}
SETTINGS = ProfileSettings(SamplerIdentity("ddim", 11), 1.5, 12, 7, "cosine", "mean", "fp32", 1 << 30)


def make_map(
    partial: Path, settings: ProfileSettings = SETTINGS, model: EagerModel | None = None, **changed: Any
) -> SensitivityMap:
    settings, model = replace(settings, **changed), model or toy_dit()
    return profile_denoiser(
        model, sampler_of(settings), toy_conditions(model), settings, partial=partial, progress=lambda *_: None
    )


def sampler_of(settings: ProfileSettings) -> SamplerTable:
    return freeze_sampler(settings.identity.name, DDIM, settings.identity.steps)


@pytest.mark.parametrize("metric", ["cosine", "l1", "l2"])
def test_prune_error_is_what_mixing_tokens_gives(metric: Metric) -> None:
    torch.manual_seed(0)
    new, old = torch.randn(2, 2, 16, 8), torch.randn(2, 2, 16, 8)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    found = reuse_and_prune_errors(token_terms([new], [old[None]], metric), order[None], metric)[0]
    for column, rate in enumerate([1.0, *RATES]):
        mixed = old.clone()
        for b in range(2):
            kept = order[b, : round((1 - rate) * 16)]
            mixed[b, :, kept] = new[b, :, kept]
        for b in range(2):
            expected = error_of(new[b], mixed[b], metric)
            assert float(found[b, column]) == pytest.approx(expected, abs=1e-6)


def error_of(new: torch.Tensor, old: torch.Tensor, metric: Metric) -> float:
    if metric == "cosine":
        return float((1 - torch.nn.functional.cosine_similarity(new, old, dim=-1)).mean())
    power = 1 if metric == "l1" else 2
    return float((new - old).norm(power) / new.norm(power))


@pytest.mark.parametrize("metric", ["cosine", "l1", "l2"])
def test_several_outputs_are_one_row_of_tokens(metric: Metric) -> None:
    """And comparing in pieces, as large outputs are, changes nothing."""
    torch.manual_seed(0)
    new = [torch.randn(2, 2, n, 8) for n in (16, 5)]
    old = [torch.randn(3, *tensor.shape) for tensor in new]
    terms = token_terms(new, old, metric)
    assert terms.shape == (3, 2, 21)
    both, older = torch.cat(new, dim=2), torch.cat(old, dim=3)
    found = reuse_errors(terms, metric)
    assert float(found[1, 0]) == pytest.approx(error_of(both[0], older[1, 0], metric), abs=1e-6)
    torch.testing.assert_close(found, reuse_errors(token_terms([both], [older], metric), metric))


def test_errors_grow_with_the_pruned_share_and_exist_only_where_history_does(tmp_path: Path) -> None:
    found = make_map(tmp_path / "sums.npz")
    assert np.isnan(found.reuse_error[0]).all()
    assert np.isfinite(found.reuse_error[10, :, :9]).all()
    assert np.isnan(found.reuse_error[3, :, 3:]).all()
    stack = found.info.model.kinds[STACK][0]
    assert np.isnan(found.prune_error[:, stack]).all()
    others = np.delete(np.concatenate([found.prune_error, found.reuse_error[..., None]], axis=-1), stack, axis=1)
    curves = others[np.isfinite(others[..., -1])]
    assert (np.diff(curves, axis=-1) >= -1e-7).all()
    assert (found.reuse_spread[np.isfinite(found.reuse_error)] >= 0).all()


def test_the_stack_is_measured_by_cosine_whatever_the_metric(tmp_path: Path) -> None:
    cosine, other = (make_map(tmp_path / f"{metric}.npz", metric=metric) for metric in ("cosine", "l1"))
    np.testing.assert_array_equal(cosine.hidden_error, other.hidden_error)
    assert not np.array_equal(cosine.reuse_error[:, 0], other.reuse_error[:, 0], equal_nan=True)


def test_the_first_comparison_is_the_error_of_two_model_calls(tmp_path: Path) -> None:
    """The map's numbers by another way: outputs of two calls, compared here."""
    model, settings = toy_dit(), replace(SETTINGS, samples=1, guidance=1.0, metric="l2")
    found, sampler = make_map(tmp_path / "sums.npz", settings, model), sampler_of(settings)
    seen: list[torch.Tensor] = []
    k = next(k for k, site in enumerate(model.spec.sites) if site.kind == "ff")
    handle = model.module.get_submodule(model.spec.sites[k].name).register_forward_hook(
        lambda module, args, output: seen.append(output)
    )
    inputs = toy_conditions(model).rows([0], 1)
    Sampling(model, inputs, sample_noise(7, 0, [0], model.spec.latent_shape), 1.0, 1).run(sampler)
    handle.remove()
    assert found.reuse_error[1, k, 0] == pytest.approx(error_of(seen[1], seen[0], "l2"), rel=2e-3)  # fp16
    assert found.reuse_error[9, k, 4] == pytest.approx(error_of(seen[9], seen[4], "l2"), rel=2e-3)


def test_a_profile_is_deterministic(tmp_path: Path) -> None:
    assert map_bytes(make_map(tmp_path / "a.npz")) == map_bytes(make_map(tmp_path / "b.npz"))


def test_less_memory_runs_fewer_samples_at_once_before_it_leaves_tokens_out(tmp_path: Path) -> None:
    spec = toy_dit().spec
    one = history_bytes(spec, 2, 1.0)
    assert [fit_history(spec, 2, 32, memory).batch for memory in (1 << 30, 5 * one, one, 1)] == [8, 4, 1, 1]
    assert fit_history(spec, 2, 32, one).share == 1.0
    assert fit_history(spec, 2, 3, 1 << 30).bytes == 3 * one
    whole, single = (make_map(tmp_path / f"{memory}.npz", memory_bytes=memory) for memory in (1 << 30, one))
    np.testing.assert_allclose(whole.reuse_error, single.reuse_error, rtol=2e-2, atol=1e-6)  # other batches round so


def test_outputs_of_any_shape_are_compared_by_places() -> None:
    for shape in ((5,), (7, 5), (5, 2, 3), (5, 4, 2, 3)):
        tokens = as_tokens(torch.zeros(2, *shape))
        assert tuple(tokens.shape) == (2, *tokens_and_width(shape))
        assert tokens.shape[-1] == 5


def test_a_quarter_of_the_tokens_ranks_sites_and_steps_as_all_do(tmp_path: Path) -> None:
    model = digits()
    settings = replace(SETTINGS, samples=4)
    quarter = history_bytes(model.spec, 2, 0.25)
    watched = fit_history(model.spec, 2, 4, quarter)
    whole, part = (make_map(tmp_path / f"{m}.npz", settings, model, memory_bytes=m) for m in (1 << 30, quarter))
    assert watched.tokens(64) == 16
    for name in ("reuse_error", "prune_error"):
        a, b = getattr(whole, name), getattr(part, name)
        valid = np.isfinite(a)
        assert (np.isfinite(b) == valid).all()
        correlation = np.corrcoef(ranks(a[valid]), ranks(b[valid]))[0, 1]
        print(f"digits, 16 of 64 tokens, {name}: rank correlation {correlation:.4f}")
        assert correlation >= 0.98


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def test_a_killed_profile_resumes_to_the_same_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_map(tmp_path / "whole.npz")
    runs = []
    original = profile_module.WatchedBatch.run

    def dies_in_the_second(self: object, advance: object) -> None:
        runs.append(1)
        if len(runs) == 2:
            raise KeyboardInterrupt
        original(self, advance)  # type: ignore[arg-type]

    monkeypatch.setattr(profile_module.WatchedBatch, "run", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        make_map(tmp_path / "partial.npz")
    assert map_bytes(make_map(tmp_path / "partial.npz")) == map_bytes(whole)
    assert len(runs) == 3  # two batches; the finished one was not run again


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04 not a zip at all"])
def test_damaged_unfinished_work_is_done_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sums.npz").write_bytes(content)
    whole = make_map(tmp_path / "whole.npz", samples=2)
    assert map_bytes(make_map(tmp_path / "sums.npz", samples=2)) == map_bytes(whole)


def test_profiling_without_guidance_works(tmp_path: Path) -> None:
    assert np.isfinite(make_map(tmp_path / "sums.npz", guidance=1.0).reuse_error[5, :, 0]).all()


@pytest.mark.parametrize("score", ["mean", "abs-mean", "cached"])
def test_every_score_ranks_tokens(tmp_path: Path, score: Any) -> None:
    found = make_map(tmp_path / "sums.npz", token_score=score, samples=2)
    assert np.isfinite(found.prune_error[5, 0, :5]).all()
    assert found.info.token_score == score


def test_a_map_survives_its_file(tmp_path: Path) -> None:
    found = make_map(tmp_path / "sums.npz", samples=4)
    path = tmp_path / "x.map.safetensors"
    path.write_bytes(map_bytes(found))
    again = read_map(path)
    assert map_bytes(again) == map_bytes(found)
    assert 0 < again.relative_standard_error() < 1


@pytest.mark.parametrize("make", [toy_dit, toy_pixart])
def test_a_bf16_profile_is_close_to_one_in_fp32(make: Any, tmp_path: Path) -> None:
    """Means of the errors that a plan is made of: within a few per cent of each other."""
    model, identity = make(), SamplerIdentity("ddim", 6)
    same = {"model": model, "identity": identity, "samples": 4}
    full, half = (make_map(tmp_path / f"{p}.npz", precision=p, **same) for p in ("fp32", "bf16"))
    a, b = full.mean_reuse_error()[1:], half.mean_reuse_error()[1:]
    valid = a > 0
    worst = float((np.abs(a - b)[valid] / a[valid]).max())
    print(f"{model.family.name}: bf16 changes mean reuse errors by at most {worst:.1%}")
    assert 0 < worst <= 0.1


def test_an_estimate_counts_every_call_and_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a call takes a second, and comparing a site with one older output a hundredth."""
    model, settings, clock = toy_dit(), replace(SETTINGS, samples=16), [0.0]
    call, compare = EagerModel.call, SiteHistory.compare

    def timed_call(*args: Any, **kwargs: Any) -> torch.Tensor:
        clock[0] += 1.0
        return call(*args, **kwargs)

    def timed_compare(history: SiteHistory, *args: Any) -> torch.Tensor:
        errors = compare(history, *args)
        clock[0] += 0.01 * len(errors)
        return errors

    monkeypatch.setattr(EagerModel, "call", timed_call)
    monkeypatch.setattr(SiteHistory, "compare", timed_compare)
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: clock[0])
    cost = estimate_profile(model, sampler_of(settings), toy_conditions(model), settings)
    intervals = sum(min(step, 9) for step in range(11))
    assert cost.seconds == pytest.approx(2 * (11 * 1.0 + 0.01 * len(model.spec.sites) * intervals))  # two batches
    assert clock[0] < 4.0  # after three calls
    assert cost.share == 1.0
    assert cost.bytes == history_bytes(model.spec, 16, 1.0) + sum(4 * p.numel() for p in model.module.parameters())


def test_a_line_a_minute_tells_how_far_it_is_where_there_is_no_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(profile_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(profile_module.sys.stderr, "isatty", lambda: False, raising=False)
    report = profile_module._Reports(lambda *_: None, 20, 100)
    with caplog.at_level("INFO", "soda_export"):
        for done in range(21, 41):
            now[0] += 30.0
            report(done)
    lines = [record.message for record in caplog.records]
    assert len(lines) == 10
    assert lines[-1] == "profile: 40%, about 30 min left"

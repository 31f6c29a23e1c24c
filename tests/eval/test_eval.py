"""`soda-export eval`: samples of plans and bundles against the unaccelerated model, scores, and how it says no."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from soda_runtime import Bundle

from soda_export.errors import PlanError, SodaError, UsageError
from soda_export.eval.compare import compare_samples
from soda_export.eval.conditions import SeedConditions
from soda_export.eval.evaluate import EvalOptions, Evaluator
from soda_export.eval.judges import find_judge
from soda_export.eval.judges.digits import DigitsModelJudge
from soda_export.eval.judges.scenes import ScenesJudge
from soda_export.eval.metrics import MAX_PSNR
from soda_export.eval.sample import BundleSamples, ModelSamples, compute_everything
from soda_export.eval.scenes import render
from soda_export.eval.seeds import HELD_OUT_SEEDS, check_held_out, parse_seeds, seed_noise
from soda_export.eval.worlds import held_out_scenes
from soda_export.lower.lower import lower_plan
from soda_export.models.load import ModelRequest
from soda_export.networks import load_networks
from soda_export.options import NetworkOptions
from soda_export.plan.plan import plan_text
from soda_export.workbench.pipeline import Built, Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.tiny import make_plan, mixed_kept

GOLDEN = Path(__file__).parents[1] / "golden"
SEEDS = range(50, 56)


def no_progress(*_: object) -> None:
    pass


def plan_file(bench: Workbench, folder: Path, name: str = "a.plan.json") -> Path:
    spec, options = bench.loaded.spec, bench.options
    plan = make_plan(spec, mixed_kept(modules=len(spec.kinds) - 1), options.sampler, options.eta, options.guidance)
    (folder / name).write_bytes(plan_text(plan))
    return folder / name


def evaluator(
    model: Path | None, folder: Path, seeds: str = "50:56", batch: int = 4,
    against: Literal["itself", "model"] = "itself", **networks: Path,
) -> Evaluator:  # fmt: skip
    request = None if model is None else ModelRequest(str(model))
    store = StageStore(folder / "store")
    options = EvalOptions(seeds, batch, against)
    return Evaluator(options, store, no_progress, model=request, networks=NetworkOptions(**networks))


def test_a_sample_depends_on_its_seed_alone(open_bench: OpenBench, tiny_bundle: Built) -> None:
    bench = open_bench()
    spec = bench.loaded.spec
    table = lower_plan(make_plan(spec, mixed_kept()), spec)
    for source in (ModelSamples(bench).of_table(table), BundleSamples(Bundle.open(tiny_bundle.out), accelerated=True)):
        together = source.draw(SEEDS).latents
        for i, seed in enumerate(SEEDS):
            np.testing.assert_allclose(source.draw(range(seed, seed + 1)).latents[0], together[i], rtol=1e-4, atol=1e-4)


def test_stochastic_samplers_get_the_same_noise_accelerated_or_not(open_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_bench("ddpm")
    samples = ModelSamples(bench)
    reference = samples.of_reference(SEEDS, 4, no_progress)
    table = lower_plan(compute_everything(bench), bench.loaded.spec)
    compared = compare_samples(samples.of_table(table), reference, SEEDS, 2)
    assert compared.scores.rmse.mean < 1e-5
    assert compared.scores.psnr.mean > 90.0
    assert compared.errors.shape == (len(SEEDS),)


def test_a_bundle_scores_as_its_plan_does(
    tiny_model: Path, tiny_bundle: Built, open_bench: OpenBench, tmp_path: Path
) -> None:
    plan = plan_file(open_bench(), tmp_path)
    first, second = evaluator(tiny_model, tmp_path).evaluate([plan, tiny_bundle.out])
    assert first.flops_ratio == pytest.approx(second.flops_ratio)
    assert first.scores.rmse.mean == pytest.approx(second.scores.rmse.mean, rel=1e-2)
    assert first.scores.rmse.low < first.scores.rmse.mean < first.scores.rmse.high
    assert first.scores.frechet_real is first.scores.accuracy is None
    assert list(first.flat())[:6] == ["target", "samples", "flops_ratio", "rmse", "psnr", "frechet_real"]


def test_a_bundle_against_its_model_shows_what_the_engines_cost(
    tiny_model: Path, open_bench: OpenBench, tmp_path: Path
) -> None:
    bench = open_bench()
    everything = bench.build(compute_everything(bench), "ort", tmp_path / "everything").out
    row = evaluator(tiny_model, tmp_path).evaluate([everything])[0]
    assert row.scores.rmse.mean == 0.0  # against itself there is nothing to see
    row = evaluator(tiny_model, tmp_path, against="model").evaluate([everything])[0]
    assert 0.0 < row.scores.rmse.mean < 1e-4


def test_a_bundle_against_another_model_is_refused(tiny_bundle: Built, tiny_pixart: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="tiny: the plan is for model tiny"):
        evaluator(tiny_pixart, tmp_path, against="model").evaluate([tiny_bundle.out])


@pytest.mark.long
def test_a_text_bundle_is_asked_for_the_prompts_of_the_model_that_is_named(
    tiny_pixart: Path, open_text_bench: OpenBench, tmp_path: Path
) -> None:
    bench = open_text_bench()
    plan = make_plan(bench.loaded.spec, mixed_kept(modules=3), "dpm-solver++", 0.0, 4.5)
    built = bench.build(plan, "ort", tmp_path / "bundle")
    folder = tmp_path / "with-prompts"
    shutil.copytree(tiny_pixart, folder)
    (folder / "prompts.txt").write_text("one prompt of its own\nand another\n")
    usual, own = (evaluator(model, tmp_path).evaluate([built.out])[0].scores.rmse for model in (None, folder))
    assert own != usual


def test_scores_do_not_depend_on_the_batch_and_the_reference_is_drawn_once(
    tiny_model: Path, open_bench: OpenBench, tmp_path: Path
) -> None:
    plan = plan_file(open_bench(), tmp_path)
    one, other = (evaluator(tiny_model, tmp_path, batch=batch).evaluate([plan])[0] for batch in (1, 6))
    assert one.scores.rmse.mean == pytest.approx(other.scores.rmse.mean, rel=1e-4)
    assert len(list((tmp_path / "store").glob("reference-*"))) == 1


def test_a_text_model_is_scored_in_pixels(tiny_pixart: Path, open_text_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_text_bench()
    samples = ModelSamples(bench)
    drawn = samples.of_reference(SEEDS, 6, no_progress).draw(range(51, 53))
    assert drawn.images is not None
    assert drawn.images.shape == (2, 3, 16, 16)
    assert len(set(drawn.prompts)) == 2
    (row,) = evaluator(tiny_pixart, tmp_path).evaluate([plan_file(bench, tmp_path)])
    assert 0.0 < row.scores.psnr.mean < MAX_PSNR


def test_a_text_bundle_draws_what_its_plan_draws(open_text_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_text_bench()
    plan = make_plan(bench.loaded.spec, mixed_kept(modules=3), "dpm-solver++", 0.0, 4.5)
    built = bench.build(plan, "ort", tmp_path / "bundle")
    played = BundleSamples(Bundle.open(built.out), accelerated=True).draw(SEEDS)
    eager = ModelSamples(bench).of_table(lower_plan(plan, bench.loaded.spec)).draw(SEEDS)
    assert played.prompts == eager.prompts
    assert played.images is not None
    assert eager.images is not None
    scale = np.abs(eager.latents).max()
    np.testing.assert_allclose(played.latents, eager.latents, rtol=0, atol=1e-3 * scale)
    np.testing.assert_allclose(played.images, eager.images, rtol=0, atol=1e-3)


def test_labels_and_prompts_follow_the_seed(open_bench: OpenBench, open_text_bench: OpenBench) -> None:
    labels = SeedConditions(open_bench())(range(1_000_008, 1_000_012))
    assert labels["labels"].tolist() == [8, 9, 0, 1, 10, 10, 10, 10]
    conditions = SeedConditions(open_text_bench())
    assert conditions.prompts_of(range(3, 4)) == conditions.prompts_of(range(3 + len(conditions.prompts), 68))[:1]


def test_default_seeds_are_not_the_profile_s() -> None:
    seeds = parse_seeds(HELD_OUT_SEEDS)
    check_held_out(seeds, 0)
    with pytest.raises(UsageError, match="is the profile's seed"):
        check_held_out(seeds, seeds.start + 3)
    with pytest.raises(UsageError, match="is the planner's seed"):
        check_held_out(range(1, 5), 0)
    noise = seed_noise(range(7, 9), (1, 8, 8), 2)
    assert noise.steps is not None
    everything = np.concatenate([noise.initial[None], noise.steps]).reshape(-1)
    assert len(np.unique(everything)) == everything.size


@pytest.mark.parametrize("text", ["5", "9:3", "3:3", "3:4", "a:b", "-1:5", "0:9000000", f"{2**64 - 2}:{2**64 + 2}"])
def test_bad_seeds_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def test_what_cannot_be_evaluated_is_one_line(tiny_model: Path, open_bench: OpenBench, tmp_path: Path) -> None:
    plan = plan_file(open_bench(), tmp_path)
    with pytest.raises(UsageError, match=r"missing\.json: no such bundle folder or plan file"):
        evaluator(tiny_model, tmp_path).evaluate([tmp_path / "missing.json"])
    with pytest.raises(UsageError, match="a plan for tiny; say where that model is with --model"):
        evaluator(None, tmp_path).evaluate([plan])
    with pytest.raises(SodaError, match=r"a\.plan\.json: the plan is for model tiny .* not digits"):
        evaluator(Path("digits"), tmp_path).evaluate([plan])
    with pytest.raises(SodaError, match="manifest"):
        evaluator(None, tmp_path).evaluate([tmp_path])
    with pytest.raises(UsageError, match="--batch 0"):
        evaluator(None, tmp_path, batch=0)


def test_the_digits_judge_knows_real_digits() -> None:
    judge = find_judge("digits", (1, 8, 8))
    assert isinstance(judge, DigitsModelJudge)
    from soda_export.eval.digits import load_digits_split

    split = load_digits_split()
    images, labels = split.held_out_images / 2 + 0.5, split.held_out_labels
    by_label = [np.flatnonzero(labels == digit)[0] for digit in range(10)]
    assert judge.verdicts(images[by_label], range(1_000_000, 1_000_010)).mean() >= 0.9
    assert judge.features(images).shape == judge.real_features().shape


def test_the_shapes_judge_reads_rendered_scenes() -> None:
    judge = find_judge("shapes", (4, 16, 16))
    assert isinstance(judge, ScenesJudge)
    scenes = held_out_scenes()
    images = np.stack([render(scene) for scene in scenes[10:42]])
    assert judge.verdicts(images, range(10, 42)).mean() >= 0.9
    assert judge.verdicts(images, range(11, 43)).mean() <= 0.1
    assert judge.features(images).shape == (32, 16)
    assert judge.real_features().shape == (512, 16)
    assert find_judge("tiny", (1, 8, 8)) is None


def test_only_a_steered_model_is_judged_by_where_it_draws() -> None:
    scenes, seeds = held_out_scenes(), range(10, 42)
    images = np.stack([render(scene) for scene in scenes[10:42]])
    judges = [find_judge("scenes", (4, 16, 16), is_steered=steered) for steered in (True, False)]
    assert judges[1].overlaps(images, seeds) is None
    overlaps = judges[0].overlaps(images, seeds)
    assert overlaps.shape == (32,)
    assert (overlaps == 1).all()
    assert judges[0].overlaps(images, range(11, 43)).mean() <= 0.5
    assert isinstance(find_judge("shapes-flux", (64, 16)), ScenesJudge)


def test_missing_packages_and_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for option, module in (("inception", "torch_fidelity"), ("lpips", "lpips")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=rf"--{option} needs .*soda-export\[metrics\]"):
            load_networks(NetworkOptions(**{option: tmp_path / "weights.pth"}))
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        with pytest.raises(UsageError, match=rf"--{option} .*weights\.pth: no such file"):
            load_networks(NetworkOptions(**{option: tmp_path / "weights.pth"}))
    with pytest.raises(UsageError, match=r"--clip .*: no such folder"):
        load_networks(NetworkOptions(clip=tmp_path / "nowhere"))


def save_tiny_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "max_position_embeddings": 20,
            "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}  # fmt: skip
    vision = {**small, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return folder


def test_clip_scores_come_from_a_local_folder(tiny_pixart: Path, open_text_bench: OpenBench, tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip")
    plan = plan_file(open_text_bench(), tmp_path)
    (row,) = evaluator(tiny_pixart, tmp_path, clip=clip).evaluate([plan])
    assert row.scores.clip_score is not None
    assert row.scores.clip_score_reference is not None
    assert 0.0 <= row.scores.clip_score.low <= row.scores.clip_score.high <= 100.0


def test_clip_is_refused_where_there_are_no_prompts(tiny_model: Path, open_bench: OpenBench, tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip")
    with pytest.raises(UsageError, match="--clip: compares pictures with prompts"):
        evaluator(tiny_model, tmp_path, clip=clip).evaluate([plan_file(open_bench(), tmp_path)])


def test_inception_and_lpips_are_asked_with_local_weights(
    tiny_model: Path, open_bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for both packages."""
    weights = tmp_path / "weights.pth"
    torch.save({"features.0.weight": torch.ones(1, 3, 1, 1)}, weights)
    inception, lpips = types.ModuleType("torch_fidelity"), types.ModuleType("lpips")

    class Inception:
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
            assert features == ["2048"]
            assert feature_extractor_weights_path == str(weights)

        def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            assert images.dtype == torch.uint8
            assert images.shape[1] == 3
            return (images.float().mean(dim=1).flatten(1),)

    class Lpips(torch.nn.Module):
        def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
            super().__init__()
            assert (net, pnet_rand) == ("alex", True)
            self.net = torch.nn.Module()
            self.net.slice1 = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1, bias=False))

        def forward(self, a: torch.Tensor, b: torch.Tensor, normalize: bool) -> torch.Tensor:
            assert normalize
            return self.net.slice1(a - b).abs().mean(dim=(1, 2, 3), keepdim=True)

    inception.FeatureExtractorInceptionV3, lpips.LPIPS = Inception, Lpips  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", inception)
    monkeypatch.setitem(sys.modules, "lpips", lpips)
    asked = evaluator(tiny_model, tmp_path, inception=weights, lpips=weights)
    (row,) = asked.evaluate([plan_file(open_bench(), tmp_path)])
    assert row.scores.fid_reference is not None
    assert row.scores.lpips is not None
    assert row.scores.lpips.mean > 0.0


def test_weights_that_hold_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"x": Path("/")}, tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    with pytest.raises(UsageError, match=r"--inception .*weights\.pth: cannot be loaded"):
        load_networks(NetworkOptions(inception=tmp_path / "weights.pth"))


def test_the_verb_prints_rows(
    tiny_bundle: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from soda_export.cli.evaluate import evaluate

    monkeypatch.chdir(tmp_path)
    evaluate(tiny_bundle.out, options=EvalOptions("50:56", 6), json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["target"] == str(tiny_bundle.out)
    assert row["rmse"].keys() == {"mean", "low", "high"}
    assert row["accuracy"] is None
    evaluate(tiny_bundle.out, options=EvalOptions("50:56", 6))
    assert "RMSE of latents" in capsys.readouterr().out


def test_a_bundle_of_clips_is_drawn_with_channels_where_a_decoder_has_them() -> None:
    bundle = Bundle.open(GOLDEN / "v5-chunks")
    drawn = BundleSamples(bundle, accelerated=True).draw(range(5, 7))
    assert drawn.images is not None
    assert drawn.images.shape == (2, *bundle.manifest.finish[0].shape)  # [B, frames, channels, height, width]
    request = {"labels": [5, 6], "noise": seed_noise(range(5, 7), bundle.manifest.model.latent_shape, 0)}
    session = bundle.session()
    session.generate(**request)
    assert np.array_equal(np.moveaxis(session.result(), -1, 2), drawn.images)

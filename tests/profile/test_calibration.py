"""What the generations of a profile are conditioned on, and in which precision they run."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soda_export.build.pipeline import Workbench
from soda_export.build.stages import StageStore
from soda_export.errors import PlanError, UsageError
from soda_export.models.load import load_denoiser
from soda_export.models.spec import TextCondition
from soda_export.options import ProfileOptions, SamplerOptions
from soda_export.plan.sensitivity import SensitivityMap
from soda_export.profile.calibration import DEFAULT_PROMPTS, TextCalibration, TextSamples, random_texts, read_prompts
from tests.conftest import OpenBench
from tests.tiny import save_tiny_pixart

PROMPTS = ["a red circle", "a blue square above a red circle and more", "red"]
MAPS = ("reuse_error", "reuse_spread", "prune_error", "prune_spread", "hidden_error")


def differences(a: SensitivityMap, b: SensitivityMap) -> float:
    """The largest difference between two maps."""
    return max(float(np.nanmax(np.abs(getattr(a, name) - getattr(b, name)))) for name in MAPS)


@torch.no_grad()
def test_prompts_get_the_embeddings_that_transformers_gives_them(open_text_bench: OpenBench, tiny_pixart: Path) -> None:
    from transformers import T5EncoderModel, T5Tokenizer

    tokens = T5Tokenizer.from_pretrained(tiny_pixart / "tokenizer")(
        [*PROMPTS, ""], padding="max_length", truncation=True, max_length=8, return_tensors="pt"
    )
    model = T5EncoderModel.from_pretrained(tiny_pixart / "text_encoder").eval()
    expected = model(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    found = open_text_bench().components.encode(PROMPTS)
    assert torch.equal(torch.cat([found.mask, found.negative_mask]), tokens.attention_mask)
    torch.testing.assert_close(torch.cat([found.embeds, found.negative_embeds]), expected, rtol=0, atol=1e-5)


def write_embeds(path: Path, texts: TextSamples) -> Path:
    """As diffusers' encode_prompt names them."""
    save_file(
        {
            "prompt_embeds": texts.embeds.contiguous(), "prompt_attention_mask": texts.mask.contiguous(),
            "negative_prompt_embeds": texts.negative_embeds.contiguous(),
            "negative_prompt_attention_mask": texts.negative_mask.contiguous(),
        },
        path,
    )  # fmt: skip
    return path


def test_embeddings_from_a_file_profile_like_the_prompts_they_come_from(
    open_text_bench: OpenBench, tmp_path: Path
) -> None:
    bench = open_text_bench(steps=4)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]) + "\n\n")
    by_prompts = bench.profile(ProfileOptions(samples=2, prompts=tmp_path / "prompts.txt"))
    path = write_embeds(tmp_path / "embeds.safetensors", bench.components.encode(PROMPTS[:2]))
    by_file = bench.profile(ProfileOptions(samples=2, profile_embeds=path))
    assert differences(by_prompts, by_file) == 0.0
    assert np.isfinite(by_file.reuse_error[3, :, :, :3]).all()
    assert by_file.reuse_error.shape == (4, 3, 3, 9)
    (tmp_path / "other.txt").write_text("square\n")
    other = bench.profile(ProfileOptions(samples=2, prompts=tmp_path / "other.txt"))
    assert differences(by_prompts, other) > 0


def test_a_changed_embeddings_file_is_profiled_anew(open_text_bench: OpenBench, tmp_path: Path) -> None:
    bench, path = open_text_bench(steps=3), tmp_path / "embeds.safetensors"
    texts = bench.components.encode(PROMPTS)
    first = bench.profile(ProfileOptions(samples=2, profile_embeds=write_embeds(path, texts)))
    changed = replace(texts, embeds=2 * texts.embeds)
    second = bench.profile(ProfileOptions(samples=2, profile_embeds=write_embeds(path, changed)))
    assert differences(first, second) > 0


def test_the_model_own_prompts_come_before_the_built_in_ones(
    open_text_bench: OpenBench, tiny_pixart: Path, tmp_path: Path
) -> None:
    bench = open_text_bench(steps=2)
    assert bench.calibration_texts(ProfileOptions()) == list(DEFAULT_PROMPTS)
    own = tiny_pixart / "prompts.txt"
    own.write_text("a red circle\n")
    try:
        assert bench.calibration_texts(ProfileOptions()) == ["a red circle"]
        (tmp_path / "mine.txt").write_text("blue\n")
        assert bench.calibration_texts(ProfileOptions(prompts=tmp_path / "mine.txt")) == ["blue"]
    finally:
        own.unlink()


def test_without_a_text_encoder_embeddings_are_random_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_denoiser(str(save_tiny_pixart(tmp_path / "model", vae=False, text=False)))
    bench = Workbench(
        loaded, SamplerOptions("dpm-solver++", 3, 0.0, 4.5), StageStore(tmp_path / "work"), lambda *_: None
    )
    with caplog.at_level(logging.WARNING, "soda_export"):
        found = bench.profile(ProfileOptions(samples=1))
    assert "no text encoder at hand, so random embeddings are used" in caplog.text
    assert np.isfinite(found.reuse_error[2, :, :, :2]).all()


def test_random_texts_depend_on_the_seed_alone() -> None:
    condition = TextCondition(max_tokens=5, embed_width=3)
    a, b, c = (random_texts(condition, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(a.embeds, b.embeds)
    assert not torch.equal(a.embeds, c.embeds)
    assert (a.embeds.shape, a.negative_embeds.shape, a.mask.shape) == ((4, 5, 3), (1, 5, 3), (4, 5))


def test_texts_take_turns_and_the_unconditional_half_follows() -> None:
    texts = random_texts(TextCondition(max_tokens=5, embed_width=3), 2, 0)
    rows = TextCalibration(texts, 2)(range(1, 4))
    assert torch.equal(rows.embeds[:3], texts.embeds[[1, 0, 1]])
    assert torch.equal(rows.embeds[3:], texts.negative_embeds.expand(3, -1, -1))
    assert rows.mask.shape == (6, 5)
    assert TextCalibration(texts, 1)(range(3)).embeds.shape == (3, 5, 3)


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["negative_prompt_attention_mask"]


def _narrow(tensors: dict[str, torch.Tensor]) -> None:
    tensors["prompt_embeds"] = tensors["prompt_embeds"][:, :, :4].contiguous()


def _short_mask(tensors: dict[str, torch.Tensor]) -> None:
    tensors["prompt_attention_mask"] = tensors["prompt_attention_mask"][:, :4].contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, "lacks negative_prompt_embeds or negative_prompt_attention_mask"),
        (_narrow, r"prompt_embeds \[3, 8, 4\] .* the model takes \[n, 8, 16\]"),
        (_short_mask, r"its mask \[3, 4\]"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(
    open_text_bench: OpenBench, tmp_path: Path, change: object, message: str
) -> None:
    bench = open_text_bench(steps=2)
    path = write_embeds(tmp_path / "embeds.safetensors", bench.components.encode(PROMPTS))
    tensors = load_file(path)
    change(tensors)  # type: ignore[operator]
    save_file(tensors, path)
    with pytest.raises(UsageError, match=message) as refused:
        bench.profile(ProfileOptions(samples=1, profile_embeds=path))
    assert "\n" not in str(refused.value)


def test_calibration_files_that_cannot_be_used_are_named(
    open_text_bench: OpenBench, open_bench: OpenBench, tmp_path: Path
) -> None:
    bench = open_text_bench(steps=2)
    for content in (None, b"no tensors"):
        path = tmp_path / "x.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=r"--profile-embeds .*x\.safetensors"):
            bench.profile(ProfileOptions(samples=1, profile_embeds=path))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UsageError, match=r"empty\.txt: has no prompts"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(UsageError, match=r"missing\.txt: cannot be read"):
        read_prompts(tmp_path / "missing.txt")
    with pytest.raises(UsageError, match="this one takes class labels"):
        open_bench(steps=2).profile(ProfileOptions(samples=1, prompts=tmp_path / "empty.txt"))


def test_prompts_that_nobody_would_read_are_refused(open_text_bench: OpenBench, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("red\n")
    both = ProfileOptions(samples=1, prompts=tmp_path / "prompts.txt", profile_embeds=tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="--prompts and --profile-embeds: give one of them"):
        open_text_bench(steps=2).profile(both)
    loaded = load_denoiser(str(save_tiny_pixart(tmp_path / "model", vae=False, text=False)))
    options = SamplerOptions("dpm-solver++", 2, 0.0, 4.5)
    bench = Workbench(loaded, options, StageStore(tmp_path / "work"), lambda *_: None)
    with pytest.raises(UsageError, match=r"--prompts .*: the model has no text encoder"):
        bench.profile(ProfileOptions(samples=1, prompts=tmp_path / "prompts.txt"))


def test_a_map_for_other_guided_channels_is_refused_with_both_named(open_text_bench: OpenBench) -> None:
    found = open_text_bench(steps=2).profile(ProfileOptions(samples=1))
    with pytest.raises(PlanError, match=r"not dpm-solver.* with 2 steps, 3 channels guided"):
        open_text_bench(steps=2, guided_channels=3).fit_map(found)


@pytest.mark.parametrize("family", ["dit", "pixart"])
def test_a_bf16_profile_is_close_to_one_in_fp32(
    open_bench: OpenBench, open_text_bench: OpenBench, family: str
) -> None:
    """Means of the errors that a plan is made of: within a few per cent of each other."""
    bench = open_bench(steps=6) if family == "dit" else open_text_bench(steps=6)
    full = bench.profile(ProfileOptions(samples=4))
    half = bench.profile(ProfileOptions(samples=4, profile_precision="bf16"))
    a, b = full.mean_reuse_error()[1:], half.mean_reuse_error()[1:]
    valid = a > 0
    worst = float((np.abs(a - b)[valid] / a[valid]).max())
    print(f"{family}: bf16 changes mean reuse errors by at most {worst:.1%}")
    assert 0 < worst <= 0.1

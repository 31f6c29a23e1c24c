"""What the generations of a profile are conditioned on, from prompts and files to the map."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from soda_export.eager.conditions import DEFAULT_PROMPTS, Conditions
from soda_export.errors import PlanError, UsageError
from soda_export.models.load import load_model
from soda_export.options import ProfileOptions, SamplerOptions
from soda_export.plan.sensitivity import SensitivityMap
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.tiny import save_tiny_pixart

PROMPTS = ["a red circle", "a blue square above a red circle and more", "red"]
MAPS = ("reuse_error", "reuse_spread", "prune_error", "prune_spread")


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
    assert torch.equal(both_sides(found, "attention_mask"), tokens.attention_mask)
    torch.testing.assert_close(both_sides(found, "embeds"), expected, rtol=0, atol=1e-5)


def both_sides(conditions: Conditions, port: str) -> torch.Tensor:
    return torch.cat([conditions.positive[port], conditions.negative[port]])


def write_embeds(path: Path, texts: Conditions) -> Path:
    """As diffusers' encode_prompt names them."""
    tensors = {}
    for prefix, side in (("", texts.positive), ("negative_", texts.negative)):
        tensors[f"{prefix}prompt_embeds"] = side["embeds"].contiguous()
        tensors[f"{prefix}prompt_attention_mask"] = side["attention_mask"].contiguous()
    save_file(tensors, path)
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
    assert np.isfinite(by_file.reuse_error[3, :, :3]).all()
    assert by_file.reuse_error.shape == (4, 10, 9)
    (tmp_path / "other.txt").write_text("square\n")
    other = bench.profile(ProfileOptions(samples=2, prompts=tmp_path / "other.txt"))
    assert differences(by_prompts, other) > 0


def test_a_changed_embeddings_file_is_profiled_anew(open_text_bench: OpenBench, tmp_path: Path) -> None:
    bench, path = open_text_bench(steps=3), tmp_path / "embeds.safetensors"
    texts = bench.components.encode(PROMPTS)
    first = bench.profile(ProfileOptions(samples=2, profile_embeds=write_embeds(path, texts)))
    changed = replace(texts, positive={**texts.positive, "embeds": 2 * texts.positive["embeds"]})
    second = bench.profile(ProfileOptions(samples=2, profile_embeds=write_embeds(path, changed)))
    assert differences(first, second) > 0


def test_the_model_own_prompts_come_before_the_built_in_ones(
    open_text_bench: OpenBench, tiny_pixart: Path, tmp_path: Path
) -> None:
    bench = open_text_bench(steps=2)
    assert bench.calibration(ProfileOptions()).prompts == tuple(DEFAULT_PROMPTS)
    own = tiny_pixart / "prompts.txt"
    own.write_text("a red circle\n")
    try:
        assert bench.calibration(ProfileOptions()).prompts == ("a red circle",)
        (tmp_path / "mine.txt").write_text("blue\n")
        assert bench.calibration(ProfileOptions(prompts=tmp_path / "mine.txt")).prompts == ("blue",)
    finally:
        own.unlink()


def test_without_a_text_encoder_embeddings_are_random_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_model(str(save_tiny_pixart(tmp_path / "model", vae=False, text=False)))
    bench = Workbench(
        loaded, SamplerOptions("dpm-solver++", 3, 0.0, 4.5), StageStore(tmp_path / "work"), lambda *_: None
    )
    with caplog.at_level(logging.WARNING, "soda_export"):
        found = bench.profile(ProfileOptions(samples=1))
    assert "no text encoder at hand, so random embeddings are used" in caplog.text
    assert np.isfinite(found.reuse_error[2, :, :2]).all()


def test_prompts_for_a_model_of_classes_are_refused(open_bench: OpenBench, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this one takes class labels"):
        open_bench(steps=2).profile(ProfileOptions(samples=1, prompts=tmp_path / "prompts.txt"))


def test_prompts_that_nobody_would_read_are_refused(open_text_bench: OpenBench, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("red\n")
    both = ProfileOptions(samples=1, prompts=tmp_path / "prompts.txt", profile_embeds=tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="--prompts and --profile-embeds: give one of them"):
        open_text_bench(steps=2).profile(both)
    loaded = load_model(str(save_tiny_pixart(tmp_path / "model", vae=False, text=False)))
    options = SamplerOptions("dpm-solver++", 2, 0.0, 4.5)
    bench = Workbench(loaded, options, StageStore(tmp_path / "work"), lambda *_: None)
    with pytest.raises(UsageError, match=r"--prompts .*: the model has no text encoder"):
        bench.profile(ProfileOptions(samples=1, prompts=tmp_path / "prompts.txt"))


def test_a_map_for_other_guided_channels_is_refused_with_both_named(open_text_bench: OpenBench) -> None:
    found = open_text_bench(steps=2).profile(ProfileOptions(samples=1))
    with pytest.raises(PlanError, match=r"not dpm-solver.* with 2 steps, 3 channels guided"):
        open_text_bench(steps=2, guided_channels=3).fit_map(found)

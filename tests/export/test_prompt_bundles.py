"""Bundles of families with several text encoders draw from prompts as diffusers' pipelines do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, Embeds, Noise, RequestError, Session
from soda_runtime.manifest import TokenIdsPort

from soda_export.build.pipeline import Built, Workbench
from soda_export.build.stages import StageStore
from soda_export.errors import ModelError
from soda_export.models.load import ModelRequest, load_model
from soda_export.options import BundleOptions, ProfileOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from tests.export.test_prompts import NEGATIVES, PROMPTS
from tests.text_pipelines import BOUND, difference, encoded, pipeline
from tests.text_toys import CLIP_TOKENS, T5_TOKENS, save_flux_texts, save_sd3_texts
from tests.tiny_models import save_tiny_flux, save_tiny_sd3

STEPS = 2
NO_DECODER = BundleOptions(without=("decoder",))


def save_model(folder: Path, family: str) -> Path:
    """A toy with text encoders."""
    if family == "flux":
        return save_flux_texts(save_tiny_flux(folder, joint_attention_dim=40, pooled_projection_dim=32))
    return save_sd3_texts(save_tiny_sd3(folder, joint_attention_dim=80, pooled_projection_dim=40))


def open_bench(folder: Path, work: Path, **request: Any) -> Workbench:
    """For images of 32 pixels, 16 of SD3."""
    loaded = load_model(ModelRequest(str(folder), image_size=32 if folder.name == "flux" else None, **request))
    guidance = 4.5 if loaded.family.guidance == "rows" else 1.0
    return Workbench(loaded, SamplerOptions("flow-euler", STEPS, 0.0, guidance), StageStore(work), lambda *_: None)


def build(bench: Workbench, out: Path, options: BundleOptions = NO_DECODER) -> Built:
    return bench.build(bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything"), "ort", out, options)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_a_bundle_draws_from_prompts_what_it_draws_from_diffusers_embeddings(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / family, family)
    bench = open_bench(folder, tmp_path / "work")
    bundle = Bundle.open(build(bench, tmp_path / "bundle").out)
    entries = [(entry.file, entry.max_tokens, entry.clean) for entry in bundle.manifest.tokenizers]
    last = [("tokenizer_2.json", T5_TOKENS, "none")]
    if family == "sd3":
        last = [("tokenizer_2.json", CLIP_TOKENS, "none"), ("tokenizer_3.json", T5_TOKENS, "none")]
    assert entries == [("tokenizer.json", CLIP_TOKENS, "none"), *last]
    session, is_guided = bundle.session(), family == "sd3"
    words: dict[str, Any] = {"prompt": PROMPTS, **({"negative_prompt": NEGATIVES} if is_guided else {})}
    pipe = pipeline(folder, "StableDiffusion3Pipeline" if is_guided else "FluxPipeline")
    expected = encoded(pipe, PROMPTS, NEGATIVES, None)
    session.start(**words)
    request = session.playback.request
    found = {name: request[name].read().view(np.float32).reshape(value.shape) for name, value in expected.items()}
    print(f"{family}: relative difference {difference(found, expected):.1e}")
    assert difference(found, expected) <= BOUND
    noise = Noise(np.random.default_rng(0).standard_normal((3, *bundle.manifest.model.latent_shape)).astype(np.float32))
    halves = [{n: v[half] for n, v in expected.items()} for half in (slice(3), slice(3, None))]
    embeds = Embeds(
        halves[0]["embeds"], None, halves[1]["embeds"] if is_guided else None, None, halves[0]["pooled_embeds"],
        halves[1]["pooled_embeds"] if is_guided else None,
    )  # fmt: skip
    right = session.generate(embeds=embeds, noise=noise)
    np.testing.assert_allclose(session.generate(**words, noise=noise), right, rtol=0, atol=1e-4 * np.abs(right).max())
    other = session.generate(**{**words, "prompt": PROMPTS[::-1]}, noise=noise)
    assert np.abs(other - right).max() > 1e-3
    ids = {port.name: request[port.name] for port in bundle.manifest.ports if isinstance(port, TokenIdsPort)}
    assert set(ids) == {"input_ids", "input_ids_2", *(["input_ids_3"] if is_guided else [])}


def test_a_map_of_a_model_of_three_encoders_is_profiled_with_prompts(tmp_path: Path) -> None:
    bench = open_bench(save_model(tmp_path / "sd3", "sd3"), tmp_path / "work")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "other.txt").write_text("the blue square\n")
    maps = [bench.profile(ProfileOptions(samples=1, prompts=tmp_path / name)) for name in ("prompts.txt", "other.txt")]
    assert np.nanmax(np.abs(maps[0].reuse_error - maps[1].reuse_error)) > 0


def test_a_pipeline_that_lacks_an_encoder_is_refused_or_built_without(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "flux", "flux")
    (folder / "text_encoder_2").rename(folder / "gone")
    bench = open_bench(folder, tmp_path / "work")
    with pytest.raises(ModelError, match="no text_encoder_2/, which its prompts need; add it, or build with --without"):
        build(bench, tmp_path / "bundle")
    built = build(bench, tmp_path / "bundle", BundleOptions(without=("text-encoder", "decoder")))
    session = Session.open(built.out, backend="null")
    assert session.bundle.manifest.tokenizers == ()
    with pytest.raises(RequestError, match="no text encoder"):
        session.start(prompt="red")

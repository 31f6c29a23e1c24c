"""Bundles of families with several text encoders draw from prompts as diffusers' pipelines do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from soda_runtime import Bundle, Embeds, Noise, RequestError, Session
from soda_runtime.manifest import TokenIdsPort

from soda_export.cli.run import run
from soda_export.errors import ModelError
from soda_export.models.load import ModelRequest, load_model
from soda_export.models.published import denoiser_folder
from soda_export.options import BundleOptions, ProfileOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Built, Workbench
from soda_export.workbench.stages import StageStore
from tests.export.test_prompts import NEGATIVES, PROMPTS
from tests.text_pipelines import BOUND, difference, encoded, pipeline
from tests.text_toys import CLIP_TOKENS, T5_TOKENS, save_flux_texts, save_sd3_texts, save_sdxl_texts
from tests.tiny_models import save_tiny_flux, save_tiny_sd3, save_tiny_unet

STEPS = 2
NO_DECODER = BundleOptions(without=("decoder",))
PIPELINES = {"flux": "FluxPipeline", "sd3": "StableDiffusion3Pipeline", "sdxl": "StableDiffusionXLPipeline"}
OTHERS: dict[str, list[str]] = {
    "prompt_2": ["the blue square", "a photo", "of a circle"], "prompt_3": ["a photo of the circle", "red", "blue"],
    "negative_prompt_2": ["red", "a circle", "the photo"], "negative_prompt_3": ["", "a", "square"],
}  # fmt: skip


def save_model(folder: Path, family: str) -> Path:
    """A toy with text encoders."""
    if family == "flux":
        return save_flux_texts(save_tiny_flux(folder, joint_attention_dim=40, pooled_projection_dim=32))
    if family == "sdxl":
        widths: dict[str, Any] = {"cross_attention_dim": 72, "projection_class_embeddings_input_dim": 24 + 6 * 8}
        return save_sdxl_texts(save_tiny_unet(folder, "sdxl", **widths))
    return save_sd3_texts(save_tiny_sd3(folder, joint_attention_dim=80, pooled_projection_dim=40))


def open_bench(folder: Path, work: Path, **request: Any) -> Workbench:
    """For images of 32 pixels, 16 of SD3 and SDXL."""
    loaded = load_model(ModelRequest(str(folder), image_size=32 if folder.name == "flux" else None, **request))
    guidance = 4.5 if loaded.family.guidance == "rows" else 1.0
    sampler = "euler" if folder.name == "sdxl" else "flow-euler"
    return Workbench(loaded, SamplerOptions(sampler, STEPS, 0.0, guidance), StageStore(work), lambda *_: None)


def build(bench: Workbench, out: Path, options: BundleOptions = NO_DECODER) -> Built:
    return bench.build(bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything"), "ort", out, options)


@pytest.mark.parametrize("family", ["flux", pytest.param("sd3", marks=pytest.mark.long)])
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


def drawn_by_diffusers(folder: Path, family: str, noise: torch.Tensor, words: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Latents that the whole pipeline makes of prompts."""
    place, kind = denoiser_folder(folder), PIPELINES[family]
    denoiser = {"flux": "FluxTransformer2DModel", "sd3": "SD3Transformer2DModel", "sdxl": "UNet2DConditionModel"}
    scheduler = diffusers.EulerDiscreteScheduler if family == "sdxl" else diffusers.FlowMatchEulerDiscreteScheduler
    pipe = pipeline(
        folder, kind, vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        scheduler=scheduler.from_pretrained(folder / "scheduler"),
        **{place.name: getattr(diffusers, denoiser[family]).from_pretrained(place)},
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    side, own = (32, {"guidance_scale": 3.5}) if family == "flux" else (16, {"guidance_scale": 4.5})
    length = {} if family == "sdxl" else {"max_sequence_length": T5_TOKENS}
    latents: np.ndarray[Any, Any] = pipe(
        **words, **own, **length, latents=noise, height=side, width=side, num_inference_steps=STEPS,
        output_type="latent",
    ).images.numpy()  # fmt: skip
    return latents


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.long] * (family != "sd3")) for family in PIPELINES]
)
def test_each_text_encoder_may_get_a_prompt_of_its_own_as_in_diffusers(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / family, family)
    bench = open_bench(folder, tmp_path / "work")
    session = Session.open(build(bench, tmp_path / "bundle").out)
    mine: dict[str, Any] = {"prompt": PROMPTS, "negative_prompt": ["blue", "a", "a square of the photo"]}
    words = mine | {n: texts for n, texts in OTHERS.items() if family == "sd3" or n.endswith("2")}
    if family == "flux":
        words = {name: texts for name, texts in words.items() if not name.startswith("negative")}
    shape = (3, *session.bundle.manifest.model.latent_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    found = session.generate(**words, noise=Noise(noise.numpy()))
    expected = drawn_by_diffusers(folder, family, noise, words)
    scale = float(np.abs(expected).max())
    print(f"{family}: difference {np.abs(found - expected).max() / scale:.1e} of {scale:.1f}")
    assert np.abs(found - expected).max() <= 1e-3 * scale
    for left_out in [name for name in words if name[-1] in "23"]:
        fewer = {name: texts for name, texts in words.items() if name != left_out}
        other = session.generate(**fewer, noise=Noise(noise.numpy()))
        assert np.abs(other - expected).max() > 1e-3 * scale, left_out
    plain = {name: texts for name, texts in words.items() if name[-1] not in "23"}
    same = {name: "" if name.startswith("negative") else None for name in words if name not in plain}
    usual = session.generate(**plain, noise=Noise(noise.numpy()))
    assert np.array_equal(session.generate(**plain, **same, noise=Noise(noise.numpy())), usual)


@pytest.mark.long
def test_a_prompt_that_no_text_encoder_takes_is_refused_in_one_line(tmp_path: Path) -> None:
    bench = open_bench(save_model(tmp_path / "sdxl", "sdxl"), tmp_path / "work")
    session = Session.open(build(bench, tmp_path / "bundle").out)
    for wrong, message in (
        ({"prompt": "a", "prompt_3": "b"}, "prompt_3: the prompts of this bundle go to 2 text encoders; leave it out"),
        ({"prompt": "a", "negative_prompt_3": "b"}, "negative_prompt_3: the prompts of this bundle go to 2 text enc"),
        ({"prompt_2": "a"}, "prompt_2 has no effect without a prompt; give both"),
        ({"negative_prompt_2": "a"}, "a negative prompt has no effect without a prompt"),
        ({"prompt": "a", "prompt_2": 5}, "prompt_2 5: give a string or a list of strings"),
        ({"prompt": ["a"] * 3, "prompt_2": ["b"] * 2}, "3 samples and 2 of prompt_2 do not agree; give one, or one"),
        ({"prompt": "a", "negative_prompt_2": ["b"] * 2}, "2 negative prompts for 1 samples; give one, or one per"),
    ):
        with pytest.raises(RequestError, match=message) as refused:
            session.start(**wrong)
        assert str(refused.value).isprintable()
    words: Any = {"prompt_2": ["a", "blue"], "negative_prompt_2": "the"}
    single = session.generate(prompt="red", **words, seed=1)
    assert np.array_equal(single, session.generate(prompt=["red"] * 2, **words, seed=1))
    run(str(tmp_path / "bundle"), prompt=["red"], **words, seed=1, out=str(tmp_path / "out.npy"))
    assert np.array_equal(single, np.load(tmp_path / "out.npy"))


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

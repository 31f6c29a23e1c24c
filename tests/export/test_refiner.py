"""XL's refiner: one text encoder, aesthetic scores, a start from latents, against diffusers' own pipeline object."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from soda_runtime import Noise, RequestError, Session

from soda_export.models.load import ModelRequest, load_model
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.text_toys import SECOND_PAD, save_clip, save_clip_tokenizer
from tests.tiny_models import save_tiny_unet

STEPS, BATCH = 7, 2
SCORES = {"aesthetic_score": 7.5, "negative_aesthetic_score": 1.25}
PROMPTS, NEGATIVES = ["a red circle", "the photo"], ["blue", "a square of the photo"]


def save_tiny_refiner(folder: Path) -> Path:
    """Pooled 24 and five numbers of 8."""
    save_tiny_unet(folder, "sdxl", cross_attention_dim=40, projection_class_embeddings_input_dim=24 + 5 * 8)
    save_clip_tokenizer(folder / "tokenizer_2", SECOND_PAD)
    save_clip(folder / "text_encoder_2", 40, projection=24)
    index = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("guidance", [5.0, pytest.param(1.0, marks=pytest.mark.long)])
@pytest.mark.long
def test_a_refiner_equals_the_pipeline(guidance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_refiner(tmp_path / "model")
    options = SamplerOptions("euler", STEPS, 0.0, guidance)
    bench = Workbench(ModelRequest(str(folder)), options, StageStore(tmp_path / "s"), lambda *_: None)
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything")
    built = bench.build(plan, "ort", tmp_path / "bundle", BundleOptions(without=("decoder",)))
    session = Session.open(built.out)
    manifest = session.bundle.manifest
    names = ["input_ids_2", "embeds", "pooled_embeds", "aesthetic_score", "negative_aesthetic_score"]
    assert [port.name for port in manifest.ports] == names
    generator = torch.Generator().manual_seed(5)
    noise, clean = torch.randn(2, BATCH, *manifest.model.latent_shape, generator=generator)
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"), text_encoder=None, tokenizer=None,
        text_encoder_2=transformers.CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
        tokenizer_2=transformers.AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=diffusers.EulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        requires_aesthetics_score=True,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    module = importlib.import_module(type(pipe).__module__)
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise)
    words: dict[str, Any] = {"prompt": PROMPTS, **({"negative_prompt": NEGATIVES} if guidance > 1 else {})}
    drawn = []
    for scores in ({}, SCORES):
        found = session.generate(
            **words, inputs=scores, noise=Noise(noise.numpy()), start_latents=clean.numpy(), strength=0.6
        )
        expected = pipe(
            **words, **scores, image=clean, strength=0.6, num_inference_steps=STEPS, guidance_scale=guidance,
            output_type="latent",
        ).images.numpy()  # fmt: skip
        scale = float(np.abs(expected).max())
        print(f"guidance {guidance:g}, {scores}: difference {np.abs(found - expected).max() / scale:.1e}")
        assert np.abs(found - expected).max() <= 1e-3 * scale
        drawn.append(found)
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3
    with pytest.raises(RequestError, match=r"aesthetic_score.* 0.* 10"):
        session.start(**words, inputs={"aesthetic_score": 11.0})
    with pytest.raises(RequestError, match="prompt_2: the prompts of this bundle go to one text encoder; leave it out"):
        session.start(**words, prompt_2="a")


def test_a_model_index_says_whether_a_unet_takes_scores(tmp_path: Path) -> None:
    folder = save_tiny_refiner(tmp_path / "model")
    ports = {port.name: port.shape for port in load_model(str(folder)).spec.ports}
    assert ports["pooled_embeds"] == (24,)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    ports = {port.name: port.shape for port in load_model(str(folder)).spec.ports}
    assert ports == {"embeds": (77, 40), "pooled_embeds": (16,)}

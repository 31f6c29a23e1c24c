"""Wan from a prompt to a video: text encoder, sampler, model and decoder against diffusers' WanPipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from soda_runtime import Noise, RequestError, Session

from soda_export.models.load import ModelRequest
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.sampler import make_scheduler
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.text_toys import T5_TOKENS, save_wan_texts
from tests.tiny_models import SMALL_WAN_VAE, plain_wan, save_tiny_wan, save_tiny_wan_vae

STEPS, BATCH, GUIDANCE, BAR = 4, 2, 5.0, 1e-4
SIZE, FRAMES = (16, 16), 5
PROMPTS = ["a red circle &amp;amp; &lt;b&gt;\n the  blue square ", "a photo of the circle"]
NEGATIVES = ["", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_wan_texts(save_tiny_wan(tmp_path_factory.mktemp("wan") / "model"))
    save_tiny_wan_vae(folder / "vae", **SMALL_WAN_VAE)
    return folder


def pipeline(folder: Path, scheduler: Any) -> Any:
    pipe = diffusers.WanPipeline(
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=transformers.UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval(),
        vae=diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"), scheduler=scheduler,
        transformer=plain_wan(folder),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sampler", ["unipc", pytest.param("flow-euler", marks=pytest.mark.long)])
def test_a_bundle_makes_the_pipelines_latents_and_video_of_prompts(sampler: str, folder: Path, tmp_path: Path) -> None:
    model = ModelRequest(str(folder), size=(f"{SIZE[0]}x{SIZE[1]}",), frames=FRAMES)
    bench = Workbench(
        model, SamplerOptions(sampler, STEPS, 0.0, GUIDANCE), StageStore(tmp_path / "store"), lambda *_: None
    )
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything")
    without: Any = () if sampler == "unipc" else ("decoder",)
    built = bench.build(plan, "ort", tmp_path / "bundle", BundleOptions(without=without))
    session = Session.open(built.out)
    entry = session.bundle.manifest.tokenizers[0]
    assert (entry.clean, entry.max_tokens) == ("unescape-collapse", T5_TOKENS)
    noise = torch.randn(BATCH, *bench.loaded.spec.latent_shape, generator=torch.Generator().manual_seed(5))
    found = session.generate(prompt=PROMPTS, negative_prompt=NEGATIVES, noise=Noise(noise.numpy()))
    pipe = pipeline(folder, make_scheduler(sampler, bench.loaded.scheduler_config))
    asked: dict[str, Any] = {
        "height": SIZE[0], "width": SIZE[1], "num_frames": FRAMES, "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE, "max_sequence_length": T5_TOKENS, "output_type": "latent",
    }  # fmt: skip
    expected = pipe(prompt=PROMPTS, negative_prompt=NEGATIVES, latents=noise, **asked).frames.numpy()
    scale = float(np.abs(expected).max())
    print(f"{sampler}: difference {np.abs(found - expected).max() / scale:.1e} of {scale:.1f}")
    assert np.abs(found - expected).max() <= BAR * scale
    other = session.generate(prompt=PROMPTS[::-1], negative_prompt=NEGATIVES, noise=Noise(noise.numpy()))
    assert np.abs(other - expected).max() > 100 * BAR * scale
    if without:
        with pytest.raises(RequestError, match="no decoder"):
            session.result()
        return
    session.generate(prompt=PROMPTS, negative_prompt=NEGATIVES, noise=Noise(noise.numpy()))
    pieces = list(session.chunks())
    assert [piece.shape for piece in pieces] == [(BATCH, count, *SIZE, 3) for count in (1, 2, 2)]
    video = pipe(
        prompt=PROMPTS, negative_prompt=NEGATIVES, latents=noise, **{**asked, "output_type": "np"}
    ).frames  # fmt: skip
    assert np.abs(np.concatenate(pieces, axis=1) - video).max() <= BAR
    assert session.bundle.manifest.finish[0].frames_per_second == 16.0

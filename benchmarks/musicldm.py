"""MusicLDM's true size with random weights: a bundle's latents, spectrogram and sound against diffusers' pipeline.

    python benchmarks/musicldm.py --steps 4 --out docs/results/musicldm.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, MusicLDMPipeline
from soda_runtime import Noise, Session
from transformers import ClapTextConfig, ClapTextModelWithProjection

from soda_export.export.decoders import decoder_source
from soda_export.export.decoders.autoencoder import load_autoencoder
from soda_export.export.decoders.sound import SoundDecoder, load_vocoder
from soda_export.models.load import LoadedModel, ModelRequest
from soda_export.options import SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

GUIDANCE = 2.0


def pipeline(loaded: LoadedModel) -> Any:
    """diffusers' own, with the same random weights. It is given features, so that its text encoder never runs."""
    source = decoder_source(loaded)
    assert source is not None
    idle = ClapTextConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    pipe = MusicLDMPipeline(
        unet=loaded.module, vae=load_autoencoder(source), vocoder=load_vocoder(source), tokenizer=None,
        scheduler=DDIMScheduler.from_config(loaded.scheduler_config), feature_extractor=None,
        text_encoder=ClapTextModelWithProjection(idle),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def difference(found: Any, expected: Any) -> float:
    """The largest, relative to the largest magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@torch.no_grad()
def compare(steps: int, work: Path) -> dict[str, Any]:
    """Build, play and compare one sound of 10.24 s."""
    options = SamplerOptions("ddim", steps, 0.0, GUIDANCE)
    bench = Workbench(ModelRequest("musicldm", random_weights=0), options, StageStore(work / "store"), lambda *_: None)
    spec = bench.loaded.spec
    built = bench.build(bench.plan_of(Schedule.full(spec, steps), "everything"), "ort", work / "bundle").out
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *spec.latent_shape, generator=generator)
    features = torch.nn.functional.normalize(torch.randn(2, *spec.ports[0].shape, generator=generator), dim=-1)
    with Session.open(built) as session:
        positive, negative = ({"embeds": half.numpy()} for half in features.split(1))
        asked: dict[str, Any] = {"inputs": positive, "negative_inputs": negative}
        latents = session.generate(**asked, noise=Noise(noise.numpy()))
        sound = session.result()[:, 0]
    pipe = pipeline(bench.loaded)
    given = {
        "prompt_embeds": features[:1], "negative_prompt_embeds": features[1:], "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
    }  # fmt: skip
    expected = pipe(**given, latents=noise, output_type="latent").audios
    mel = pipe.vae.decode(expected / pipe.vae.config.scaling_factor).sample
    waveform = pipe.mel_spectrogram_to_waveform(mel)[:, : sound.shape[1]]
    source = decoder_source(bench.loaded)
    assert source is not None
    found_mel = SoundDecoder(source).module().mel(torch.from_numpy(latents))
    return {
        "steps": steps, "latents": list(spec.latent_shape), "samples": sound.shape[1],
        "difference": {
            "latents": difference(latents, expected), "mel": difference(found_mel, mel[:, 0]),
            "sound": difference(sound, waveform),
        },
        "bundle_bytes": sum(path.stat().st_size for path in built.rglob("*") if path.is_file()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        result = compare(args.steps, Path(folder))
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

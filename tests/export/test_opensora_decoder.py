"""Open-Sora's decoder gives what the release's gave, chunk by chunk; an autoencoder of images makes a clip's frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file

from soda_export.errors import ModelError
from soda_export.export.decoders import DECODER_NAME, DecoderSource, open_decoder
from soda_export.models.own.opensora_vae import OpenSoraDecoder
from tests.models.stdit_cases import drawn, fill
from tests.opensora_vae_case import CONFIG, FRAMES, LATENTS
from tests.tiny_models import save_tiny_opensora

GOLDEN = Path(__file__).parents[1] / "data" / "opensora_vae.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the hub's, with weights of the encoder, too."""
    module = OpenSoraDecoder(CONFIG)
    fill(module)
    place = tmp_path / "vae"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(CONFIG))
    save_file({**module.state_dict(), "temporal_vae.encoder.x": torch.zeros(1)}, place / "model.safetensors")
    return place


def chunks(folder: Path, latents: torch.Tensor, count: int) -> np.ndarray:
    session = ort.InferenceSession(folder / DECODER_NAME, providers=["CPUExecutionProvider"])
    parts = [session.run(["video"], {"latents": part.numpy()})[0] for part in latents.split(count, dim=2)]
    return np.concatenate(parts, axis=1)


@torch.no_grad()
def test_chunks_are_the_releases(folder: Path, tmp_path: Path) -> None:
    decoder = open_decoder(DecoderSource({"vae": folder}, LATENTS[1:], 24.0))
    golden, latents = load_file(GOLDEN)["video"], drawn("latents", *LATENTS)
    torch.testing.assert_close(decoder.module()(latents), golden, rtol=0, atol=1e-4)
    decoder.export(tmp_path)
    finish = decoder.finish
    assert (finish.shape, finish.latent_frames, finish.frames, finish.frames_per_second) == ((34, 3, 6, 8), 5, 17, 24.0)
    np.testing.assert_allclose(chunks(tmp_path, latents, 5), golden, rtol=0, atol=1e-4)
    assert golden.std() > 0.1
    assert golden.shape[1] == FRAMES


@torch.no_grad()
def test_chunks_do_not_depend_on_each_other(folder: Path) -> None:
    decoder = open_decoder(DecoderSource({"vae": folder}, LATENTS[1:], 24.0))
    module, latents = decoder.module(), drawn("latents", *LATENTS)
    changed = latents.clone()
    changed[:, :, 4] += 1.0
    differ = (module(changed) - module(latents)).abs().amax((0, 2, 3, 4)) > 0
    assert differ.tolist() == [k < 17 for k in range(34)]  # GroupNorm looks at all frames of a chunk


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["temporal_vae.decoder.conv_out.conv.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"the weights lack 'temporal_vae.decoder.conv_out.conv.bias'"):
        open_decoder(DecoderSource({"vae": folder}, LATENTS[1:], 24.0)).module()


@torch.no_grad()
def test_an_autoencoder_of_images_makes_frame_after_frame(tmp_path: Path) -> None:
    vae = save_tiny_opensora(tmp_path / "model") / "vae"
    decoder, latents = open_decoder(DecoderSource({"vae": vae}, (4, 3, 4, 6), 8.0)), drawn("latents", 2, 4, 3, 4, 6)
    decoder.export(tmp_path)
    made = chunks(tmp_path, latents, 1)
    assert made.shape[1:] == decoder.finish.shape == (3, 3, 8, 12)
    image = open_decoder(DecoderSource({"vae": vae}, (4, 4, 6))).module()
    for k in range(3):
        np.testing.assert_allclose(made[:, k], image(latents[:, :, k]), rtol=0, atol=1e-5)

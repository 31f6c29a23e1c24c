"""Exported video decoders, played call by call, make diffusers' own video of all latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from soda_runtime.manifest import VideoFinish
from soda_runtime.signature import carry_in, carry_out
from torch import Tensor

from soda_export.errors import ModelError
from soda_export.export.decoders import Decoder, DecoderSource, open_decoder
from tests.export.test_decoder import _save
from tests.tiny_models import SMALL_WAN_VAE, save_tiny_wan_vae

BAR, BATCH, SIDES = 1e-4, 2, (2, 3)
PATCHED: dict[str, Any] = {
    "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 4,
}  # fmt: skip
"""What Wan 2.2's autoencoder of 5 B has beside Wan 2.1's."""


def _latents(frames: int) -> Tensor:
    return torch.randn(BATCH, 4, frames, *SIDES, generator=torch.Generator().manual_seed(frames))


def _decoder(folder: Path, frames: int) -> Decoder:
    return open_decoder(DecoderSource({"vae": folder}, (4, frames, *SIDES), 12.0))


@torch.no_grad()
def _expected(vae: Any, latents: Tensor) -> np.ndarray[Any, Any]:
    """As WanPipeline decodes and its VideoProcessor scales, [B, F, 3, H, W]."""
    mean, std = (torch.tensor(vae.config[name]).reshape(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    made = vae.decode(latents / (1.0 / std) + mean).sample
    return (made / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4).numpy()  # type: ignore[no-any-return]


def _play(out: Path, finish: VideoFinish, latents: Tensor) -> np.ndarray[Any, Any]:
    """Call by call, as runtime/BUNDLE.md says."""
    carried = {carry_in(each.name): np.zeros((BATCH, *each.shape), np.float32) for each in finish.carry}
    engines = {name: ort.InferenceSession(out / name) for name in {finish.file, *(f.file for f in finish.first)}}
    video = []
    for frame in range(latents.shape[2]):
        name = finish.first[0].file if finish.first and frame == 0 else finish.file
        given = {"latents": latents[:, :, frame : frame + 1].numpy(), **carried}
        names = ["video", *(carry_out(each.name) for each in finish.carry)]
        made, *handed = engines[name].run(names, given)
        carried = dict(zip(carried, handed, strict=True))
        video.append(made)
    return np.concatenate(video, axis=1)


@pytest.mark.parametrize(
    ("config", "lengths"),
    [(SMALL_WAN_VAE, (2, 5)), (SMALL_WAN_VAE, (1,)), pytest.param({}, (5,), marks=pytest.mark.long),
     pytest.param({**SMALL_WAN_VAE, **PATCHED}, (3,), marks=pytest.mark.long)],
    ids=["small", "one frame", "published levels", "Wan 2.2 5B"],
)  # fmt: skip
def test_wan_is_decoded_frame_by_frame_as_diffusers_decodes_all(
    config: dict[str, Any], lengths: tuple[int, ...], tmp_path: Path
) -> None:
    vae = save_tiny_wan_vae(tmp_path, **config)
    _decoder(tmp_path, lengths[0]).export(tmp_path)
    for length in lengths:  # programs do not depend on it, but for a single latent frame
        decoder, latents = _decoder(tmp_path, length), _latents(length)
        expected, finish = _expected(vae, latents), decoder.finish
        assert isinstance(finish, VideoFinish)
        assert (finish.shape, finish.frames_per_second) == (expected.shape[1:], 12.0)
        found = _play(tmp_path, finish, latents)
        difference = np.abs(found - expected).max()
        print(f"{length} latent frames, {finish.shape[0]} frames: difference {difference:.1e}")
        assert difference <= BAR
        assert expected.std() > 0.01
        with torch.no_grad():
            assert np.abs(decoder.module()(latents).numpy() - expected).max() <= BAR


def test_what_a_call_carries_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    save_tiny_wan_vae(tmp_path, **SMALL_WAN_VAE)
    short, long = (_decoder(tmp_path, frames).finish for frames in (2, 50))
    assert isinstance(short, VideoFinish)
    assert isinstance(long, VideoFinish)
    assert (short.carry, short.frames, short.first) == (long.carry, long.frames, long.first)
    assert len(short.carry) > 0
    assert long.shape[0] == 1 + 49 * 2


@torch.no_grad()
def test_an_autoencoder_of_images_decodes_a_video_picture_by_picture(tmp_path: Path) -> None:
    vae, latents = _save(tmp_path, mid_block_add_attention=False), _latents(3)
    decoder = _decoder(tmp_path, 3)
    decoder.export(tmp_path)
    finish = decoder.finish
    assert isinstance(finish, VideoFinish)
    pictures = latents.transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
    expected = (vae.decode(pictures).sample / 2 + 0.5).clamp(0, 1).unflatten(0, (BATCH, 3)).numpy()
    assert finish.shape == expected.shape[1:]
    assert np.abs(_play(tmp_path, finish, latents) - expected).max() <= 1e-5
    assert np.abs(decoder.module()(latents).numpy() - expected).max() <= 1e-5


def test_latents_of_other_channels_are_refused(tmp_path: Path) -> None:
    save_tiny_wan_vae(tmp_path)
    for shape in ((16, 2, 4, 4), (4, 4, 4)):
        with pytest.raises(ModelError, match="takes 4 channels, the denoiser"):
            open_decoder(DecoderSource({"vae": tmp_path}, shape, 12.0))
    save_tiny_wan_vae(tmp_path, out_channels=4)
    with pytest.raises(ModelError, match="out_channels=4 is not supported"):
        _decoder(tmp_path, 2)

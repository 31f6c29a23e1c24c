"""Run the decoder of Open-Sora 1.2's own autoencoder and keep what it gives, for tests/export/test_opensora_decoder.py:

    PYTHONPATH=. python scripts/make_opensora_vae_golden.py CHECKOUT tests/data/opensora_vae.safetensors

CHECKOUT: github.com/hpcaitech/Open-Sora at v1.2.0. einops must be installed. Its image autoencoder is diffusers'; here
a small one of random weights.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from tests.models.stdit_cases import drawn, fill
from tests.opensora_vae_case import CONFIG, FRAMES, LATENTS


class _Registry:
    def register_module(self, *_: Any) -> Any:
        return lambda made: made


def _released(checkout: Path) -> Any:
    for name in ("opensora", "opensora.models", "opensora.models.vae", "opensora.utils"):
        module = types.ModuleType(name)
        module.__path__ = [str(checkout / name.replace(".", "/"))] if "vae" in name else []
        sys.modules[name] = module
    for name, content in (
        ("opensora.registry", {"MODELS": _Registry(), "build_module": lambda made, _: made()}),
        ("opensora.utils.ckpt_utils", {"load_checkpoint": None}),
    ):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(content)
    from opensora.models.vae import vae, vae_temporal

    return vae, vae_temporal


@torch.no_grad()
def main(checkout: Path, out: Path) -> None:
    vae, vae_temporal = _released(checkout)
    image = AutoencoderKL(**CONFIG["spatial"])
    AutoencoderKL.from_pretrained = lambda *_, **__: image  # type: ignore[method-assign, assignment]
    kinds = {"channel_multipliers": (1, 2, 2, 4), "temporal_downsample": (False, True, True)}
    temporal = vae_temporal.VAE_Temporal(**kinds, **CONFIG["temporal"])
    config = types.SimpleNamespace(
        vae_2d=vae.VideoAutoencoderKL, vae_temporal=lambda: temporal, cal_loss=False, freeze_vae_2d=False,
        micro_frame_size=CONFIG["micro_frame_size"], scale=CONFIG["scale"], shift=CONFIG["shift"],
    )  # fmt: skip
    vae.PreTrainedModel.__init__ = lambda self, config: torch.nn.Module.__init__(self)
    model = vae.VideoAutoencoderPipeline(config).eval()
    buffers = {"scale": model.scale.clone(), "shift": model.shift.clone()}
    fill(model)
    model.scale, model.shift = buffers["scale"], buffers["shift"]
    video = model.decode(drawn("latents", *LATENTS), num_frames=FRAMES)
    video = (video.clamp(-1, 1) + 1) / 2
    save_file({"video": video.transpose(1, 2).contiguous()}, out, {"source": "Open-Sora v1.2.0"})
    print(tuple(video.shape), float(video.std()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

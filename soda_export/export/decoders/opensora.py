"""Open-Sora's decoder as one program: a chunk's latents -> its frames, pictures one after the other."""

from __future__ import annotations

import logging
import time
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from soda_runtime.manifest import VideoFinish
from soda_runtime.signature import LATENTS
from torch import nn

from ...errors import ModelError, UsageError, first_line
from ...models.checkpoint import weight_files
from ...models.family import pixels_per_latent
from ...models.own.opensora_vae import FRAMES_PER_LATENT, OpenSoraDecoder
from ..tensor_file import refuse_pickled
from .decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, Decoder
from .programs import DecoderProgram, Progress, write_programs
from .source import DecoderSource

log = logging.getLogger(__name__)
_VIDEO = "video"  # what every call makes: its frames
_CHUNK = 5  # latent frames; a single one is a picture


class OpenSoraVideoDecoder(Decoder):
    """Latents [4, F, h, w], F a multiple of 5 or 1, to a clip of 17 frames for each 5 latent ones."""

    classes = ("VideoAutoencoderPipeline",)

    def __init__(self, source: DecoderSource) -> None:
        super().__init__(source)
        source.refuse("vae", {"micro_frame_size": 17, "cal_loss": False})
        for name in ("scale", "shift"):
            if len(source.config("vae").get(name, ())) != source.latent_shape[0]:
                raise ModelError(f"{source.where('vae')}: {name} needs a number for each of the latents' channels")

    @cached_property
    def finish(self) -> VideoFinish:
        """One call makes a chunk; nothing is carried from one to the next."""
        _, total, *sides = self.source.latent_shape
        latents = min(total, _CHUNK)
        frames = FRAMES_PER_LATENT * latents - (FRAMES_PER_LATENT - 1)
        height, width = (side * pixels_per_latent(self.source.config("vae")) for side in sides)
        return VideoFinish(
            DECODER_NAME, DECODER_WEIGHTS_NAME, "video", (total // latents * frames, 3, height, width),
            self.source.frames_per_second, latents, frames, (), (),
        )  # fmt: skip

    def module(self) -> nn.Module:
        """All chunks one after the other."""
        return _Chunks(self._chunk(), self.finish.latent_frames)

    def export(self, out: Path, progress: Progress = lambda done, total: None) -> None:
        """One program and its weights."""
        started, finish = time.perf_counter(), self.finish
        channels, _, *sides = self.source.latent_shape
        chunk = self._chunk()
        program = DecoderProgram(
            DECODER_NAME, chunk.temporal, {LATENTS: (channels, finish.latent_frames, *sides)},
            {_VIDEO: (finish.frames, *finish.shape[1:])}, "a chunk's latents -> its frames in 0..1",
            chunk.spatial,
        )  # fmt: skip
        write_programs([program], DECODER_WEIGHTS_NAME, out, progress)
        log.info("decoder: %d frames a call in %.1f s", finish.frames, time.perf_counter() - started)

    def _chunk(self) -> OpenSoraDecoder:
        place, config = self.source.parts["vae"], self.source.config("vae")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.source.seed or 0)
            try:
                module = OpenSoraDecoder(config).eval()
            except (TypeError, ValueError) as error:
                raise ModelError(f"{self.source.where('vae')}: {first_line(error)}") from None
        if isinstance(place, Path):
            refuse_pickled(place)
            _read(module, place, self.source.variant)
        elif self.source.seed is None:
            raise UsageError("a decoder without a folder needs a seed for its random weights")
        return module


class _Chunks(nn.Module):
    def __init__(self, chunk: nn.Module, latents: int) -> None:
        super().__init__()
        self.chunk, self._latents = chunk, latents

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, F, h, w] -> [B, frames, 3, H, W]"""
        return torch.cat([self.chunk(part) for part in torch.split(latents, self._latents, 2)], dim=1)


def _read(module: nn.Module, folder: Path, variant: str) -> None:
    """Fill the module from a folder's weights; what its encoder has does not matter. Raises ModelError."""
    state = module.state_dict()
    missing = set(state)
    for path in weight_files(folder, variant):
        with safe_open(path, framework="pt") as file:
            for name in missing & set(file.keys()):
                tensor = file.get_tensor(name)
                if tensor.shape != state[name].shape:
                    shapes = f"{tuple(tensor.shape)}, the configuration makes it {tuple(state[name].shape)}"
                    raise ModelError(f"{path}: {name!r} has shape {shapes}")
                state[name].copy_(tensor)
                missing.remove(name)
    if missing:
        raise ModelError(f"{folder}: the weights lack {min(missing)!r}; it does not fit config.json")

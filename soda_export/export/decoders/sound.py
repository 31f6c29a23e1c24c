"""An autoencoder of mel spectrograms and a vocoder, as one program: latents -> a sound."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from soda_runtime.manifest import AudioFinish
from soda_runtime.signature import LATENTS
from torch import Tensor, nn

from ...errors import ModelError, UsageError, first_line
from ...models.family import pixels_per_latent
from ...models.vocoder import Vocoder, read_vocoder
from ..tensor_file import Checkpoint, refuse_pickled
from .autoencoder import load_autoencoder
from .decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, Decoder
from .programs import DecoderProgram, Progress, write_programs
from .source import DecoderSource

log = logging.getLogger(__name__)
_KIND = "SpeechT5HifiGan"


class SoundModule(nn.Module):
    """Latents [B, C, frames, mels] as the denoiser has them -> sound [B, 1, samples], as MusicLDMPipeline makes it."""

    def __init__(self, vae: Any, vocoder: nn.Module, samples: int) -> None:
        super().__init__()
        self.scaling, self.samples = float(vae.config.scaling_factor), samples
        self.post_quant_conv, self.decoder = getattr(vae, "post_quant_conv", None) or nn.Identity(), vae.decoder
        self.vocoder = vocoder

    def mel(self, latents: Tensor) -> Tensor:
        """The spectrogram [B, T, M]."""
        decoded: Tensor = self.decoder(self.post_quant_conv(latents / self.scaling))
        return decoded.squeeze(1)

    def forward(self, *given: Tensor) -> Tensor:
        (latents,) = given
        waveform: Tensor = self.vocoder(self.mel(latents))
        return waveform[:, None, : self.samples]


class SoundDecoder(Decoder):
    """Latents [C, frames, mels] to a sound, where the pipeline has a vocoder."""

    classes = ("AutoencoderKL",)
    parts = ("vae", "vocoder")

    def __init__(self, source: DecoderSource) -> None:
        super().__init__(source)
        source.refuse("vae", {"latents_mean": None, "latents_std": None, "shift_factor": None, "out_channels": 1})
        kinds = self._config.get("architectures") or [_KIND]
        if kinds != [_KIND]:
            raise ModelError(f"{source.where('vocoder')}: vocoder {kinds} is not supported; supported: {_KIND}")
        mels = source.latent_shape[-1] * self._scale
        if mels != self._vocoder.mels:
            has = f"model_in_dim={self._vocoder.mels}, but the autoencoder makes {mels} of the latents"
            raise ModelError(f"{source.where('vocoder')}: {has}")

    @classmethod
    def takes(cls, source: DecoderSource) -> bool:
        """Where there is a vocoder."""
        return "vocoder" in source.parts and source.kind in cls.classes

    @cached_property
    def finish(self) -> AudioFinish:
        """One channel, as long as was asked for."""
        frames = self.source.latent_shape[1] * self._scale
        seconds = self.source.seconds or frames * self._vocoder.frame_seconds
        shape = (1, self._vocoder.samples(seconds, frames))
        return AudioFinish(DECODER_NAME, DECODER_WEIGHTS_NAME, "audio", shape, self._vocoder.rate)

    def module(self) -> SoundModule:
        """Both parts. Raises ModelError."""
        vae, given = load_autoencoder(self.source), self.source.latent_shape[0]
        if given != vae.config.latent_channels:
            takes = f"the decoder takes {vae.config.latent_channels} channels, the denoiser has {given}"
            raise ModelError(f"{self.source.where('vae')}: {takes}")
        return SoundModule(vae, load_vocoder(self.source), self.finish.shape[1])

    def export(self, out: Path, progress: Progress = lambda done, total: None) -> None:
        """One program and its weights."""
        started, shape = time.perf_counter(), self.finish.shape
        program = DecoderProgram(
            DECODER_NAME, self.module(), {LATENTS: self.source.latent_shape}, {self.finish.kind: shape},
            "latents -> sound in -1..1",
        )  # fmt: skip
        write_programs([program], DECODER_WEIGHTS_NAME, out, progress)
        made, seconds = shape[1] / self.finish.sample_rate, time.perf_counter() - started
        log.info("decoder: %.2f s of sound at %d Hz in %.1f s", made, self.finish.sample_rate, seconds)

    @property
    def _config(self) -> Mapping[str, Any]:
        return self.source.config("vocoder")

    @cached_property
    def _vocoder(self) -> Vocoder:
        return read_vocoder(self._config)

    @property
    def _scale(self) -> int:
        """Frames, and mels, that the autoencoder makes of a latent."""
        return pixels_per_latent(self.source.config("vae"))


def load_vocoder(source: DecoderSource) -> nn.Module:
    """transformers' SpeechT5HifiGan in fp32 and evaluation mode. Raises ModelError, and UsageError without a seed for
    random weights."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    place = source.parts["vocoder"]
    stored = source.config("vocoder")
    fields = {key: value for key, value in stored.items() if key not in ("architectures", "model_type")}
    if not isinstance(place, Path) and source.seed is None:
        raise UsageError("a vocoder without a folder needs a seed for its random weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed or 0)
        try:
            model: nn.Module = SpeechT5HifiGan(SpeechT5HifiGanConfig(**fields))
        except Exception as error:  # transformers raises whatever its parts do
            raise ModelError(f"{source.where('vocoder')}: transformers cannot build it: {first_line(error)}") from None
    if isinstance(place, Path):
        refuse_pickled(place)
        _fill(model, place, Checkpoint(place, source.variant))
    return model.eval()


def _fill(model: nn.Module, place: Path, stored: Checkpoint) -> None:
    for name, own in model.state_dict().items():
        if name not in stored:
            raise ModelError(f"{place}: the weights lack {name!r}; it does not fit config.json")
        if stored.shape(name) != tuple(own.shape):
            raise ModelError(f"{place}: {name!r} is {list(stored.shape(name))}, config.json says {list(own.shape)}")
        own.copy_(stored.read(name))

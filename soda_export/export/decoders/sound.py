"""An autoencoder of mel spectrograms and a vocoder, as one program: latents -> a sound."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from soda_runtime.manifest import AudioFinish
from soda_runtime.signature import LATENTS
from torch import Tensor, nn

from ...errors import ModelError
from ...models.family import pixels_per_latent
from ...models.vocoder import Vocoder, read_vocoder
from .autoencoder import load_autoencoder
from .decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, Decoder
from .filled import filled
from .programs import DecoderProgram
from .source import DecoderSource

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

    def programs(self) -> list[DecoderProgram]:
        """One of autoencoder and vocoder."""
        finish, given, meaning = self.finish, {LATENTS: self.source.latent_shape}, "latents -> sound in -1..1"
        return [DecoderProgram(DECODER_NAME, self.module(), given, {finish.kind: finish.shape}, meaning)]

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

    stored = source.config("vocoder")
    fields = {key: value for key, value in stored.items() if key not in ("architectures", "model_type")}
    return filled(source, "vocoder", lambda: SpeechT5HifiGan(SpeechT5HifiGanConfig(**fields)))

"""Decoders of latents: a pipeline's autoencoder to a bundle's finish program."""

from __future__ import annotations

from ...errors import ModelError
from .decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, Decoder
from .frames import FramesDecoder
from .image import ImageDecoder
from .opensora import OpenSoraVideoDecoder
from .sound import SoundDecoder
from .source import DecoderSource, decoder_source
from .wan import WanDecoder

__all__ = [
    "DECODER_NAME", "DECODER_WEIGHTS_NAME", "KINDS", "Decoder", "DecoderSource", "decoder_source", "open_decoder",
]  # fmt: skip
KINDS: tuple[type[Decoder], ...] = (
    SoundDecoder, FramesDecoder, ImageDecoder, OpenSoraVideoDecoder, WanDecoder,
)  # fmt: skip
"""Kinds of decoders; the first one that takes a pipeline's parts decodes it."""


def open_decoder(source: DecoderSource) -> Decoder:
    """The decoder of a pipeline's parts. Raises ModelError for one that cannot be exported; no weights are read."""
    for kind in KINDS:
        if kind.takes(source):
            return kind(source)
    names = ", ".join(dict.fromkeys(name for kind in KINDS for name in kind.classes))
    raise ModelError(
        f"{source.where('vae')}: autoencoder {source.kind!r} is not supported; supported: {names}; "
        "--without decoder leaves it out"
    )

"""What every kind of decoder gives: the bundle's finish program, and its files."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from soda_runtime.manifest import AudioFinish, FinishProgram, VideoFinish
from torch import nn

from .programs import DecoderProgram, Progress, write_programs
from .source import DecoderSource

log = logging.getLogger(__name__)
DECODER_NAME, DECODER_WEIGHTS_NAME = "decoder.onnx", "decoder.safetensors"


class Decoder(ABC):
    """One pipeline's decoder. A kind is a class of these in a file of its own, listed in KINDS.

    classes: autoencoders of diffusers that it takes. parts: folders that it is made of. Raises ModelError for a
    configuration that it cannot export.
    """

    classes: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, ...]] = ("vae",)

    def __init__(self, source: DecoderSource) -> None:
        self.source = source

    @classmethod
    def takes(cls, source: DecoderSource) -> bool:
        """Whether this kind decodes it."""
        return source.kind in cls.classes

    @property
    @abstractmethod
    def finish(self) -> FinishProgram:
        """The program as a manifest has it."""

    @abstractmethod
    def module(self) -> nn.Module:
        """All latents [B, *latent_shape] -> [B, *finish.shape], in fp32: what the program makes. Raises ModelError."""

    @abstractmethod
    def programs(self) -> Sequence[DecoderProgram]:
        """The files that `finish` names, on the same weights. Raises ModelError."""

    def export(self, out: Path, progress: Progress = lambda done, total: None) -> None:
        """Write the programs and their weights into `out`. progress(done, total) counts tensors.

        Raises ModelError, ExportError.
        """
        started = time.perf_counter()
        write_programs(self.programs(), self.finish.weights, out, progress)
        log.info("decoder: %s in %.1f s", _described(self.finish), time.perf_counter() - started)


def _described(finish: FinishProgram) -> str:
    """`8 frames of 64 x 64 pixels`."""
    if isinstance(finish, AudioFinish):
        return f"{finish.shape[1] / finish.sample_rate:.2f} s of sound at {finish.sample_rate} Hz"
    *_, height, width = finish.shape
    frames = f"{finish.shape[0]} frames of " if isinstance(finish, VideoFinish) else ""
    return f"{frames}{width} x {height} pixels"

"""What every kind of decoder gives: the bundle's finish program, and its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from soda_runtime.manifest import FinishProgram
from torch import nn

from .programs import Progress
from .source import DecoderSource

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
    def export(self, out: Path, progress: Progress = lambda done, total: None) -> None:
        """Write the finish program and its weights into `out`. progress(done, total) counts tensors.

        Raises ModelError, ExportError.
        """

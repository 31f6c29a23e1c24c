"""The parts of a pipeline around the denoiser: text encoders and image decoder, each a stage of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from soda_runtime.manifest import ImageFinish

from ..compile.options import EngineOptions
from ..eager.conditions import Conditions
from ..export.decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, check_decoder, export_decoder, image_shape
from ..export.text_encoder import TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME
from ..models.checkpoint import hash_files
from ..models.load import LoadedModel
from ..models.precision import Compute
from .engines import make_engines
from .pack import Components
from .prompts import PromptMaker
from .stages import StageStore

Progress = Callable[[str, int, int], None]
_RANDOM_SEED = 0  # of a decoder whose weights are nowhere: it is there for its latency


class ComponentMaker:
    """Exports the parts of one model, each at most once a model, whatever the plan. guided: whether a sample has a row
    of a negative prompt."""

    def __init__(self, loaded: LoadedModel, store: StageStore, progress: Progress, guided: bool) -> None:
        self._loaded, self._store, self._progress = loaded, store, progress
        self._prompts = PromptMaker(loaded, guided)

    def make(
        self, backend: str, precision: Compute, without: tuple[str, ...], options: EngineOptions = EngineOptions()
    ) -> Components:
        """Everything that the model has and the user wants. Raises ModelError, ExportError, CompileError."""
        made = Components()
        if self.has_text_encoder and "text-encoder" not in without:
            folder = self._text_encoder(precision)
            engine = self._compile(backend, folder, TEXT_ENCODER_NAME, options)
            tokenizers = self._prompts.tokenizers(folder)
            files: tuple[Path, ...] = (engine, folder / TEXT_WEIGHTS_NAME, *(folder / t.file for t in tokenizers))
            made = Components(
                (self._prompts.program(),), (), (TEXT_WEIGHTS_NAME,), tokenizers, self._prompts.token_ports(), files,
                (engine,),
            )  # fmt: skip
        if self._vae is not None and "decoder" not in without:
            folder, shape = self._decoder(self._vae)
            engine = self._compile(backend, folder, DECODER_NAME, options)
            made = replace(
                made, finish=(ImageFinish(DECODER_NAME, DECODER_WEIGHTS_NAME, "image", shape),),
                weights=(*made.weights, DECODER_WEIGHTS_NAME), engines=(*made.engines, engine),
                files=(*made.files, engine, folder / DECODER_WEIGHTS_NAME),
            )  # fmt: skip
        return made

    def check(self, without: tuple[str, ...]) -> None:
        """Refuse early what `make` cannot carry. Raises ModelError."""
        if self.has_text_encoder and "text-encoder" not in without:
            self._prompts.check()
        if self._vae is not None and "decoder" not in without:
            check_decoder(self._vae)

    @property
    def has_text_encoder(self) -> bool:
        """Whether the model comes with text encoders."""
        return self._prompts.is_there

    @property
    def text_hashes(self) -> dict[str, str]:
        """What the embeddings of a text depend on."""
        return self._prompts.hashes

    def encode(self, texts: list[str]) -> Conditions:
        """Embeddings of texts and of the empty text, with the model's own text encoders in fp32."""
        return self._prompts.encode(texts)

    def _text_encoder(self, precision: Compute) -> Path:
        def export(folder: Path) -> None:
            self._prompts.export(folder, precision, lambda done, total: self._progress("text encoder", done, total))

        return self._store.produce("text-encoder", {**self._prompts.export_inputs, "precision": precision}, export)

    @cached_property
    def _vae(self) -> Path | dict[str, Any] | None:
        """The image decoder's folder, else its configuration."""
        config = self._loaded.component_config("vae")
        return config if config is None else self._loaded.component_folder("vae") or config

    def _decoder(self, source: Path | dict[str, Any]) -> tuple[Path, tuple[int, int, int]]:
        seed = None if isinstance(source, Path) else _RANDOM_SEED
        config, latent_shape = check_decoder(source)[1], self._loaded.spec.latent_shape

        def export(out: Path) -> None:
            export_decoder(
                source, out, latent_shape=latent_shape, seed=seed, variant=self._loaded.variant,
                progress=lambda done, total: self._progress("decoder", done, total),
            )  # fmt: skip

        files = hash_files(source) if isinstance(source, Path) else source
        inputs = {"files": files, "seed": seed, "latents": latent_shape, "variant": self._loaded.variant}
        made = self._store.produce("decoder", inputs, export)
        return made, image_shape(config, latent_shape)

    def _compile(self, backend: str, folder: Path, name: str, options: EngineOptions) -> Path:
        """The engine of one graph; its weights stay where they are."""
        return make_engines(self._store, backend, folder, (name,), options, {"graph": folder.name}) / name

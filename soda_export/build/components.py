"""The parts of a pipeline around the denoiser: text encoders and decoder, each a stage of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..compile.options import EngineOptions
from ..eager.conditions import Conditions
from ..export.decoders import Decoder, decoder_source, open_decoder
from ..export.text_encoder import TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME
from ..models.checkpoint import hash_files
from ..models.load import LoadedModel
from ..models.precision import Compute
from .engines import make_engines
from .pack import Components
from .prompts import PromptMaker
from .stages import StageStore

Progress = Callable[[str, int, int], None]


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
            engines = self._compile(backend, folder, (TEXT_ENCODER_NAME,), options)
            tokenizers = self._prompts.tokenizers(folder)
            files: tuple[Path, ...] = (*engines, folder / TEXT_WEIGHTS_NAME, *(folder / t.file for t in tokenizers))
            made = Components(
                (self._prompts.program(),), (), (TEXT_WEIGHTS_NAME,), tokenizers, self._prompts.token_ports(), files,
                engines,
            )  # fmt: skip
        decoder = self._decoder(without)
        if decoder is not None:
            folder, finish = self._export(decoder), decoder.finish
            names = (finish.file, *(each.file for each in getattr(finish, "first", ())))
            engines = self._compile(backend, folder, names, options)
            made = replace(
                made, finish=(finish,), weights=(*made.weights, finish.weights), engines=(*made.engines, *engines),
                files=(*made.files, *engines, folder / finish.weights),
            )
        return made

    def check(self, without: tuple[str, ...]) -> None:
        """Refuse early what `make` cannot carry. Raises ModelError."""
        if self.has_text_encoder and "text-encoder" not in without:
            self._prompts.check()
        self._decoder(without)

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

    def _decoder(self, without: tuple[str, ...]) -> Decoder | None:
        source = None if "decoder" in without else decoder_source(self._loaded)
        return None if source is None else open_decoder(source)

    def _export(self, decoder: Decoder) -> Path:
        source = decoder.source
        places = {part: source.parts[part] for part in decoder.parts}
        files = {part: hash_files(place) if isinstance(place, Path) else place for part, place in places.items()}
        inputs = {
            "kind": type(decoder).__name__, "files": files, "seed": source.seed, "latents": source.latent_shape,
            "variant": source.variant, "seconds": source.seconds,
        }  # fmt: skip

        def export(out: Path) -> None:
            decoder.export(out, lambda done, total: self._progress("decoder", done, total))

        return self._store.produce("decoder", inputs, export)

    def _compile(
        self, backend: str, folder: Path, names: tuple[str, ...], options: EngineOptions
    ) -> tuple[Path, ...]:
        """The engines of graphs; their weights stay where they are."""
        made = make_engines(self._store, backend, folder, names, options, {"graph": folder.name})
        return tuple(made / name for name in names)

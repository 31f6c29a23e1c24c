"""The parts of a pipeline around the denoiser: text encoders and decoder, each a stage of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from soda_runtime.manifest import FinishProgram, VideoFinish

from ..compile.options import EngineOptions
from ..eager.conditions import Conditions
from ..export.decoders import Decoder, decoder_source, open_decoder
from ..export.index import sized_name
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
        self, backend: str, precision: Compute, without: tuple[str, ...], options: EngineOptions = EngineOptions(),
        suffix: str = "",
    ) -> Components:  # fmt: skip
        """Everything that the model has and the user wants. suffix: what the names of a size's own files end with.

        Raises ModelError, ExportError, CompileError.
        """
        made = Components()
        if self.has_text_encoder and "text-encoder" not in without:
            folder = self._text_encoder(precision)
            engines = self._compile(backend, folder, (TEXT_ENCODER_NAME,), options)
            tokenizers = self._prompts.tokenizers(folder)
            files = engines | {name: folder / name for name in (TEXT_WEIGHTS_NAME, *(t.file for t in tokenizers))}
            made = Components(
                (self._prompts.program(),), (), (TEXT_WEIGHTS_NAME,), tokenizers, self._prompts.token_ports(), files,
                engines,
            )  # fmt: skip
        decoder = self._decoder(without)
        if decoder is not None:
            folder, finish = self._export(decoder), decoder.finish
            names = (finish.file, *(each.file for each in getattr(finish, "first", ())))
            compiled = self._compile(backend, folder, names, options)
            engines = {sized_name(name, suffix): path for name, path in compiled.items()}
            made = replace(
                made, finish=(_sized(finish, suffix),), weights=(*made.weights, finish.weights),
                engines=made.engines | engines, files=made.files | engines | {finish.weights: folder / finish.weights},
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
            "variant": source.variant, "seconds": source.seconds, "size": source.size,
        }  # fmt: skip

        def export(out: Path) -> None:
            decoder.export(out, lambda done, total: self._progress("decoder", done, total))

        return self._store.produce("decoder", inputs, export)

    def _compile(
        self, backend: str, folder: Path, names: tuple[str, ...], options: EngineOptions
    ) -> dict[str, Path]:
        """The engines of graphs by name; their weights stay where they are."""
        made = make_engines(self._store, backend, folder, names, options, {"graph": folder.name})
        return {name: made / name for name in names}


def _sized(finish: FinishProgram, suffix: str) -> FinishProgram:
    """The program with the names that its files have in a bundle of several sizes."""
    if isinstance(finish, VideoFinish):
        firsts = tuple(replace(each, file=sized_name(each.file, suffix)) for each in finish.first)
        finish = replace(finish, first=firsts)
    return replace(finish, file=sized_name(finish.file, suffix))

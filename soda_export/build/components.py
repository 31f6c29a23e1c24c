"""The parts of a pipeline around the denoiser: text encoder, tokenizer and image decoder, each a stage of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from soda_runtime.manifest import FinishProgram, PrepareProgram
from soda_runtime.signature import ATTENTION_MASK, EMBEDS, INPUT_IDS

from ..compile.options import EngineOptions
from .engines import make_engines
from ..errors import ModelError
from ..export.decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, export_decoder
from ..export.encode import encode_texts
from ..export.text_encoder import (
    TEXT_ENCODER_NAME,
    TEXT_WEIGHTS_NAME,
    TOKENIZER_NAME,
    export_text_encoder,
    export_tokenizer,
)
from ..models.load import LoadedModel
from ..models.precision import Compute
from ..models.spec import TextCondition
from ..models.t5 import parse_t5_config
from .pack import Components
from ..profile.calibration import TextSamples
from .stages import StageStore

Progress = Callable[[str, int, int], None]
_RANDOM_SEED = 0  # of a decoder whose weights are nowhere: it is there for its latency


class ComponentMaker:
    """Exports the parts of one model, each at most once a model, whatever the plan."""

    def __init__(self, loaded: LoadedModel, store: StageStore, progress: Progress) -> None:
        self._loaded, self._store, self._progress = loaded, store, progress

    def make(
        self, backend: str, precision: Compute, without: tuple[str, ...], options: EngineOptions = EngineOptions()
    ) -> Components:
        """Everything that the model has and the user wants. Raises ModelError, ExportError, CompileError."""
        made = Components()
        if self.has_text_encoder and "text-encoder" not in without:
            folder = self._text_encoder(precision)
            engine = self._compile(backend, folder, TEXT_ENCODER_NAME, options)
            program = PrepareProgram(TEXT_ENCODER_NAME, (INPUT_IDS, ATTENTION_MASK), (), (EMBEDS,))
            files: tuple[Path, ...] = (engine, folder / TEXT_WEIGHTS_NAME, folder / TOKENIZER_NAME)
            made = Components((program,), (), (TEXT_WEIGHTS_NAME,), TOKENIZER_NAME, files, (engine,))
        if self._loaded.component_config("vae") is not None and "decoder" not in without:
            folder, shape = self._decoder()
            engine = self._compile(backend, folder, DECODER_NAME, options)
            files = (*made.files, engine, folder / DECODER_WEIGHTS_NAME)
            weights, finish = (*made.weights, DECODER_WEIGHTS_NAME), (FinishProgram(DECODER_NAME, shape),)
            made = Components(made.prepare, finish, weights, made.tokenizer, files, (*made.engines, engine))
        return made

    @property
    def has_text_encoder(self) -> bool:
        """Whether the model comes with a text encoder and its tokenizer."""
        is_text = isinstance(self._loaded.spec.condition, TextCondition)
        return is_text and self._loaded.component_folder("text_encoder") is not None

    @cached_property
    def text_hashes(self) -> dict[str, str]:
        """What the embeddings of a text depend on."""
        folders = (self._loaded.component_folder("text_encoder"), self._loaded.component_folder("tokenizer"))
        return _hash_files(*(folder for folder in folders if folder is not None))

    def encode(self, texts: list[str]) -> TextSamples:
        """Embeddings of texts and of the empty text, with the model's own text encoder in fp32."""
        spec = parse_t5_config(self._loaded.component_config("text_encoder") or {}, "text_encoder/config.json")
        embeds, mask = encode_texts(self._text_encoder("fp32"), spec, [*texts, ""], self._tokens, "fp32")
        return TextSamples(embeds[:-1], mask[:-1], embeds[-1:], mask[-1:])

    @property
    def _tokens(self) -> int:
        condition = self._loaded.spec.condition
        assert isinstance(condition, TextCondition)
        return condition.max_tokens

    def _text_encoder(self, precision: Compute) -> Path:
        source, tokenizer = self._loaded.component_folder("text_encoder"), self._loaded.component_folder("tokenizer")
        if source is None:
            raise ModelError("the model has no text encoder; build with --without text-encoder and give embeddings")
        if tokenizer is None:
            raise ModelError(f"{source.parent / 'tokenizer'}: no such folder; the text encoder needs its tokenizer")

        def export(folder: Path) -> None:
            export_tokenizer(tokenizer, folder)
            export_text_encoder(
                source, folder, max_tokens=self._tokens, precision=precision,
                progress=lambda done, total: self._progress("text encoder", done, total),
            )  # fmt: skip

        inputs = {"files": self.text_hashes, "tokens": self._tokens, "precision": precision}
        return self._store.produce("text-encoder", inputs, export)

    def _decoder(self) -> tuple[Path, tuple[int, int, int]]:
        folder, config = self._loaded.component_folder("vae"), self._loaded.component_config("vae")
        assert config is not None
        source: Path | dict[str, Any] = folder if folder is not None else config
        seed = _RANDOM_SEED if folder is None else None
        latent_shape = self._loaded.spec.latent_shape

        def export(out: Path) -> None:
            export_decoder(
                source, out, latent_shape=latent_shape, seed=seed,
                progress=lambda done, total: self._progress("decoder", done, total),
            )  # fmt: skip

        files = config if folder is None else _hash_files(folder)
        made = self._store.produce("decoder", {"files": files, "seed": seed, "latents": latent_shape}, export)
        scale = 2 ** (len(config["block_out_channels"]) - 1)
        return made, (int(config.get("out_channels", 3)), latent_shape[1] * scale, latent_shape[2] * scale)

    def _compile(self, backend: str, folder: Path, name: str, options: EngineOptions) -> Path:
        """The engine of one graph; its weights stay where they are."""
        return make_engines(self._store, backend, folder, (name,), options, {"graph": folder.name}) / name


def _hash_files(*folders: Path) -> dict[str, str]:
    """Name -> SHA-256 of what the parts are read from."""
    hashes = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in (".json", ".safetensors", ".model"):
                with path.open("rb") as file:
                    hashes[f"{folder.name}/{path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes

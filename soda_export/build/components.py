"""The parts of a pipeline around the denoiser: text encoder, tokenizer and image decoder, each a stage of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from soda_runtime.manifest import ImageFinish, PrepareProgram, TokenizerEntry
from soda_runtime.signature import ATTENTION_MASK, INPUT_IDS

from ..compile.options import EngineOptions
from ..eager.conditions import Conditions, text_ports
from ..errors import ModelError
from ..export.decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, export_decoder, image_shape
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
from ..models.spec import Port
from ..models.text import is_foreign
from .engines import make_engines
from .pack import Components
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
            assert self._embeds is not None
            inputs, outputs = (INPUT_IDS, ATTENTION_MASK), (self._embeds.name,)
            program = PrepareProgram(TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME, inputs, (), outputs)
            tokenizer = TokenizerEntry(TOKENIZER_NAME, self._tokens, "lower-strip", -1)
            files: tuple[Path, ...] = (engine, folder / TEXT_WEIGHTS_NAME, folder / TOKENIZER_NAME)
            made = Components((program,), (), (TEXT_WEIGHTS_NAME,), (tokenizer,), files, (engine,))
        if self._loaded.component_config("vae") is not None and "decoder" not in without:
            folder, shape = self._decoder()
            engine = self._compile(backend, folder, DECODER_NAME, options)
            files = (*made.files, engine, folder / DECODER_WEIGHTS_NAME)
            weights = (*made.weights, DECODER_WEIGHTS_NAME)
            finish = (ImageFinish(DECODER_NAME, DECODER_WEIGHTS_NAME, "image", shape),)
            made = Components(made.prepare, finish, weights, made.tokenizers, files, (*made.engines, engine))
        return made

    @property
    def has_text_encoder(self) -> bool:
        """Whether the model comes with a text encoder that bundles can hold."""
        if self._embeds is None or self._loaded.component_folder("text_encoder") is None:
            return False
        return not is_foreign(self._loaded.component_config("text_encoder") or {})

    @cached_property
    def text_hashes(self) -> dict[str, str]:
        """What the embeddings of a text depend on."""
        folders = (self._loaded.component_folder("text_encoder"), self._loaded.component_folder("tokenizer"))
        return _hash_files(*(folder for folder in folders if folder is not None))

    def encode(self, texts: list[str]) -> Conditions:
        """Embeddings of texts and of the empty text, with the model's own text encoder in fp32."""
        source, _ = self._text_folders()
        with TemporaryDirectory() as folder:
            export_tokenizer(self._text_folders()[1], Path(folder))
            made = encode_texts(source, Path(folder), [*texts, ""], self._tokens)
        taken = {port.name: made[port.name] for port in text_ports(self._loaded.spec)}
        return Conditions({n: t[:-1] for n, t in taken.items()}, {n: t[-1:] for n, t in taken.items()})

    @property
    def _embeds(self) -> Port | None:
        """The port of a model whose one text encoder gives one embedding."""
        ports = [port for port in self._loaded.spec.ports if port.kind == "embedding"]
        return ports[0] if len(ports) == 1 else None

    @property
    def _tokens(self) -> int:
        assert self._embeds is not None
        return self._embeds.shape[0]

    def _text_folders(self) -> tuple[Path, Path]:
        source, tokenizer = self._loaded.component_folder("text_encoder"), self._loaded.component_folder("tokenizer")
        if source is None:
            raise ModelError("the model has no text encoder; build with --without text-encoder and give embeddings")
        if tokenizer is None:
            raise ModelError(f"{source.parent / 'tokenizer'}: no such folder; the text encoder needs its tokenizer")
        return source, tokenizer

    def _text_encoder(self, precision: Compute) -> Path:
        source, tokenizer = self._text_folders()

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
        return made, image_shape(config, latent_shape)

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

"""Text encoders and tokenizers of a pipeline: as one program of a bundle, and to encode calibration prompts with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import torch
from soda_runtime.manifest import PrepareProgram, RequestPort, TokenIdsPort, TokenizerEntry, TokenMaskPort
from soda_runtime.text import PromptTokenizer

from ..eager.conditions import Conditions, text_ports
from ..errors import ModelError, UsageError
from ..export.encode import encode_texts
from ..export.tensor_file import Changes
from ..export.text_encoder import TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME, export_text_encoder
from ..export.tokenizer import export_tokenizer
from ..files import naming
from ..models.checkpoint import hash_files
from ..models.load import LoadedModel
from ..models.precision import Compute
from ..models.prompts import PromptModel, takes_clip_states
from ..models.published import read_json
from ..models.recipe import TextPart
from ..models.text import TextModel, read_text_model

_TOKENIZERS_NAME = "tokenizers.json"
_WITHOUT = "or build with --without text-encoder and give embeddings"


class PromptMaker:
    """What makes a model's ports of prompts. guided: whether the second half of the rows are negative prompts.

    Raises UsageError for a --clip-skip that would have no effect, ModelError for encoders that cannot be used.
    """

    def __init__(self, loaded: LoadedModel, guided: bool) -> None:
        self._loaded, self._guided, self._recipe = loaded, guided, loaded.family.texts
        skip = loaded.clip_skip
        if skip is not None and not (self.is_there and takes_clip_states(self._recipe, self._encoders)):
            taken = f"{loaded.spec.name} takes no hidden state of a CLIP text encoder"
            raise UsageError(f"--clip-skip {skip}: {taken}; leave it out")

    @property
    def is_there(self) -> bool:
        """Whether the model comes with text encoders."""
        return any(self._loaded.component_folder(part.name) is not None for part in self._recipe.parts)

    def check(self) -> None:
        """Raises ModelError where `export` would, as far as it shows without reading weights."""
        for part in self._model.models:
            self._tokenizer(part)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """What the embeddings of a text depend on: SHA-256 of each file, and what pipelines may be told."""
        names = [name for part in self._recipe.parts for name in (part.name, part.tokenizer)]
        folders = [folder for name in names if (folder := self._loaded.component_folder(name)) is not None]
        settings = {"clip_skip": str(self._loaded.clip_skip), "zeros_for_empty": str(self._zeros_for_empty)}
        settings |= {"variant": self._loaded.variant} if self._loaded.variant else {}
        settings |= {"lora": self._loaded.lora.content} if self._loaded.lora is not None else {}
        return hash_files(*folders) | settings

    def export(self, folder: Path, precision: Compute, progress: Callable[[int, int], None]) -> None:
        """Write the program, its weights, the tokenizers and a list of these."""
        entries = self._write_tokenizers(folder)
        (folder / _TOKENIZERS_NAME).write_bytes(msgspec.json.encode(entries))
        tokenizers = self._open(folder, entries)
        empty = {part.name: torch.from_numpy(tokenizer([""])[0][0]) for part, tokenizer in tokenizers.items()}
        export_text_encoder(
            self._model, self._sources, folder, precision=precision, guided=self._guided, empty=empty,
            variant=self._loaded.variant, changes=self._changes, progress=progress,
        )  # fmt: skip

    @property
    def export_inputs(self) -> dict[str, object]:
        """What the export depends on, but for its precision."""
        model = self._model
        tokens = {name: model.tokens(part) for name, part in model.inputs.items()}
        halves = self._guided and model.has_negatives
        made = {"ports": model.ports, "recipe": repr(model.recipe)}
        return {"files": self.hashes, "tokens": tokens, "halves": halves, **made}

    def program(self) -> PrepareProgram:
        """The program as a manifest has it."""
        inputs, outputs = tuple(self._model.inputs), tuple(self._model.ports)
        return PrepareProgram(TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME, inputs, (), outputs)

    def tokenizers(self, folder: Path) -> tuple[TokenizerEntry, ...]:
        """Those that `export` wrote."""
        return msgspec.json.decode((folder / _TOKENIZERS_NAME).read_bytes(), type=tuple[TokenizerEntry, ...])

    def token_ports(self) -> tuple[RequestPort, ...]:
        """What the program takes: the tokens of prompts, and their mask where the model takes it."""
        ports: list[RequestPort] = []
        for number, part in enumerate(self._model.models):
            shape = (self._model.tokens(part),)
            ports.append(TokenIdsPort(part.ids, "int64", shape, "token_ids", number))
            if part.mask:
                ports.append(TokenMaskPort(part.mask, "int64", shape, "token_mask", number))
        return tuple(ports)

    def encode(self, texts: list[str]) -> Conditions:
        """Embeddings of texts and of the empty negative prompt, with the model's own text encoders in fp32."""
        with TemporaryDirectory() as folder, naming(Path(folder)):
            tokenizers = self._open(Path(folder), self._write_tokenizers(Path(folder)))
        sides = encode_texts(
            self._model, self._sources, lambda part, given: tokenizers[part](given), texts, [""], self._loaded.variant,
            self._changes,
        )  # fmt: skip
        return Conditions(*sides)

    @cached_property
    def _model(self) -> PromptModel:
        spec, recipe = self._loaded.spec, self._recipe
        made = {*recipe.ports, *(part.mask for part in recipe.parts)}
        unmade = [port.name for port in text_ports(spec) if port.name not in made]
        if unmade:
            raise ModelError(f"{spec.name}: no text encoder makes {unmade[0]}; build with --without text-encoder")
        shapes = {port.name: port.shape for port in spec.ports if port.name in recipe.ports}
        tokens, skip = self._loaded.text_tokens, self._loaded.clip_skip
        return PromptModel(recipe, self._encoders, tokens, shapes, skip, self._zeros_for_empty)

    @cached_property
    def _encoders(self) -> dict[TextPart, TextModel]:
        sources = {part: self._sources.get(part.name) for part in self._recipe.parts}
        return {part: read_text_model(source) for part, source in sources.items() if source is not None}

    @property
    def _changes(self) -> Changes:
        """What LoRA files add to the encoders."""
        lora = self._loaded.lora
        return {} if lora is None else {part.name: lora.of_part(part.name) for part in self._recipe.parts}

    @cached_property
    def _sources(self) -> dict[str, Path]:
        """Folders of the encoders that are there."""
        sources = {}
        for part in self._recipe.parts:
            folder = self._loaded.component_folder(part.name)
            if folder is not None:
                sources[part.name] = folder
            elif not part.may_lack:
                missing = f"{self._loaded.folder}: no {part.name}/"
                raise ModelError(f"{missing}, which its prompts need; add it, {_WITHOUT}")
        return sources

    @property
    def _zeros_for_empty(self) -> bool:
        """The pipeline's force_zeros_for_empty_prompt, true unless model_index.json says otherwise."""
        path = None if self._loaded.folder is None else self._loaded.folder / "model_index.json"
        index = read_json(path, "") if path is not None and path.is_file() else {}
        return self._recipe.zeros_for_empty and bool(index.get("force_zeros_for_empty_prompt", True))

    def _write_tokenizers(self, out: Path) -> tuple[TokenizerEntry, ...]:
        entries = []
        for part in self._model.models:
            name = f"{part.tokenizer}.json"
            pad = export_tokenizer(self._tokenizer(part), out / name)
            entries.append(TokenizerEntry(name, self._model.tokens(part), part.clean, pad))
        return tuple(entries)

    def _tokenizer(self, part: TextPart) -> Path:
        folder = self._loaded.component_folder(part.tokenizer)
        if folder is None:
            missing = f"{self._loaded.folder}: no {part.tokenizer}/"
            raise ModelError(f"{missing}, which {part.name} needs; add it, {_WITHOUT}")
        return folder

    def _open(self, folder: Path, entries: tuple[TokenizerEntry, ...]) -> dict[TextPart, PromptTokenizer]:
        return {
            part: PromptTokenizer(folder / entry.file, entry.max_tokens, entry.clean, entry.pad_id)
            for part, entry in zip(self._model.models, entries, strict=True)
        }

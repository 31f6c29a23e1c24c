"""A tokenizer folder to a tokenizer.json that gives the ids which the pipeline's own tokenizer gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ModelError, first_line
from ..models.published import read_json

TOKENIZER_NAME = "tokenizer.json"


def export_tokenizer(folder: Path, path: Path) -> int:
    """Write the file `path`; return the id that pads. Raises ModelError.

    CLIP's and RoBERTa's folders have vocab.json and merges.txt, T5's a tokenizer.json or else a spiece.model.
    transformers reads them, since it makes tokens of their own of what tokenizer_config.json lists: "!", which pads in
    SD 2, for one.
    """
    kind = _kind(folder)
    files = (TOKENIZER_NAME, "spiece.model" if kind == "T5Tokenizer" else "merges.txt")
    found = next((folder / name for name in files if (folder / name).is_file()), None)
    if found is None:
        has = f"T5's folders have {TOKENIZER_NAME} or spiece.model, CLIP's and RoBERTa's vocab.json and merges.txt"
        raise ModelError(f"{folder}: no tokenizer; {has}")
    tokenizer = _load(kind, folder, found)
    tokenizer.backend_tokenizer.save(str(path))
    return int(tokenizer.pad_token_id)


def _kind(folder: Path) -> str:
    """The class in transformers; CLIP's, where only the files tell."""
    path = folder / "tokenizer_config.json"
    named = str(read_json(path, "").get("tokenizer_class")) if path.is_file() else ""
    if named.startswith("Roberta"):
        return "RobertaTokenizer"
    return "CLIPTokenizer" if named.startswith("CLIP") or (folder / "merges.txt").is_file() else "T5Tokenizer"


def _load(name: str, folder: Path, file: Path) -> Any:
    """transformers' tokenizer of a class; before version 5 those of the tokenizers library end in Fast."""
    import transformers

    maker = getattr(transformers, f"{name}Fast", None) or getattr(transformers, name)
    try:
        return maker.from_pretrained(folder)
    except Exception as error:
        raise ModelError(f"{file}: transformers cannot load it: {first_line(error)}") from None

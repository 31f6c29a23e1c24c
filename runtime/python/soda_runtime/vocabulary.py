"""How many token ids a tokenizer.json knows, so that ids given by a caller can be held against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .strict_json import StrictJsonError, parse_json

_END_OF_IDS = 1 << 32  # ids are 32 bits wide in every tokenizer; a number beyond is none


def vocabulary_size(path: Path) -> int:
    """One more than the greatest id in the file's vocabulary and added tokens; 0 where it says nothing of ids."""
    try:
        content = parse_json(path.read_bytes())
    except StrictJsonError:
        return 0
    model, added = _get(content, "model"), _get(content, "added_tokens")
    vocabulary = _get(model, "vocab")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [_get(token, "id") for token in added] if isinstance(added, list) else []
    ids += [len(vocabulary) - 1] if isinstance(vocabulary, list) else []  # of Unigram: pieces in the order of their ids
    return 1 + max((each for each in ids if type(each) is int and each < _END_OF_IDS), default=-1)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None

"""How many token ids a tokenizer.json knows, so that ids given by a caller can be held against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def vocabulary_size(path: Path) -> int:
    """One more than the greatest id in the file's vocabulary and added tokens; 0 where it says nothing of ids."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return 0
    model, added = _get(content, "model"), _get(content, "added_tokens")
    vocabulary = _get(model, "vocab")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [_get(token, "id") for token in added] if isinstance(added, list) else []
    ids += [len(vocabulary) - 1] if isinstance(vocabulary, list) else []  # of Unigram: pieces in the order of their ids
    return 1 + max((each for each in ids if type(each) is int), default=-1)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None

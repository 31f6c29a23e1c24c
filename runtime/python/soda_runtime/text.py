"""Prompts to token ids, with the tokenizers library alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, EngineError, RequestError

_PAD = "<pad>"


class PromptTokenizer:
    """Turns prompts into the ids and the mask that a text encoder takes, as PixArt's pipeline does.

    path: a tokenizer.json. max_tokens: T, padding and what the tokenizer adds included. clean: what is done to a text
    first. pad_id: of padding; -1 = that of `<pad>`, 0 where there is none. Raises EngineError
    where the tokenizers library is missing, BundleError for a file that is no tokenizer. May be shared by threads.
    """

    def __init__(
        self, path: Path | str, max_tokens: int,
        clean: Literal["lower-strip", "strip", "none"] = "lower-strip", pad_id: int = -1,
    ) -> None:  # fmt: skip
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise EngineError("prompts need the tokenizers library; run `pip install soda-runtime[text]`") from None
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise BundleError(f"{path}: not a tokenizer ({error}); copy or build the bundle again") from None
        self._max_tokens, self._clean = max_tokens, clean
        pad = (self._tokenizer.token_to_id(_PAD) or 0) if pad_id < 0 else pad_id
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(length=max_tokens, pad_id=pad, pad_token=_PAD)

    def __call__(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and mask, int64 [n, T] each, 1 = a token, 0 = padding. Too long a prompt loses its end, never its </s>.

        Raises RequestError for anything but a list or tuple of strings.
        """
        if not isinstance(prompts, (list, tuple)) or not all(isinstance(prompt, str) for prompt in prompts):
            raise RequestError("prompts: expected a list of strings, one a sample")
        lower, strip = self._clean == "lower-strip", self._clean != "none"
        cleaned = [prompt.lower() if lower else prompt for prompt in prompts]
        cleaned = [prompt.strip() if strip else prompt for prompt in cleaned]
        try:
            encoded = self._tokenizer.encode_batch(cleaned)
        except (TypeError, UnicodeError):
            raise RequestError("prompts: a string is not valid Unicode") from None
        shape = (len(encoded), self._max_tokens)
        ids = np.array([each.ids for each in encoded], np.int64).reshape(shape)
        mask = np.array([each.attention_mask for each in encoded], np.int64).reshape(shape)
        return ids, mask

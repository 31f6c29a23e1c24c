"""Prompts to token ids, with the tokenizers library alone."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, EngineError, RequestError
from .printable import printable

_PAD = "<pad>"
_FROM_FILE = -1
_SHOWN = 200  # characters of what a prompt lost
log = logging.getLogger(__name__)
Clean = Literal["lower-strip", "strip", "unescape-collapse", "none"]


class Tokens(NamedTuple):
    """Ids and mask, int64 [n, T] each, 1 = a token, 0 = padding. lost: by row, the end of a text that has no tokens."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    lost: dict[int, str]


class PromptTokenizer:
    """Turns prompts into the ids and the mask that a text encoder takes.

    path: a tokenizer.json. max_tokens: T, padding and what the file adds included. clean: what is done to a text first
    (PixArt's pipeline lowers T5's). pad_id: of padding, -1 is that of `<pad>`. Raises EngineError where the tokenizers
    library is missing, BundleError for a file that is no tokenizer. May be shared by threads.
    """

    def __init__(
        self, path: Path | str, max_tokens: int, clean: Clean = "lower-strip", pad_id: int = _FROM_FILE
    ) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise EngineError("prompts need the tokenizers library; run `pip install soda-runtime[text]`") from None
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise BundleError(f"{path}: not a tokenizer ({error}); copy or build the bundle again") from None
        self._path, self.max_tokens, self._clean = path, max_tokens, clean
        pad = self._tokenizer.token_to_id(_PAD) if pad_id == _FROM_FILE else pad_id
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(length=max_tokens, pad_id=0 if pad is None else pad, pad_token=_PAD)

    def __call__(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and mask of `encode`; the log says what a text loses."""
        tokens = self.encode(prompts)
        for number, lost in tokens.lost.items():
            log.warning("prompt %d: the model reads %d tokens; it loses %r", number, self.max_tokens, shortened(lost))
        return tokens.ids, tokens.mask

    def encode(self, prompts: Sequence[str]) -> Tokens:
        """The tokens of each text. Too long a one loses its end, never its </s>.

        Raises RequestError for anything but a list or tuple of strings.
        """
        if not isinstance(prompts, (list, tuple)) or not all(isinstance(prompt, str) for prompt in prompts):
            raise RequestError("prompts: expected a list of strings, one a sample")
        plain = [str.__str__(prompt) for prompt in prompts]  # of subclasses, whose methods may do anything
        cleaned = [_cleaned(prompt, self._clean) for prompt in plain]
        try:
            encoded = self._tokenizer.encode_batch(cleaned)
        except (TypeError, UnicodeError):
            raise RequestError("prompts: a string is not valid Unicode") from None
        except Exception as error:  # the library raises nothing more specific, as for a file without an unknown token
            raise BundleError(f"{self._path}: cannot encode a prompt ({error}); rebuild the bundle") from None
        lost = {
            number: cleaned[number][max(end for _, end in each.offsets) :].strip()
            for number, each in enumerate(encoded)
            if each.overflowing
        }
        shape = (len(encoded), self.max_tokens)
        ids = np.array([each.ids for each in encoded], np.int64).reshape(shape)
        mask = np.array([each.attention_mask for each in encoded], np.int64).reshape(shape)
        return Tokens(ids, mask, lost)


def shortened(lost: str) -> str:
    """As much of what a text lost as a message shows."""
    return printable(lost[:_SHOWN]) + "..." * (len(lost) > _SHOWN)


def _cleaned(prompt: str, clean: Clean) -> str:
    if clean == "lower-strip":
        return prompt.lower().strip()
    if clean == "unescape-collapse":
        return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()
    return prompt.strip() if clean == "strip" else prompt

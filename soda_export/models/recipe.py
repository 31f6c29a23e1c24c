"""How prompts become a model's ports, as data: which text encoders, which of their outputs, and how these are joined.

A family's record has a TextRecipe; models/prompts.py makes it a module. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Output = Literal["last", "penultimate", "pooled"]


@dataclass(frozen=True)
class TextPart:
    """A text encoder of a pipeline, and its tokenizer.

    name, tokenizer: their folders. tokens: length that prompts are padded to, 0 for the family's `text_tokens`. clean:
    what the pipeline does to a prompt first. mask: port of the tokens' mask, where the pipeline gives it to the encoder
    as well; "" where all tokens are attended to. may_lack: whether the pipeline takes zeros where it has no encoder.
    """

    name: str
    tokenizer: str
    tokens: int = 0
    clean: Literal["lower-strip", "strip", "unescape-collapse", "none"] = "none"
    mask: str = ""
    may_lack: bool = False

    @property
    def ids(self) -> str:
        """Port of its token ids: input_ids, input_ids_2 of tokenizer_2 and so on."""
        return "input_ids" + self.tokenizer.removeprefix("tokenizer")

    @property
    def last(self) -> Encoded:
        """The last hidden state [T, D], after CLIP's final norm; with --clip-skip N that of hidden_states[-(N + 1)]."""
        return Encoded(self, "last")

    @property
    def last_masked(self) -> Encoded:
        """The same with zeros where the part's mask has them."""
        return Encoded(self, "last", masked=True)

    @property
    def penultimate(self) -> Encoded:
        """CLIP's hidden_states[-2] [T, D], without the final norm; with --clip-skip N hidden_states[-(N + 2)]."""
        return Encoded(self, "penultimate")

    @property
    def pooled(self) -> Encoded:
        """CLIP's pooler_output [P], or text_embeds where the class projects it."""
        return Encoded(self, "pooled")


@dataclass(frozen=True)
class Encoded:
    """An output of an encoder, for one row. masked: with zeros where its part's mask has them."""

    part: TextPart
    output: Output
    masked: bool = False


@dataclass(frozen=True)
class TextRecipe:
    """Port -> blocks that follow one another along the tokens; each block is outputs side by side along the width.

    Where a port has several blocks, each is filled with zeros up to the port's width. zeros_for_empty: whether the
    pipeline has `force_zeros_for_empty_prompt`, zeros in the place of an empty negative prompt's embeddings, which
    model_index.json may turn off.
    """

    ports: Mapping[str, tuple[tuple[Encoded, ...], ...]]
    zeros_for_empty: bool = False

    @cached_property
    def encoded(self) -> tuple[Encoded, ...]:
        """Every output that a port takes."""
        return tuple(output for blocks in self.ports.values() for block in blocks for output in block)

    @cached_property
    def parts(self) -> tuple[TextPart, ...]:
        """Every encoder once, in the pipeline's order."""
        return tuple(sorted({output.part for output in self.encoded}, key=lambda part: part.name))

    @property
    def tokenizer(self) -> str:
        """Folder of the tokenizer whose `model_max_length` bounds the family's `text_tokens`."""
        return next((part.tokenizer for part in self.parts if not part.tokens), "tokenizer")


NO_TEXT = TextRecipe({})

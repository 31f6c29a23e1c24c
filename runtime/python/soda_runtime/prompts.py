"""A request's prompts as the texts of each tokenizer, and their tokens as values of ports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .manifest import LabelPort, Manifest, PrepareProgram, TokenIdsPort, TokenMaskPort
from .port_inputs import MAX_BATCH
from .request import Request
from .text import Tokens, shortened
from .values import brief

Tokenize = Callable[[int, Sequence[str]], Tokens]
_FIELDS = (
    ("prompt", "negative_prompt"), ("prompt_2", "negative_prompt_2"), ("prompt_3", "negative_prompt_3"),
)  # fmt: skip
"""Of each tokenizer in turn, as diffusers' pipelines call what goes to each text encoder."""


class Truncation(NamedTuple):
    """A prompt whose end the model does not read. field: of the request, "prompt", "negative_prompt_2". sample: the
    first that has it. max_tokens: how many tokens the model reads, what the tokenizer adds included."""

    field: str
    sample: int
    max_tokens: int
    lost: str

    def __str__(self) -> str:
        where = f"{self.field} of sample {self.sample}"
        return f"{where}: the model reads {self.max_tokens} tokens; it loses {shortened(self.lost)!r}"


@dataclass(frozen=True)
class Texts:
    """What a tokenizer gets: one text, or one for each sample; negative: none without guidance. names: the fields that
    they come from."""

    names: tuple[str, str]
    prompts: list[str]
    negative: list[str]


def prompts_of(request: Request, manifest: Manifest, running: Sequence[PrepareProgram]) -> list[Texts]:
    """The texts of each tokenizer, none where the request has no prompt. Raises RequestError."""
    given = {name for names in _FIELDS for name in names if _is_text(getattr(request, name))}
    given |= {"negative_prompt"} if request.negative_prompt is None else set()  # which has a default of its own
    negative = sorted(name for name in given if name.startswith("negative"))
    if manifest.rows_per_sample == 1 and negative:
        raise RequestError("this bundle was built without guidance; a negative prompt has no effect in it")
    if request.prompt is None:
        if negative:
            raise RequestError("a negative prompt has no effect without a prompt; give negative_prompt_embeds")
        if given:
            raise RequestError(f"{min(given)} has no effect without a prompt; give both")
        return []
    if not manifest.tokenizers:
        if any(isinstance(port, LabelPort) for port in manifest.ports):
            raise RequestError("this bundle is conditioned on class labels; it takes no prompt and no embeddings")
        raise RequestError("this bundle has no text encoder; give embeddings, or build it with one")
    taken = _tokenizers_in_use(manifest, running)
    if not taken:
        raise RequestError("give either a prompt or embeddings")
    for number, names in enumerate(_FIELDS[1:], start=1):
        for name in names:
            if name in given and number >= len(manifest.tokenizers):
                count = len(manifest.tokenizers)
                encoders = f"{count} text encoders" if count > 1 else "one text encoder"
                raise RequestError(f"{name}: the prompts of this bundle go to {encoders}; leave it out")
            if name in given and number not in taken:
                raise RequestError(f"{name} has no effect beside embeddings; give one of them")
    return [_texts(request, manifest, number, given) for number in range(len(manifest.tokenizers))]


def tokens_of(
    texts: Sequence[Texts], manifest: Manifest, samples: int, tokenize: Tokenize
) -> tuple[dict[str, NDArray[np.generic]], tuple[Truncation, ...]]:
    """Every port of tokens of the prompts, by each tokenizer once, and what was cut. texts: of each tokenizer."""
    made, truncated = [], []
    for number, own in enumerate(texts):
        prompts, negative = (half * samples if len(half) == 1 else half for half in (own.prompts, own.negative))
        if len(negative) != samples * (manifest.rows_per_sample - 1):
            raise RequestError(f"{len(negative)} negative prompts for {samples} samples; give one, or one per sample")
        tokens = tokenize(number, [*prompts, *negative])
        made.append(tokens)
        for row, lost in tokens.lost.items():
            half, sample = divmod(row, samples)
            if sample < len((own.prompts, own.negative)[half]):  # not one that is repeated
                truncated.append(Truncation(own.names[half], sample, tokens.ids.shape[1], lost))
    ports: dict[str, NDArray[np.generic]] = {
        port.name: made[port.tokenizer].mask if isinstance(port, TokenMaskPort) else made[port.tokenizer].ids
        for port in manifest.ports
        if isinstance(port, (TokenIdsPort, TokenMaskPort))
    }
    return ports, tuple(truncated)


def _texts(request: Request, manifest: Manifest, number: int, given: set[str]) -> Texts:
    """Those of a tokenizer's own fields, else the first tokenizer's."""
    own = _FIELDS[number] if number < len(_FIELDS) else _FIELDS[0]
    name, negative_name = (each if each in given else first for each, first in zip(own, _FIELDS[0], strict=True))
    prompts = _listed(getattr(request, name), name)
    negative: list[str] = []
    if manifest.rows_per_sample == 2:
        negative = _listed(getattr(request, negative_name), negative_name.replace("_", " ", 1))
    return Texts((name, negative_name), prompts, negative)


def _tokenizers_in_use(manifest: Manifest, running: Sequence[PrepareProgram]) -> set[int]:
    """Numbers of the tokenizers whose ids an encoder that runs takes."""
    ids = [port for port in manifest.ports if isinstance(port, TokenIdsPort)]
    return {port.tokenizer for port in ids if any(port.name in program.inputs for program in running)}


def _is_text(value: object) -> bool:
    """Whether a field says anything: None and the empty text stand for what is usual."""
    return not (value is None or (isinstance(value, str) and not value))


def _listed(prompt: object, name: str) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, (list, tuple)) else []
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise RequestError(f"{name} {brief(prompt)}: give a string or a list of strings")
    if len(prompts) > MAX_BATCH:
        raise RequestError(f"{len(prompts)} prompts are more than {MAX_BATCH}")
    return prompts

"""The text encoders of one pipeline as one module: token ids in, the ports of its family's recipe out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import ModelError, UsageError
from .recipe import Encoded, TextPart, TextRecipe
from .text import TextModel

Shape = tuple[int, ...]
Made = tuple[Any, Tensor | None]
"""What an encoder returned, and the mask [R, T] that it was given."""


@dataclass(frozen=True)
class PromptModel:
    """A recipe with a pipeline's encoders and sizes.

    models: encoders that are there, in the recipe's order of parts. text_tokens: length of prompts of the parts that
    name none. ports: port that the recipe makes -> shape of one row. clip_skip: last layers of CLIP to do without, None
    for the pipeline's usual output. zeros_for_empty: whether an empty negative prompt gives zeros.
    """

    recipe: TextRecipe
    models: Mapping[TextPart, TextModel]
    text_tokens: int
    ports: Mapping[str, Shape]
    clip_skip: int | None = None
    zeros_for_empty: bool = False

    def __post_init__(self) -> None:
        for part, model in self.models.items():
            if model.positions < self.tokens(part):
                raise ModelError(f"{model.where}: takes {model.positions} tokens, a prompt has {self.tokens(part)}")
            most = model.config.num_hidden_layers - 1 if model.record.is_clip else 0
            if most and self.clip_skip is not None and not 0 <= self.clip_skip <= most:
                raise UsageError(f"--clip-skip {self.clip_skip}: must be within 0 .. {most}, as {model.where} says")
        for port, shape in self.ports.items():
            self._check_port(port, shape)

    def tokens(self, part: TextPart) -> int:
        """Length that a part's prompts are padded to: its own, but no more than its encoder takes."""
        if not part.tokens:
            return self.text_tokens
        return min(part.tokens, self.models[part].positions) if part in self.models else part.tokens

    @property
    def inputs(self) -> dict[str, TextPart]:
        """What the module takes, in order: name of token ids, and of masks where an encoder has one -> whose."""
        return {name: part for part in self.models for name in (part.ids, part.mask) if name}

    @property
    def has_negatives(self) -> bool:
        """Whether negative prompts are encoded in another way."""
        return self.zeros_for_empty or (self.clip_skip is not None and takes_clip_states(self.recipe, self.models))

    def _check_port(self, port: str, shape: Shape) -> None:
        blocks = self.recipe.ports[port]
        used = {e.part: self.models[e.part].where for block in blocks for e in block if e.part in self.models}
        name = " and ".join(used.values())
        widths = [sum(self.models[e.part].width(e.output) for e in block if e.part in self.models) for block in blocks]
        lacks = len(blocks) > 1 and not all(e.part in self.models for block in blocks for e in block)
        if max(widths) > shape[-1] or (max(widths) < shape[-1] and not lacks):
            raise ModelError(f"{name}: give {port} of {max(widths)} numbers, the denoiser takes {shape[-1]}")
        tokens = sum(self.tokens(block[0].part) for block in blocks)
        if len(shape) == 2 and tokens != shape[0]:
            raise ModelError(f"{name}: give {port} of {tokens} tokens, the denoiser takes {shape[0]}")


def takes_clip_states(recipe: TextRecipe, models: Mapping[TextPart, TextModel]) -> bool:
    """Whether a port takes a hidden state of a CLIP encoder, which `--clip-skip` chooses."""
    return any(
        e.output != "pooled" and e.part in models and models[e.part].record.is_clip for e in recipe.encoded
    )  # fmt: skip


class PromptCall(nn.Module):
    """(input_ids [R, T], attention_mask [R, T] where given; of each part in turn) -> the ports, [R, *shape] each.

    encoders: the parts' modules by name. empty: what tokenizers make of the empty text, [T] each, where the model has
    zeros_for_empty. guided: whether the second half of the rows are negative prompts.
    """

    def __init__(
        self, model: PromptModel, encoders: Mapping[str, nn.Module], empty: Mapping[str, Tensor], guided: bool
    ) -> None:
        super().__init__()
        self._model, self._guided = model, guided and model.has_negatives
        for name, module in encoders.items():
            self.add_module(name, module)
        for name, ids in empty.items() if model.zeros_for_empty else ():
            self.register_buffer(f"empty_{name}", ids)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The ports in the recipe's order, for rows as a bundle has them."""
        made = self._encode(given)
        if not self._guided:
            return tuple(self._port(port, made, self._model.clip_skip) for port in self._model.ports)
        rows = torch.arange(given[0].shape[0])
        return self._mixed(given, made, 2 * rows >= given[0].shape[0])

    def some_negative(self, is_negative: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """The ports in the recipe's order, where is_negative [R] says which rows are negative prompts."""
        return self._mixed(given, self._encode(given), is_negative)

    def _encode(self, given: Sequence[Tensor]) -> dict[TextPart, Made]:
        named = dict(zip(self._model.inputs, given, strict=True))
        made = {}
        for part, model in self._model.models.items():
            mask = named.get(part.mask)
            made[part] = model.call(self.get_submodule(part.name), named[part.ids], mask), mask
        return made

    def _mixed(self, given: Sequence[Tensor], made: Mapping[TextPart, Made], is_negative: Tensor) -> tuple[Tensor, ...]:
        """Negative prompts are encoded with all layers, as pipelines do, and empty ones perhaps as zeros."""
        is_zero = is_negative
        for name, ids in zip(self._model.inputs, given, strict=True):
            part = self._model.inputs[name]
            if self._model.zeros_for_empty and name == part.ids:
                is_zero = is_zero & (ids == self.get_buffer(f"empty_{part.name}")).all(dim=1)
        mixed = []
        for port, shape in self._model.ports.items():
            value = self._port(port, made, self._model.clip_skip)
            if self._model.clip_skip is not None:
                value = torch.where(_over(is_negative, shape), self._port(port, made, None), value)
            if self._model.zeros_for_empty:
                value = torch.where(_over(is_zero, shape), torch.zeros(()), value)
            mixed.append(value)
        return tuple(mixed)

    def _port(self, port: str, made: Mapping[TextPart, Made], clip_skip: int | None) -> Tensor:
        blocks = [
            self._block(block, self._model.ports[port], made, clip_skip) for block in self._model.recipe.ports[port]
        ]
        return torch.cat(blocks, dim=1) if len(blocks) > 1 else blocks[0]

    def _block(
        self, block: tuple[Encoded, ...], shape: Shape, made: Mapping[TextPart, Made], clip_skip: int | None
    ) -> Tensor:
        """[R, T, width of the port], or [R, P]; zeros where the pipeline has no such encoder."""
        outputs = list(self._outputs(block, made, clip_skip))
        if not outputs:
            some: Tensor = next(iter(made.values()))[0].last_hidden_state
            return some.new_zeros(some.shape[0], self._model.tokens(block[0].part), shape[-1])
        beside = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
        missing = shape[-1] - beside.shape[-1]
        whole: Tensor = pad(beside, (0, missing)) if missing else beside
        return whole

    def _outputs(
        self, block: tuple[Encoded, ...], made: Mapping[TextPart, Made], clip_skip: int | None
    ) -> Iterator[Tensor]:
        for encoded in block:
            if encoded.part in made:
                model, module = self._model.models[encoded.part], self.get_submodule(encoded.part.name)
                returned, mask = made[encoded.part]
                output = model.take(module, returned, encoded.output, clip_skip)
                yield output if mask is None or not encoded.masked else output * mask.unsqueeze(-1)


def _over(rows: Tensor, shape: Shape) -> Tensor:
    """[R] -> [R, 1, ...], to go with values of that shape a row."""
    expanded: Tensor = rows.reshape(-1, *(1 for _ in shape))
    return expanded

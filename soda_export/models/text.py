"""Text encoders of transformers as pipelines use them: which class, which of its outputs, with or without weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, first_line
from .architecture import empty_module
from .fake import FakeModel, make_fake, with_buffers


@dataclass(frozen=True)
class TextEncoder:
    """A class of transformers. outputs: name -> how a pipeline takes it from what the module returns. has_mask: whether
    the pipeline gives the module its mask. tied: names of one tensor, any of which a checkpoint may have. prefix: what
    checkpoints may put before all names. keep_fp32: parts of the names of weights whose products leave fp16's range,
    as transformers' _keep_in_fp32_modules."""

    kind: str
    outputs: Mapping[str, Callable[[Any], Tensor]]
    has_mask: bool
    tied: tuple[tuple[str, ...], ...] = ()
    prefix: str = ""
    keep_fp32: tuple[str, ...] = ()


ENCODERS = {
    "T5EncoderModel": TextEncoder(
        "T5EncoderModel", {"embeds": lambda made: made.last_hidden_state}, True,
        tied=(("shared.weight", "encoder.embed_tokens.weight"),), keep_fp32=(".wo.",),
    ),
    "CLIPTextModel": TextEncoder(
        "CLIPTextModel",
        {"embeds": lambda made: made.hidden_states[-2], "pooled_embeds": lambda made: made.pooler_output}, False,
        prefix="text_model.",
    ),
    "CLIPTextModelWithProjection": TextEncoder(
        "CLIPTextModelWithProjection",
        {"embeds": lambda made: made.hidden_states[-2], "pooled_embeds": lambda made: made.text_embeds}, False,
    ),
}  # fmt: skip
"""Class in config.json -> how pipelines use it. CLIP: the penultimate hidden state, as SDXL and SD3 take it."""
_SIZES = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
    "relative_attention_max_distance", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers",
    "num_attention_heads", "max_position_embeddings",
)  # fmt: skip
_BY_TYPE = {"t5": "T5EncoderModel", "clip_text_model": "CLIPTextModel"}


@dataclass(frozen=True)
class TextModel:
    """An encoder with the configuration of its folder. where: for messages."""

    record: TextEncoder
    config: Any
    where: str

    def fake(self) -> FakeModel:
        """The module in float32 without memory for its weights."""
        return with_buffers(make_fake(self._build, torch.float32), self._build, lambda name: None)

    def with_weights(self, read: Callable[[str], Tensor]) -> nn.Module:
        """The module with `read`'s tensors as they are, so that mapped ones stay in their files. Raises ModelError."""
        model = self._build(lambda parameter: torch.empty(parameter.shape, device="meta"))
        for prefix, module in model.named_modules():
            for name, own in list(module._parameters.items()):
                if own is None:
                    continue
                full = f"{prefix}.{name}" if prefix else name
                tensor = read(full)
                if tensor.shape != own.shape:
                    raise ModelError(f"{self.where}: says {full!r} is {list(own.shape)}, stored {list(tensor.shape)}")
                module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        return model

    def stored_name(self, name: str, is_stored: Callable[[str], bool]) -> str:
        """The name that a checkpoint has a parameter under: `name` where it has it under no other."""
        twins = next((names for names in self.record.tied if name in names), (name,))
        candidates = (*twins, *(f"{self.record.prefix}{twin}" for twin in twins))
        return next(filter(is_stored, candidates), name)

    def _build(self, parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        import transformers

        maker = getattr(transformers, self.record.kind)
        try:
            return empty_module(lambda: maker(self.config), parameter)
        except Exception as error:
            what = f"transformers cannot build {self.record.kind}"
            raise ModelError(f"{self.where}: {what}: {first_line(error)}") from None


class TextCall(nn.Module):
    """(input_ids [R, T], attention_mask [R, T] where the record has one) -> the record's outputs, in its order."""

    def __init__(self, model: nn.Module, record: TextEncoder) -> None:
        super().__init__()
        self.model, self._record = model, record

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        ids, *masks = given
        mask = self._prepared(masks[0]) if self._record.has_mask else None
        made = self.model(ids, attention_mask=mask, output_hidden_states=True)
        return tuple(take(made) for take in self._record.outputs.values())

    def _prepared(self, mask: Tensor) -> Tensor:
        """As transformers' masks are from version 5 on, [R, 1, 1, T]: its own way there is a search in the graph."""
        takes_prepared = hasattr(sys.modules[type(self.model).__module__], "create_bidirectional_mask")
        return mask.unsqueeze(1).unsqueeze(1).bool() if takes_prepared else mask


def _kind(fields: Mapping[str, Any]) -> Any:
    """Class that a config.json is of; where it says none that is known, that of its model type."""
    classes = fields.get("architectures")
    kind = classes[0] if isinstance(classes, list) and classes else None
    return kind if kind in ENCODERS else _BY_TYPE.get(str(fields.get("model_type")), kind)


def is_foreign(fields: Mapping[str, Any]) -> bool:
    """Whether a config.json says a class that bundles cannot hold."""
    return isinstance(kind := _kind(fields), str) and kind not in ENCODERS


def read_text_model(source: Path | Mapping[str, Any]) -> TextModel:
    """The encoder of a transformers folder, or of the fields of its config.json. Raises ModelError."""
    where = str(source / "config.json") if isinstance(source, Path) else "text encoder config"
    fields: Any = source
    if isinstance(source, Path):
        try:
            fields = json.loads((source / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise ModelError(f"{where}: cannot be read ({error}); a transformers folder has a config.json") from None
    if not isinstance(fields, Mapping):
        raise ModelError(f"{where}: expected a JSON object")
    kind = _kind(fields)
    if kind not in ENCODERS or fields.get("model_type") not in _BY_TYPE:
        raise ModelError(f"{where}: text encoder {kind!r} is not supported; supported: {', '.join(ENCODERS)}")
    for name in _SIZES:
        if name in fields and (type(fields[name]) is not int or fields[name] < 1):
            raise ModelError(f"{where}: {name}={fields[name]!r} is no size")
    from transformers import CLIPTextConfig, T5Config

    maker = T5Config if fields["model_type"] == "t5" else CLIPTextConfig
    try:
        config = maker(**{key: value for key, value in fields.items() if key not in ("architectures", "model_type")})
    except Exception as error:
        raise ModelError(f"{where}: {first_line(error)}") from None
    return TextModel(ENCODERS[kind], config, where)

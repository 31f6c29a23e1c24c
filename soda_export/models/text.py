"""Text encoders of transformers as pipelines use them: which class, which of its outputs, with or without weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .architecture import empty_module
from .fake import FakeModel, make_fake, with_buffers


@dataclass(frozen=True)
class TextEncoder:
    """A class of transformers. outputs: name -> how a pipeline takes it from what the module returns. has_mask: whether
    the pipeline gives the module its mask. tied: names of one tensor, any of which a checkpoint may have. keep_fp32:
    parts of the names of weights whose products leave fp16's range."""

    kind: str
    outputs: Mapping[str, Callable[[Any], Tensor]]
    has_mask: bool
    tied: tuple[tuple[str, ...], ...] = ()
    keep_fp32: tuple[str, ...] = ()


ENCODERS = {
    "T5EncoderModel": TextEncoder(
        "T5EncoderModel", {"embeds": lambda made: made.last_hidden_state}, True,
        (("shared.weight", "encoder.embed_tokens.weight"),), (".wo.",),
    ),
    "CLIPTextModel": TextEncoder(
        "CLIPTextModel",
        {"embeds": lambda made: made.hidden_states[-2], "pooled_embeds": lambda made: made.pooler_output}, False,
    ),
    "CLIPTextModelWithProjection": TextEncoder(
        "CLIPTextModelWithProjection",
        {"embeds": lambda made: made.hidden_states[-2], "pooled_embeds": lambda made: made.text_embeds}, False,
    ),
}  # fmt: skip
"""Class in config.json -> how pipelines use it. CLIP: the penultimate hidden state, as SDXL and SD3 take it."""
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
        """The module with `read`'s tensors as they are, so that mapped ones stay in their files."""
        model = self._build(lambda parameter: torch.empty(parameter.shape, device="meta"))
        for prefix, module in model.named_modules():
            for name, own in list(module._parameters.items()):
                if own is not None:
                    full = f"{prefix}.{name}" if prefix else name
                    module._parameters[name] = nn.Parameter(read(full), requires_grad=False)
        return model

    def _build(self, parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        import transformers

        maker = getattr(transformers, self.record.kind)
        try:
            return empty_module(lambda: maker(self.config), parameter)
        except Exception as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{self.where}: transformers cannot build {self.record.kind}: {first_line}") from None


class TextCall(nn.Module):
    """(input_ids [R, T], attention_mask [R, T]) -> the record's outputs, in its order."""

    def __init__(self, model: nn.Module, record: TextEncoder) -> None:
        super().__init__()
        self.model, self._record = model, record

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        ids, mask = given
        made = self.model(ids, attention_mask=mask if self._record.has_mask else None, output_hidden_states=True)
        return tuple(take(made) for take in self._record.outputs.values())


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
    classes = fields.get("architectures")
    kind = classes[0] if isinstance(classes, list) and classes else None
    if kind not in ENCODERS:
        kind = _BY_TYPE.get(str(fields.get("model_type")), kind)
    if kind not in ENCODERS or fields.get("model_type") not in _BY_TYPE:
        raise ModelError(f"{where}: text encoder {kind!r} is not supported; supported: {', '.join(ENCODERS)}")
    from transformers import CLIPTextConfig, T5Config

    maker = T5Config if fields["model_type"] == "t5" else CLIPTextConfig
    try:
        config = maker(**{key: value for key, value in fields.items() if key not in ("architectures", "model_type")})
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{where}: {first_line}") from None
    return TextModel(ENCODERS[kind], config, where)

"""Text encoders of transformers as pipelines use them: which class, with or without weights, and its outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, first_line
from .architecture import empty_module
from .published import read_json
from .recipe import Output


@dataclass(frozen=True)
class TextEncoder:
    """A class of transformers. pooled: how a pipeline takes the pooled output from what the module returns; unit:
    brought to length 1. is_clip: whether there are hidden states and a final norm to take. tied: names of one tensor,
    any of which a checkpoint may have. prefix: what checkpoints may put before all names. keep_fp32: parts of the names
    of weights whose products leave fp16's range, as transformers' _keep_in_fp32_modules."""

    kind: str
    pooled: str = ""
    unit: bool = False
    is_clip: bool = False
    tied: tuple[tuple[str, ...], ...] = ()
    prefix: str = ""
    keep_fp32: tuple[str, ...] = ()


_CLAP = TextEncoder("ClapTextModelWithProjection", "text_embeds", unit=True)
ENCODERS = {
    "T5EncoderModel": TextEncoder(
        "T5EncoderModel", tied=(("shared.weight", "encoder.embed_tokens.weight"),), keep_fp32=(".wo.",)
    ),
    "UMT5EncoderModel": TextEncoder(
        "UMT5EncoderModel", tied=(("shared.weight", "encoder.embed_tokens.weight"),), keep_fp32=(".wo.",)
    ),
    "CLIPTextModel": TextEncoder("CLIPTextModel", "pooler_output", is_clip=True, prefix="text_model."),
    "CLIPTextModelWithProjection": TextEncoder("CLIPTextModelWithProjection", "text_embeds", is_clip=True),
    "ClapModel": _CLAP,
    "ClapTextModelWithProjection": _CLAP,
}
"""Class in config.json -> how pipelines use it. Of a ClapModel the text half is taken, whose weights have these names
in either class."""
_SIZES = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
    "relative_attention_max_distance", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers",
    "num_attention_heads", "max_position_embeddings",
)  # fmt: skip
_BY_TYPE = {
    "t5": "T5EncoderModel", "umt5": "UMT5EncoderModel", "clip_text_model": "CLIPTextModel", "clap": "ClapModel",
    "clap_text_model": "ClapTextModelWithProjection",
}  # fmt: skip
_CONFIGS = {"t5": "T5Config", "umt5": "UMT5Config", "clip_text_model": "CLIPTextConfig"}
_OF_CLAP = {"projection_dim": 512, "projection_hidden_act": "relu"}  # ClapConfig gives both halves its own


@dataclass(frozen=True)
class TextModel:
    """An encoder with the configuration of its folder. where: for messages."""

    record: TextEncoder
    config: Any
    where: str

    def with_weights(self, read: Callable[[str], Tensor]) -> nn.Module:
        """The module with `read`'s tensors as they are, so that mapped ones stay in their files. Raises ModelError."""
        model = self.build(lambda parameter: torch.empty(parameter.shape, device="meta"))
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

    @property
    def positions(self) -> int:
        """The most tokens that it takes; T5 takes any number. CLAP's, as RoBERTa's, are counted from behind padding."""
        most = int(getattr(self.config, "max_position_embeddings", sys.maxsize))
        return most - self.config.pad_token_id - 1 if self.record is _CLAP else most

    def width(self, output: Output) -> int:
        """Numbers of a token, or of the text where pooled. Raises ModelError for what the class does not give."""
        if output != "last" and not (self.record.pooled if output == "pooled" else self.record.is_clip):
            raise ModelError(f"{self.where}: {self.record.kind} gives no {output} output; a CLIP text model does")
        name = "hidden_size" if self.record.pooled else "d_model"
        projects = output == "pooled" and self.record.pooled == "text_embeds"
        return int(getattr(self.config, "projection_dim" if projects else name))

    def call(self, module: nn.Module, ids: Tensor, mask: Tensor | None) -> Any:
        """What the module returns for ids [R, T] and a mask [R, T], if the pipeline gives it one."""
        prepared = None if mask is None else _prepared(module, mask)
        return module(ids, attention_mask=prepared, output_hidden_states=self.record.is_clip)

    def take(self, module: nn.Module, returned: Any, output: Output, clip_skip: int | None) -> Tensor:
        """An output of what `call` returned: [R, T, D], or [R, P] where pooled. Source: pipelines' encode_prompt."""
        result: Tensor
        if output == "pooled":
            pooled = returned[self.record.pooled]
            result = nn.functional.normalize(pooled, dim=-1) if self.record.unit else pooled
        elif output == "penultimate":
            result = returned.hidden_states[-2 - (clip_skip or 0)]
        elif clip_skip is None or not self.record.is_clip:
            result = returned.last_hidden_state
        else:
            norm = next(part for name, part in module.named_modules() if name.endswith("final_layer_norm"))
            result = norm(returned.hidden_states[-1 - clip_skip])
        return result

    def build(self, parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        """The module, with another tensor in the place of each parameter. Raises ModelError."""
        import transformers

        maker = getattr(transformers, self.record.kind)
        try:
            return empty_module(lambda: maker(self.config), parameter)
        except Exception as error:
            what = f"transformers cannot build {self.record.kind}"
            raise ModelError(f"{self.where}: {what}: {first_line(error)}") from None


def _prepared(module: nn.Module, mask: Tensor) -> Tensor:
    """As transformers' masks are from version 5 on, [R, 1, 1, T]: its own way there is a search in the graph. What
    attends "eager"ly adds its mask."""
    if not hasattr(sys.modules[type(module).__module__], "create_bidirectional_mask"):
        return mask
    attended = mask.unsqueeze(1).unsqueeze(1).bool()
    if module.config._attn_implementation != "eager":  # type: ignore[union-attr]
        return attended
    return torch.where(attended, 0.0, torch.finfo(torch.float32).min)


def _kind(fields: Mapping[str, Any]) -> Any:
    """Class that a config.json is of; where it says none that is known, that of its model type."""
    classes = fields.get("architectures")
    kind = classes[0] if isinstance(classes, list) and classes else None
    return kind if kind in ENCODERS else _BY_TYPE.get(str(fields.get("model_type")), kind)


def read_text_model(source: Path | Mapping[str, Any]) -> TextModel:
    """The encoder of a transformers folder, or of the fields of its config.json. Raises ModelError."""
    where = str(source / "config.json") if isinstance(source, Path) else "text encoder config"
    fields: Any = source
    if isinstance(source, Path):
        fields = read_json(source / "config.json", "a transformers folder has a config.json")
    kind = _kind(fields)
    if kind not in ENCODERS or fields.get("model_type") not in _BY_TYPE:
        raise ModelError(f"{where}: text encoder {kind!r} is not supported; supported: {', '.join(ENCODERS)}")
    if fields.get("use_attention_mask"):
        raise ModelError(f"{where}: use_attention_mask is set; only CLIP text models without a mask are supported")
    is_clap = fields["model_type"] == "clap"
    if is_clap:
        fields = {**fields.get("text_config", {}), **{key: fields.get(key, own) for key, own in _OF_CLAP.items()}}
    for name in _SIZES:
        if name in fields and (type(fields[name]) is not int or fields[name] < 1):
            raise ModelError(f"{where}: {name}={fields[name]!r} is no size")
    import transformers

    maker = getattr(transformers, _CONFIGS.get(str(fields.get("model_type")), "ClapTextConfig"))
    try:
        config = maker(**{key: value for key, value in fields.items() if key not in ("architectures", "model_type")})
    except Exception as error:
        raise ModelError(f"{where}: {first_line(error)}") from None
    return TextModel(ENCODERS[kind], config, where)

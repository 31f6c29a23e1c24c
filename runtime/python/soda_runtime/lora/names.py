"""Which layer of a model a LoRA's key means: names of diffusers, PEFT and kohya, and of the models' first repositories.

Every name is compared with dots as underscores, which is how kohya's scripts write it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import RequestError
from .file import LoraFile, LoraLayer

Key = tuple[str, str]
"""Part ("" is the denoiser) and name."""
_WRAPPERS = ("base_model.model.", "lycoris_")
_PREFIXES = {
    "lora_unet_": "", "lora_transformer_": "", "unet.": "", "transformer.": "", "model.diffusion_model.": "",
    "diffusion_model.": "", "text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3", "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2", "lora_te3_": "text_encoder_3",
}  # fmt: skip
_CLIP = "text_model_"  # before the names of CLIP's text model, by version of transformers
_BLOCKS = {
    ("transformer_blocks", "double_blocks"): (
        ("attn.to_q", "img_attn.qkv"), ("attn.to_k", "img_attn.qkv"), ("attn.to_v", "img_attn.qkv"),
        ("attn.add_q_proj", "txt_attn.qkv"), ("attn.add_k_proj", "txt_attn.qkv"), ("attn.add_v_proj", "txt_attn.qkv"),
        ("attn.to_out.0", "img_attn.proj"), ("attn.to_add_out", "txt_attn.proj"), ("ff.net.0.proj", "img_mlp.0"),
        ("ff.net.2", "img_mlp.2"), ("ff_context.net.0.proj", "txt_mlp.0"), ("ff_context.net.2", "txt_mlp.2"),
        ("norm1.linear", "img_mod.lin"), ("norm1_context.linear", "txt_mod.lin"),
    ),
    ("transformer_blocks", "joint_blocks"): (
        *((f"attn.{x}", "x_block.attn.qkv") for x in ("to_q", "to_k", "to_v")), ("attn.to_out.0", "x_block.attn.proj"),
        *((f"attn2.{x}", "x_block.attn2.qkv") for x in ("to_q", "to_k", "to_v")),
        ("attn2.to_out.0", "x_block.attn2.proj"),
        *((f"attn.add_{x}_proj", "context_block.attn.qkv") for x in ("q", "k", "v")),
        ("attn.to_add_out", "context_block.attn.proj"), ("ff.net.0.proj", "x_block.mlp.fc1"),
        ("ff.net.2", "x_block.mlp.fc2"), ("ff_context.net.0.proj", "context_block.mlp.fc1"),
        ("ff_context.net.2", "context_block.mlp.fc2"), ("norm1.linear", "x_block.adaLN_modulation.1"),
        ("norm1_context.linear", "context_block.adaLN_modulation.1"),
    ),
    ("single_transformer_blocks", "single_blocks"): (
        ("attn.to_q", "linear1"), ("attn.to_k", "linear1"), ("attn.to_v", "linear1"), ("proj_mlp", "linear1"),
        ("proj_out", "linear2"), ("norm.linear", "modulation.lin"),
    ),
    ("blocks", "blocks"): (
        *((f"attn{i}.to_{x}{zero}", f"{own}.{x[0]}") for i, own in ((1, "self_attn"), (2, "cross_attn"))
          for x, zero in (("q", ""), ("k", ""), ("v", ""), ("out", ".0"))),
        ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"),
    ),
}  # fmt: skip
"""Blocks in diffusers and in the first repository of FLUX.1 (double, single), SD3 (joint) and Wan -> layers in both.
Layers of one name there are one matrix, its rows in this order."""
_TOP = (
    ("x_embedder", "img_in"), ("context_embedder", "txt_in"), ("proj_out", "final_layer.linear"),
    ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
    ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"), ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"), ("proj_out", "head.head"),
)
"""The same outside of blocks."""
_LAST_CONTEXT, _FEED_FORWARD = "norm1_context.linear", "ff_context.net.2"
"""Where a block's text has no feed-forward, it is the last one: the first repository has its modulation's halves the
other way round."""
_TIMESTEP = (
    "time_embed", "time_emb_proj", "emb_layers", "adaln_single", "timestep_embedder", "time_in_", "t_embedder",
    "t_block", "time_proj",
)  # fmt: skip
"""Parts of names of layers that only the timestep decides."""
_T5, _SECOND = "text_encoder_3", "text_encoder_2"
"""kohya's te3 is T5, the second encoder of FLUX.1."""
_RESNET = {
    "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"
}  # fmt: skip
_UNET = {"conv_in": "input_blocks.0.0", "conv_out": "out.2"}
_SHOWN = 3


def key_of(name: str) -> Key:
    """The key of a layer of a LoRA file."""
    while (wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None)) is not None:
        name = name.removeprefix(wrapper)
    prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
    part = _PREFIXES.get(prefix, "")
    plain = _plain(name.removeprefix(prefix).replace(".processor.", "."))
    return part, plain.removeprefix(_CLIP) if part else plain


def keys_of(part: str, layers: Iterable[str]) -> dict[Key, tuple[str, ...]]:
    """Every key that stands for layers of a model's part -> these, in the order in which they share a matrix's rows."""
    paths = list(layers)
    known: dict[Key, tuple[str, ...]] = {
        (part, _plain(path).removeprefix(_CLIP) if part else _plain(path)): (path,) for path in paths
    }
    if part:
        return known
    for path in paths:
        if path.endswith(".to_out.0"):  # diffusers' first LoRAs
            known.setdefault((part, _plain(path.removesuffix(".0"))), (path,))
    upsampled = {path.split(".")[1] for path in paths if path.startswith("up_blocks.") and ".attentions." in path}
    for path in paths:
        for alias in _first_unet_names(path, upsampled):
            known.setdefault((part, _plain(alias)), (path,))
    for path, alias in _TOP:
        if path in paths:
            known.setdefault((part, _plain(alias)), (path,))
    for alias, shared in _first_block_names(paths).items():
        known.setdefault((part, _plain(alias)), shared)
    return known


def match_layers(
    lora: LoraFile, known: Mapping[Key, tuple[str, ...]], parts: Sequence[str], is_built: bool = False
) -> list[tuple[LoraLayer, str, tuple[str, ...]]]:
    """Each layer of a file with its part and the layers that it means there. parts: those that the model has.
    is_built: whether what only the timestep decides has become tables.

    Raises RequestError where one means nothing.
    """
    found: list[tuple[LoraLayer, str, tuple[str, ...]]] = []
    unknown: list[str] = []
    folded: list[str] = []
    elsewhere: list[str] = []
    for layer in lora.layers:
        part, name = key_of(layer.name)
        part = _SECOND if part == _T5 and _T5 not in parts else part
        if (part, name) in known:
            found.append((layer, part, known[part, name]))
        elif part not in parts:
            elsewhere.append(layer.name)
        else:
            is_folded = is_built and not part and any(word in f"{name}_" for word in _TIMESTEP)
            (folded if is_folded else unknown).append(layer.name)
    count = f"lora {lora.path}: {len(found)} of {len(lora.layers)} layers are in this model"
    if unknown:
        raise RequestError(f"{count}; not in it: {_some(unknown)}; the LoRA is for another model")
    if folded:
        raise RequestError(
            f"{count}; only the timestep decides {_some(folded)}, so the build made tables of them: bake the LoRA in "
            "with `soda-export build --lora`"
        )
    if elsewhere:
        raise RequestError(
            f"{count}; it comes without the text encoder of {_some(elsewhere)}: build with it, or leave these out"
        )
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"{name!r:.120}" for name in names[:_SHOWN]) + more


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _first_unet_names(path: str, upsampled: set[str]) -> Iterable[str]:
    """A layer of Stable Diffusion's UNet by its name in CompVis's and Stability's repositories, two layers a block.

    upsampled: the up blocks with attentions, whose upsampler is one place further.
    """
    kind, _, rest = path.partition(".")
    if path in _UNET:
        yield _UNET[path]
    if kind == "mid_block":
        group, number, inner = [*rest.split(".", 2), "", ""][:3]
        place = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}.get((group, number))
        if place is not None:
            yield f"middle_block.{place}.{_RESNET.get(inner, inner)}"
    if kind not in ("down_blocks", "up_blocks"):
        return
    block, group, layer, inner = [*rest.split(".", 3), "", "", "", ""][:4]
    if not block.isdecimal() or not layer.isdecimal():
        return
    first = 3 * int(block) + (kind == "down_blocks")
    blocks = "input_blocks" if kind == "down_blocks" else "output_blocks"
    if group == "resnets":
        yield f"{blocks}.{first + int(layer)}.0.{_RESNET.get(inner, inner)}"
    elif group == "attentions":
        yield f"{blocks}.{first + int(layer)}.1.{inner}"
    elif group == "downsamplers":
        yield f"{blocks}.{first + 2}.0.op"
    elif group == "upsamplers":
        yield f"{blocks}.{first + 2}.{1 + (block in upsampled)}.{inner}"


def _first_block_names(paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names of the first repository -> the layers of diffusers that share a matrix there."""
    here = set(paths)
    found: dict[str, list[str]] = {}
    for (own, first), layers in _BLOCKS.items():
        numbers = {path.split(".")[1] for path in paths if path.startswith(f"{own}.")}
        for number in numbers:
            for inner, other in layers:
                if inner == _LAST_CONTEXT and f"{own}.{number}.{_FEED_FORWARD}" not in here:
                    continue
                if f"{own}.{number}.{inner}" in here:
                    found.setdefault(f"{first}.{number}.{other}", []).append(f"{own}.{number}.{inner}")
    return {alias: tuple(layers) for alias, layers in found.items()}

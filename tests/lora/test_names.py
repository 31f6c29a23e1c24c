"""A LoRA's key means one layer, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
from soda_runtime.lora.file import read_lora
from soda_runtime.lora.names import key_of, keys_of, match_layers

from .files import kohya, write

UNET = (
    "conv_in", "conv_out", "down_blocks.0.resnets.1.conv1",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.resnets.0.conv_shortcut", "down_blocks.1.downsamplers.0.conv", "mid_block.attentions.0.proj_in",
    "mid_block.resnets.1.conv2", "up_blocks.0.attentions.2.transformer_blocks.1.attn2.to_out.0",
    "up_blocks.0.upsamplers.0.conv", "up_blocks.2.upsamplers.0.conv",
)  # fmt: skip
DIT = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_out.0", "pos_embed.proj")
FLUX = (
    *(f"transformer_blocks.3.attn.{x}" for x in ("to_q", "to_k", "to_v", "add_q_proj", "to_out.0")),
    *(f"single_transformer_blocks.7.{x}" for x in ("attn.to_k", "attn.to_q", "attn.to_v", "proj_mlp", "proj_out")),
)
SD3 = (
    *(f"transformer_blocks.{n}.attn.{x}" for n in (0, 1) for x in ("to_q", "to_k", "to_v", "add_q_proj", "to_out.0")),
    "transformer_blocks.0.ff_context.net.2", "transformer_blocks.0.norm1_context.linear",
    "transformer_blocks.1.norm1_context.linear", "proj_out", "time_text_embed.text_embedder.linear_1",
)  # fmt: skip
WAN = ("blocks.0.attn1.to_q", "blocks.0.attn2.to_out.0", "blocks.0.ffn.net.0.proj")


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("transformer.transformer_blocks.0.attn1.to_q", DIT[0]), ("transformer_blocks.0.attn1.to_q", DIT[0]),
        ("base_model.model.transformer_blocks.0.attn1.to_q", DIT[0]), ("base_model.model.pos_embed.proj", DIT[2]),
        ("lora_unet_transformer_blocks_0_attn1_to_q", DIT[0]),
        ("lora_transformer_transformer_blocks_0_attn1_to_q", DIT[0]),
        ("transformer_blocks.0.attn1.processor.to_out", DIT[1]),
        ("lycoris_transformer_blocks_0_attn1_to_out_0", DIT[1]),
    ],
)  # fmt: skip
def test_keys_of_diffusers_peft_and_kohya_mean_the_same_layer(key: str, layer: str) -> None:
    assert keys_of("", DIT)[key_of(key)] == (layer,)


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("unet.conv_in", UNET[0]), ("lora_unet_input_blocks_0_0", UNET[0]), ("lora_unet_out_2", UNET[1]),
        ("lora_unet_input_blocks_2_0_in_layers_2", UNET[2]),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", UNET[3]),
        ("lora_unet_input_blocks_4_0_skip_connection", UNET[4]), ("lora_unet_input_blocks_6_0_op", UNET[5]),
        ("lora_unet_middle_block_1_proj_in", UNET[6]), ("lora_unet_middle_block_2_out_layers_3", UNET[7]),
        ("lora_unet_output_blocks_2_1_transformer_blocks_1_attn2_to_out_0", UNET[8]),
        ("lora_unet_output_blocks_2_2_conv", UNET[9]), ("lora_unet_output_blocks_8_1_conv", UNET[10]),
        ("lora_unet_down_blocks_0_resnets_1_conv1", UNET[2]),
    ],
)  # fmt: skip
def test_names_of_stable_diffusions_first_repositories_mean_the_same_layer(key: str, layer: str) -> None:
    assert keys_of("", UNET)[key_of(key)] == (layer,)


@pytest.mark.parametrize(
    ("key", "layers"),
    [
        ("lora_unet_double_blocks_3_img_attn_qkv", FLUX[:3]), ("lora_unet_double_blocks_3_img_attn_proj", FLUX[4:5]),
        ("lora_unet_single_blocks_7_linear1", (FLUX[6], FLUX[5], *FLUX[7:9])),
        ("diffusion_model.single_blocks.7.linear2", FLUX[9:]),
        ("transformer.transformer_blocks.3.attn.to_k", FLUX[1:2]),
    ],
)  # fmt: skip
def test_layers_that_flux_has_as_one_matrix_share_its_rows_in_its_order(key: str, layers: tuple[str, ...]) -> None:
    assert keys_of("", FLUX)[key_of(key)] == layers


@pytest.mark.parametrize(
    ("key", "layers"),
    [
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", SD3[:3]),
        ("lora_unet_joint_blocks_1_x_block_attn_proj", SD3[9:10]),
        ("lora_unet_joint_blocks_1_context_block_attn_qkv", SD3[8:9]),
        ("diffusion_model.final_layer.linear", SD3[13:14]),
        ("lora_unet_joint_blocks_0_context_block_mlp_fc2", SD3[10:11]), ("lora_unet_y_embedder_mlp_0", SD3[14:]),
        ("lora_unet_joint_blocks_0_context_block_adaLN_modulation_1", SD3[11:12]),
        ("lora_unet_joint_blocks_1_context_block_adaLN_modulation_1", None),  # its halves are swapped
    ],
)  # fmt: skip
def test_names_of_sd3s_first_repository_mean_the_same_layers(key: str, layers: tuple[str, ...] | None) -> None:
    assert keys_of("", SD3).get(key_of(key)) == layers


@pytest.mark.parametrize(
    ("key", "layer"), zip(("blocks.0.self_attn.q", "blocks.0.cross_attn.o", "blocks.0.ffn.0"), WAN, strict=True)
)
def test_names_of_wans_first_repository_mean_the_same_layer(key: str, layer: str) -> None:
    assert keys_of("", WAN)[key_of(f"diffusion_model.{key}")] == (layer,)


@pytest.mark.parametrize("before", ["", "text_model."])
@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("text_encoder.text_model.encoder.", "text_encoder"), ("lora_te_text_model_encoder_", "text_encoder"),
        ("text_encoder_2.text_model.encoder.", "text_encoder_2"), ("lora_te1_text_model_encoder_", "text_encoder"),
        ("lora_te2_text_model_encoder_", "text_encoder_2"), ("text_encoder.encoder.", "text_encoder"),
    ],
)  # fmt: skip
def test_keys_of_text_encoders_mean_their_layers(prefix: str, part: str, before: str) -> None:
    stored = f"{before}encoder.layers.0.self_attn.q_proj"
    separator = "_" if prefix.startswith("lora") else "."
    key = prefix + separator.join(("layers", "0", "self_attn", "q_proj"))
    assert keys_of(part, [stored])[key_of(key)] == (stored,)
    assert key_of(key) not in keys_of("", [stored])


def test_t5_is_the_third_encoder_or_where_there_is_none_the_second(tmp_path: Path) -> None:
    layer = "encoder.block.0.layer.0.SelfAttention.q"
    lora = read_lora(write(tmp_path / "a.safetensors", kohya({layer: (4, 4)}, "lora_te3_")))
    for parts, expected in (
        (("", "text_encoder", "text_encoder_2"), "text_encoder_2"),
        (("", "text_encoder", "text_encoder_2", "text_encoder_3"), "text_encoder_3"),
    ):
        ((_, part, paths),) = match_layers(lora, keys_of(expected, [layer]), parts)
        assert (part, paths) == (expected, (layer,))

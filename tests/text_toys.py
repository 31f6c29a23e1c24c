"""Toy text encoders and tokenizers in the hub's folder formats, and prompts that tokenizers find hard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

CLIP_WORDS = ("a", "red", "blue", "circle", "square", "the", "of", "photo")
T5_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-é"
CLIP_TOKENS, T5_TOKENS, CLAP_TOKENS = 77, 24, 24
CLIP_PAD, SECOND_PAD = "<|endoftext|>", "!"
"""What pads in SD 1.5 and SDXL's first tokenizer, and in SD 2 and SDXL's second one, where it is token 0."""

HARD_PROMPTS = (
    "", " ", "\n\t \r\n", "a red circle", "A RED Circle", "  a   red \n circle\t", "a red circle " * 60, "x" * 500,
    "café à la crème, Ångström", "cafe\u0301 with a combining accent", "o\u0308\u0304 stacked marks", "ﬁne ﬂour ½ ①",
    "naïve résumé", "Straße ẞ", "İstanbul ı", "ΑΒΓ Σίσυφος ΟΔΟΣ", "привет, мир", "日本語のプロンプト", "中文提示词。",
    "한국어 프롬프트", "שלום עולם", "مرحبا بالعالم ١٢٣", "हिन्दी में संकेत", "ไทยไม่มีช่องว่าง",
    "😀🎨 a photo 👩‍👩‍👧‍👦", "🇩🇪🇫🇷 flags ❤️",
    "it's the dog's, we'll they've I'm you'd don't", "‘curly’ “quotes” — dash…", "rock'n'roll ''''",
    "&lt;b&gt; &amp; &#39;",
    "<b>html</b>", "1234567890 3.14159 1,000", "v2.1-beta_final (masterpiece:1.2), [low]", "!!! wow!", "a!b ! c",
    "<|endoftext|> red <|startoftext|>", "</s> red <pad> <unk>", "zero\u200bwidth and\u00a0hard space\u2028line",
    "tab\tand\x00null \x07bell", "ｆｕｌｌ ｗｉｄｔｈ", "\ufeffbom �",
)  # fmt: skip


def save_clip_tokenizer(folder: Path, pad: str = CLIP_PAD) -> Path:
    """As the hub has it: vocab.json, merges.txt and settings, no tokenizer.json."""
    numbers, merges = _clip_vocabulary()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    marks = {
        name: {"__type": "AddedToken", "content": mark, "lstrip": False, "normalized": True, "rstrip": False,
               "single_word": False}
        for name, mark in ends.items()
    }  # fmt: skip
    settings = {"model_max_length": CLIP_TOKENS, "pad_token": pad, "tokenizer_class": "CLIPTokenizer", **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps({**ends, "pad_token": pad}))
    return folder


def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every byte, also at a word's end, and merges to a few words."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = sorted(bytes_to_unicode().values(), key=lambda letter: (letter != SECOND_PAD, letter))
    merges: dict[tuple[str, str], None] = {}
    for word in CLIP_WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces[:2] = ["".join(pieces[:2])]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *dict.fromkeys(map("".join, merges))]
    return {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}, list(merges)


def save_t5_tokenizer(folder: Path) -> Path:
    """Words and letters; what is neither is unknown."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -30.0), ("\u2581", -6.0)]
    pieces += [(f"\u2581{word}", -2.0 - i) for i, word in enumerate(CLIP_WORDS)]
    pieces += [(letter, -12.0) for letter in T5_LETTERS if letter not in dict(pieces)]
    T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_TOKENS).save_pretrained(folder)
    return folder


def save_clip(folder: Path, width: int, *, projection: int = 0, layers: int = 3, act: str = "gelu") -> None:
    """A CLIP text model with random weights. projection: width of its text_embeds, 0 for a class without."""
    import torch
    import transformers

    torch.manual_seed(width)
    size = len(_clip_vocabulary()[0])
    config = transformers.CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=CLIP_TOKENS, projection_dim=projection or width, hidden_act=act,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    _save_stirred(kind(config), folder)


def save_t5(folder: Path, width: int, family: Literal["T5", "UMT5"] = "T5") -> None:
    """A T5 or UMT5 encoder with random weights."""
    import torch
    import transformers

    torch.manual_seed(width)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=100, d_model=width, d_kv=8, num_heads=2, d_ff=48, num_layers=2, feed_forward_proj="gated-gelu",
        dropout_rate=0.0, is_encoder_decoder=False, use_cache=False,
    )  # fmt: skip
    _save_stirred(getattr(transformers, f"{family}EncoderModel")(config), folder)


def save_roberta_tokenizer(folder: Path) -> Path:
    """Every byte and a few words, with the space before them and without."""
    from transformers import RobertaTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges: dict[tuple[str, str], None] = {}
    for word in (f"{space}{word}" for word in CLIP_WORDS for space in ("", "\u0120")):
        pieces = list(word)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces[:2] = ["".join(pieces[:2])]
    letters = sorted(bytes_to_unicode().values())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *dict.fromkeys(map("".join, merges))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    RobertaTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=CLAP_TOKENS).save_pretrained(folder)
    return folder


def save_clap(folder: Path, features: int, kind: str = "ClapModel") -> None:
    """CLAP with random weights: texts of 32 numbers a token, and as small an audio half as there can be."""
    import torch
    import transformers

    torch.manual_seed(features)
    text = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": CLAP_TOKENS + 2, "projection_dim": features,
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 1],
        "num_hidden_layers": 2, "spec_size": 64, "num_mel_bins": 16, "window_size": 4,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=features)
    model = getattr(transformers, kind)(config if kind == "ClapModel" else config.text_config)
    _save_stirred(model, folder)


def _save_stirred(model: Any, folder: Path) -> None:
    """transformers' own random weights are so small that texts would hardly differ."""
    import torch

    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)


def save_sd_texts(folder: Path, version: int) -> Path:
    """Stable Diffusion 1.5's or 2.1's: 32 wide."""
    save_clip_tokenizer(folder / "tokenizer", CLIP_PAD if version == 1 else SECOND_PAD)
    layers, act = (3, "quick_gelu") if version == 1 else (4, "gelu")
    save_clip(folder / "text_encoder", 32, layers=layers, act=act)
    return folder


def save_sdxl_texts(folder: Path) -> Path:
    """SDXL's: 32 and 40 wide, pooled 24."""
    save_sd_texts(folder, 1)
    save_clip_tokenizer(folder / "tokenizer_2", SECOND_PAD)
    save_clip(folder / "text_encoder_2", 40, projection=24)
    return folder


def save_sd3_texts(folder: Path, t5: bool = True) -> Path:
    """SD3's: 32 and 40 wide beside one another, pooled 16 and 24, and T5 of 80."""
    save_sdxl_texts(folder)
    save_clip(folder / "text_encoder", 32, projection=16, act="quick_gelu")
    if t5:
        save_t5_tokenizer(folder / "tokenizer_3")
        save_t5(folder / "text_encoder_3", 80)
    return folder


def save_flux_texts(folder: Path) -> Path:
    """FLUX.1's: pooled 32, and T5 of 40."""
    save_sd_texts(folder, 1)
    save_t5_tokenizer(folder / "tokenizer_2")
    save_t5(folder / "text_encoder_2", 40)
    return folder


def save_wan_texts(folder: Path) -> Path:
    """Wan's: UMT5 of 16."""
    save_t5_tokenizer(folder / "tokenizer")
    save_t5(folder / "text_encoder", 16, "UMT5")
    return folder


def save_musicldm_texts(folder: Path, kind: str = "ClapModel") -> Path:
    """MusicLDM's: one vector of 24."""
    save_roberta_tokenizer(folder / "tokenizer")
    save_clap(folder / "text_encoder", 24, kind)
    return folder

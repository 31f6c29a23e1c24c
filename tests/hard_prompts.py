"""Prompts that tokenizers disagree on: spaces, combining marks, scripts, emoji, controls, names of special tokens."""

from __future__ import annotations

import random

HARD = [
    "", " ", "a red circle", "  leading", "trailing  ", "two  spaces   inside", "line\nbreak\r\ntab\there",
    "UPPER Case", "emoji 🎨🐈", "👩\u200d🚀 astronaut", "🇩🇪 flag ❤\ufe0f", "caf\u00e9", "cafe\u0301",
    "\u00c5ngstr\u00f6m A\u030angstro\u0308m", "na\u00efve fa\u00e7ade", "日本語の絵", "红色的圆 你好", "한국어",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8", "हिन्दी चित्र", "مرحبا بالعالم", "Привет МИР", "ΑΣΣΟΣ ΟΔΟΣ Σ",
    "\u0130stanbul ß ẞ ﬁne", "ｆｕｌｌ ｗｉｄｔｈ ①②③ ½ ²", "a,b.c!?;:'\"()[]{}<>", "don't it's we'll I'VE",
    "...!!!???---", "bell\x07 esc\x1b[0m", "zero\u200bwidth\u200dj\u2060w\ufeff", "nbsp\u00a0em\u2003wide\u3000end",
    "<|endoftext|>", "a <|endoftext|> b <|startoftext|>", "<|ENDOFTEXT|>", "</s> red <pad> <unk>",
    "▁under ▁▁ lower_case", "1234567890 3.14 １２３", "http://example.com/?q=a#d", "\u0301alone combining",
    "e\u0301\u0302\u0323 stacked", "ﷺ ㍿ ™ ℃", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒮", "\u202eright-to-left\u202c", "soft\u00adhyphen",
    "\x85next line\u2028sep\u2029par", "\U0010ffff\ue000private", "a" * 300, "red circle " * 100, "🎨" * 60,
    "ǅ Ǆ ǆ ŉ", "\u0345 iota ᾳ ᾼ", "_snake_ __init__", "price $5 €10 £3 ¥", "Ⅷ ⅷ Ⓐ", "ก็ ภาษาไทย", "١٢٣ ४५",
    "'S 'T 'LL ’s", "\x1cseparators\x1f", "½\u0301 e\u0301\u0301",
]  # fmt: skip
_BLOCKS = [
    (0x20, 0x7F), (0x20, 0x7F), (0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x700), (0x900, 0xA00),
    (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2200), (0x3040, 0x3100), (0x4E00, 0x4F00), (0xAC00, 0xAD00),
    (0xF900, 0xFA00), (0xFB00, 0xFB50), (0xFE00, 0xFE10), (0xFF00, 0xFFEF), (0x1D400, 0x1D500), (0x1F300, 0x1F700),
    (0x01, 0x20),
]  # fmt: skip


def random_prompts(count: int, seed: int = 0) -> list[str]:
    """Up to 30 characters each, of scripts in turn."""
    rng = random.Random(seed)
    blocks = [range(*block) for block in _BLOCKS]
    return ["".join(chr(rng.choice(rng.choice(blocks))) for _ in range(rng.randint(1, 30))) for _ in range(count)]

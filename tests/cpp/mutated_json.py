"""Random mutations of JSON values, and of the bytes of texts."""

from __future__ import annotations

import copy
import random
from typing import Any

NUMBERS = [
    -1, 0, 1, 2, 3, 7, 8, 16, 255, 256, 1024, 2047, 2048, 4096, 12288, 65536, 65537, 1 << 20, (1 << 20) + 1, 1 << 31,
    (1 << 32) - 1, 1 << 34, 1 << 40, 1 << 48, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63),
    -(1 << 63) - 1, 10**30, 10**400, 0.0, -0.0, 0.5, 1.0, 8.0, 1e-320, 3e38, 3.1e38, -1e300, 1e18,
]  # fmt: skip
TEXTS = [
    "", "x", "null", "0.attn", "2.ff", "state", "state_out", "../x", "a..b", "labels", "embeds", "input_ids", "image",
    "attention_mask", "conditioning", "coefficients", "baseline_coefficients", "noise", "guidance", "latents", "text",
    "label", "scalar", "mask", "hint", "embedding", "token_ids", "token_mask", "0.attn@1", "0.attn@3", "0.attn#1",
    "0.attn.1", "float32", "float16", "bfloat16", "int64", "fp16", "bf16", "pixels", "plan.json", "tables.safetensors",
    "weights.safetensors", "manifest.json", "engines.json", "trt", "trt_rtx", "ort", "openvino", "baked", "stripped",
    "inputs", "video", "audio", "strip", "none", "F32", "F64", "BF16", "I64", "BOOL", "__metadata__", "shape", "dtype",
    "é", "\x00", "\x1b[2J", "\u2028", "\u202e", "\ud800", "\U0001f600", "\x7f", "\x85", "\ufeff", "a" * 101, "0" * 64,
    "A" * 64, "name\n", ".hidden", "-x", "a b", "a/b", "\u00aa", "policy.json", "policy.safetensors", "signals.onnx",
    "full", "skip", "full-signals", "soda-policy",
]  # fmt: skip
BITS = [
    b"", b"0", b"9", b"-", b"-0", b"+1", b"01", b".5", b"1.", b"1e9", b"1e999", b"1E400", b"NaN", b"Infinity",
    b"-Infinity", b"null", b"true", b'"', b",", b":", b"[", b"]", b"{", b"}", b"\\", b"\\u0000", b"\\ud800",
    b"\\ud83d\\ude00", b"\\udc00\\ud800", b"\\/", b"\\x", b"\0", b"\x1f", b"\t", b"\x0b", b"\x0c", b"\xa0", b"\xc2\xa0",
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"//", b"/**/", b"#", b"'",
    b"location", b"..", b"/", b"1" * 400, b"0." + b"0" * 400 + b"1", b"[" * 600, b'{"a":' * 600,
]  # fmt: skip
Place = tuple[Any, Any]  # a container, and a key or an index of it


def mutate_json(value: Any, choose: random.Random) -> str:
    """Change one value in place: replaced, nudged, copied from elsewhere, repeated, dropped, renamed. Says which."""
    if not (isinstance(value, (dict, list)) and value):
        return "nothing"
    container, key = _random_place(value, choose)
    old = container[key]
    how = choose.choice(["replace", "replace", "nudge", "copy", "copy", "repeat", "drop", "rename", "swap"])
    if how == "nudge" and type(old) is int:
        container[key] = old + choose.choice([-2048, -1024, -256, -1, 1, 256, 1024, 2048])
    elif how == "copy":
        found = [_random_place(value, choose) for _ in range(8)]
        other, place = next(((c, k) for c, k in found if type(c[k]) is type(old)), found[0])
        container[key] = copy.deepcopy(other[place])
    elif how == "repeat" and isinstance(container, list):
        container.insert(choose.randint(0, len(container)), copy.deepcopy(old))
    elif how == "drop":
        del container[key]
        return f"drop {key!r:.40}"
    elif how == "rename" and isinstance(container, dict):
        name = choose.choice([*TEXTS, *map(str, container)])
        container[name] = container.pop(key)
        return f"rename {key!r:.40} {name!r:.40}"
    elif how == "swap" and isinstance(container, list) and len(container) > 1:
        other = choose.randrange(len(container))
        container[key], container[other] = container[other], container[key]
    else:
        container[key] = _random_value(choose)
    return f"{how} {key!r:.40} = {container[key]!r:.60}"


def _random_value(choose: random.Random) -> Any:
    kind = choose.random()
    if kind < 0.45:
        return choose.choice(NUMBERS)
    if kind < 0.75:
        return choose.choice(TEXTS)
    if kind < 0.85:
        return choose.choice([None, True, False])
    return choose.choice([[], {}, [choose.choice(NUMBERS)], [choose.choice(TEXTS)], [1] * 9, {"kind": "image"}, [[]]])


def _random_place(value: Any, choose: random.Random) -> Place:
    """A place inside `value`, which is a container with something in it."""
    container = value
    while True:
        key = choose.randrange(len(container)) if isinstance(container, list) else choose.choice(list(container))
        inner = container[key]
        if not (isinstance(inner, (dict, list)) and inner and choose.random() < 0.75):
            return container, key
        container = inner


def mutate_text(text: bytes, choose: random.Random, at: int | None = None) -> tuple[bytes, str]:
    """Replace one to three short ranges of bytes, the first one at `at` where given, or cut or lengthen the text."""
    if choose.random() < 0.1:
        end = choose.choice([0, len(text) // 2, len(text) - 1, choose.randint(0, len(text))])
        tail = choose.choice([b"", b"\0", b" ", b"\n\t ", b"x", b"\0{}", b"{}", b",", b"\xff"])
        kept = text[:end] if choose.random() < 0.4 else text
        return kept + tail, f"{len(kept)} of {len(text)} bytes and {tail!r}"
    changed, said = bytearray(text), []
    for i in range(choose.randint(1, 3)):
        begin = min(len(changed), at) if at is not None and i == 0 else choose.randint(0, len(changed))
        put = choose.choice(BITS) if choose.random() < 0.7 else choose.randbytes(choose.randint(1, 3))
        cut = choose.randint(0, 3) if choose.random() < 0.7 else len(put)
        changed[begin : begin + cut] = put
        said.append(f"{begin}: {cut} bytes are {put!r:.40}")
    return bytes(changed), ", ".join(said)

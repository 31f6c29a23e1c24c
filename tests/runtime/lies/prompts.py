"""Manifests of a bundle of prompts that lie."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import TOKENS, Json, both, drop, put
from .edits import image, prepare, rename

EMBEDS, MASK, IDS = 0, 1, 2  # ports of the golden bundle of prompts
TEXT_LIES: dict[str, Callable[[Json], object]] = {
    "no tokens": both(
        put("tokenizers", 0, "max_tokens", value=0), *(put("ports", i, "shape", value=[0]) for i in (1, 2)),
    ),
    "8192 tokens": both(
        put("tokenizers", 0, "max_tokens", value=8192), *(put("ports", i, "shape", value=[8192]) for i in (1, 2)),
    ),
    "2**40 tokens": put("tokenizers", 0, "max_tokens", value=1 << 40),
    "more tokens than the ids": put("tokenizers", 0, "max_tokens", value=TOKENS + 1),
    "fewer tokens than the mask": put("ports", MASK, "shape", value=[TOKENS + 1]),
    "token ids of float32": put("ports", IDS, "dtype", value="float32"),
    "a mask of the second tokenizer": put("ports", MASK, "tokenizer", value=1),
    "ids of a negative tokenizer": put("ports", IDS, "tokenizer", value=-1),
    "two ports of ids of one tokenizer": lambda m: (
        m["ports"].append({**m["ports"][IDS], "name": "more"}), m["prepare"][0]["inputs"].append("more"),
    ),
    "two masks of one tokenizer": lambda m: m["ports"].append({**m["ports"][MASK], "name": "more"}),
    "two tokenizers for one port": lambda m: m["tokenizers"].append({**m["tokenizers"][0], "file": "plan.json"}),
    "nine tokenizers": lambda m: m["tokenizers"].extend(m["tokenizers"] * 8),
    "a text that is cleaned in another way": put("tokenizers", 0, "clean", value="lower"),
    "a padding of -2": put("tokenizers", 0, "pad_id", value=-2),
    "a padding of 2**31": put("tokenizers", 0, "pad_id", value=1 << 31),
    "embeddings of no width": put("ports", EMBEDS, "shape", 1, value=0),
    "embeddings 2**31 wide": put("ports", EMBEDS, "shape", 1, value=1 << 31),
    "a fraction of tokens": put("tokenizers", 0, "max_tokens", value=8.0),
    "a port of text with classes": put("ports", IDS, "num_classes", value=10),
    "token ids called a label": put("ports", IDS, "kind", value="label"),
    "a tokenizer without a file": drop("tokenizers", 0, "file"),
    "a tokenizer of the empty name": put("tokenizers", 0, "file", value=""),
    "a tokenizer that is null": put("tokenizers", 0, "file", value=None),
    "a tokenizer that is not listed": drop("files", "tokenizer.json"),
    "a tokenizer outside the bundle": rename("tokenizer.json", "../tokenizer.json"),
    "a tokenizer that is a program": put("tokenizers", 0, "file", value="step-00.onnx"),
    "a tokenizer that is the weights": put("tokenizers", 0, "file", value="decoder.safetensors"),
    "a tokenizer without a text encoder": drop("prepare", 0),
    "a text encoder without a tokenizer": put("tokenizers", value=[]),
    "a text encoder with no tokenizer and no ids": both(
        put("tokenizers", value=[]), drop("ports", IDS), put("prepare", 0, "inputs", value=["attention_mask"]),
        put("ports", MASK, value={"name": "attention_mask", "dtype": "int64", "shape": [TOKENS], "kind": "mask"}),
    ),
    "a text encoder that makes the mask of tokens": lambda m: (
        m["prepare"][0]["outputs"].append("attention_mask"), m["prepare"][0]["inputs"].remove("attention_mask"),
    ),
    "a step that takes token ids": lambda m: m["programs"][0]["inputs"].append("input_ids"),
    "a text encoder that makes another tensor besides": both(
        lambda m: m["prepare"][0]["outputs"].append("key_0"), lambda m: m["prepare"][1]["outputs"].remove("key_0"),
    ),
    "a text encoder that takes a table": put("prepare", 0, "tables", value=["more"]),
    "a text encoder that takes embeddings": put("prepare", 0, "inputs", value=["input_ids", "embeds"]),
    "a text encoder that takes what another program makes": lambda m: (
        m["prepare"].insert(0, prepare("plan.json", ["attention_mask"], ["first"])),
        m["tensors"].append({"name": "first", "dtype": "float32", "rows": True, "per_step": False, "shape": [8]}),
        m["prepare"][1]["inputs"].append("first"),
    ),
    "two text encoders": lambda m: m["prepare"].append({**m["prepare"][0], "file": "plan.json"}),
    "a context of token ids": put("prepare", 1, "inputs", value=["embeds", "input_ids"]),
    "a context of labels": put("prepare", 1, "inputs", value=["embeds", "labels"]),
    "conditioning of token ids": put("prepare", 2, "inputs", value=["input_ids"]),
    "embeddings among the tensors": lambda m: m["tensors"].append(
        {"name": "embeds", "dtype": "float32", "rows": True, "per_step": False, "shape": [TOKENS, 16]}
    ),
    "a tensor of the request for every step": put("tensors", 1, "per_step", value=True),
    "a tensor that is made no more": lambda m: m["prepare"][1]["outputs"].remove("value_2"),
    "a decoder that is the text encoder": put("finish", 0, "file", value="text-encoder.onnx"),
    "a second decoder": lambda m: m["finish"].append(image("plan.json", [3, 16, 16])),
    "an image 2**17 wide": put("finish", 0, "shape", 2, value=1 << 17),
}  # fmt: skip

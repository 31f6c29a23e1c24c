"""Manifests of older versions that lie."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, both, drop, put
from .edits import image, rename

V4_LIES: dict[str, Callable[[Json], object]] = {
    "a table of slots": put("slots", value=[]),
    "ports": put("ports", value=[]),
    "tokenizers": put("tokenizers", value=[]),
    "a program that names its weights": put("programs", 0, "weights", value="weights.safetensors"),
    "no layers": put("model", "num_layers", value=0),
    "a billion layers": put("model", "num_layers", value=10**9),
    "no modules": put("model", "modules", value=[]),
    "nine modules": put("model", "modules", value=[c * 2 for c in "abcdefghi"]),
    "two modules of one name": put("model", "modules", value=["attn", "attn", "ff"]),
    "a module whose name is no slot's": put("model", "modules", value=["attn", "ff", "X 1"]),
    "a width of 2**62": put("model", "width", value=1 << 62),
    "a negative token count": put("model", "num_tokens", value=-16),
    "latents of four sides": put("model", "latent_shape", value=[1, 1, 8, 8]),
    "a negative class": put("model", "condition", "null_class", value=-1),
    "a condition of an unknown kind": put("model", "condition", "kind", value="image"),
    "a condition of labels called text": put("model", "condition", "kind", value="text"),
    "a text condition for programs of labels": put("model", "condition", value={
        "kind": "text", "max_tokens": 8, "embed_width": 16, "tokenizer": ""
    }),
    "a text condition of 2**40 tokens": put("model", "condition", value={
        "kind": "text", "max_tokens": 1 << 40, "embed_width": 16, "tokenizer": ""
    }),
    "slots smaller than a tensor": put("arena", "slot_bytes", value=1024),
    "slots much larger than a tensor": put("arena", "slot_bytes", value=1 << 30),
    "slots of zero bytes": put("arena", "slot_bytes", value=0),
    "three rows a sample": put("rows_per_sample", value=3),
    "slots of another precision": put("precision", value="fp16"),
    "nine prepare programs": lambda m: m["prepare"].extend(m["prepare"] * 8),
    "nine weights": put("weights", value=["weights.safetensors"] * 9),
    "a finish program of a kind": put("finish", value=[image("plan.json", [3, 8, 8])]),
    "a slot of a layer that does not exist": put("programs", 0, "writes", 0, value="3.attn"),
    "a slot of a module that does not exist": put("programs", 0, "writes", 0, value="0.cross_attn"),
    "a slot with a padded layer": put("programs", 0, "writes", 0, value="00.attn"),
    "an age as in version 5": put("programs", 1, "reads", 0, value="0.attn@1"),
    "an older value written": put("programs", 0, "writes", 0, value="0.attn.1"),
}  # fmt: skip
V1_LIES: dict[str, Callable[[Json], object]] = {
    "an unknown key": put("surplus", value=1),
    "keys of version 2": put("tensors", value=[]),
    "no prepare program": drop("prepare"),
    "several weights": put("weights", value=["weights.safetensors"]),
    "half precision": put("precision", value="fp16"),
    "classes in a condition": both(
        drop("model", "num_classes"), drop("model", "null_class"),
        put("model", "condition", value={"kind": "label", "num_classes": 10, "null_class": 10}),
    ),
    "a learned variance": put("sampler", "learned_variance", value=False),
    "fractional timesteps": put("sampler", "timesteps", 0, value=0.5),
    "a timestep of 400 digits": put("sampler", "timesteps", 0, value=10**400),
    "a negative timestep": put("sampler", "timesteps", 0, value=-1),
    "a null class beyond the classes": put("model", "null_class", value=11),
    "conditioning 2**50 wide": put("prepare", "conditioning", 0, "width", value=1 << 50),
    "conditioning of a negative count": put("prepare", "conditioning", 0, "entries", value=-20),
    "no conditioning": put("prepare", "conditioning", value=[]),
    "no tables": put("prepare", "tables", value=[]),
    "conditioning named as the state": put("prepare", "conditioning", 0, "name", value="state"),
    "conditioning twice": lambda m: m["prepare"]["conditioning"].append(m["prepare"]["conditioning"][0]),
    "a prepare program that is also a step's": put("prepare", "file", value="step-00.onnx"),
    "weights outside the bundle": rename("weights.safetensors", "../weights.safetensors"),
    "slots at the same place": put("steps", 0, "write_offsets", 1, value=0),
    "an arena of 2**62 bytes": put("arena", "bytes", value=1 << 62),
}  # fmt: skip

"""Manifests whose ports are wrong."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, both, drop, put
from .edits import RESERVED, UNPLAIN, add_port, embedding, prepare, scalar

PORTS: dict[str, Callable[[Json], object]] = {
    "a condition, as in version 4": put(
        "model", "condition", value={"kind": "label", "num_classes": 10, "null_class": 10}
    ),
    "a port of an unknown kind": put("ports", 0, "kind", value="picture"),
    "a port without a kind": drop("ports", 0, "kind"),
    "a kind that is a list": put("ports", 0, "kind", value=["label"]),
    "a kind that is null": put("ports", 0, "kind", value=None),
    "a port that is a string": put("ports", 0, value="label"),
    "a port of labels called a scalar": put("ports", 0, "kind", value="scalar"),
    "a port of labels with a tokenizer": put("ports", 0, "tokenizer", value=0),
    "labels of float32": put("ports", 0, "dtype", value="float32"),
    "labels of an axis": put("ports", 0, "shape", value=[1]),
    "65 ports": put("ports", value=[scalar(f"s{i}") for i in range(65)]),
    "two ports of one name": lambda m: m["ports"].append(m["ports"][0]),
    "a port named as a tensor": lambda m: m["ports"].append(scalar("conditioning")),
    "a port named as a table": lambda m: m["ports"].append(scalar("time_embedding")),
    **{f"a port named {name!r:.20}": add_port(scalar(name)) for name in (*RESERVED, *UNPLAIN)},
    "a scalar of whole numbers": add_port(scalar("more", dtype="int64")),
    "a scalar of an axis": add_port(scalar("more", shape=[1])),
    "a default below the least": add_port(scalar("more", least=1.0)),
    "a default above the most": add_port(scalar("more", most=0.25)),
    "a default that is not a number": add_port(scalar("more", default="0")),
    "a default beyond float32": add_port(scalar("more", default=1e39, most=3e38)),
    "a mask of no axes": add_port({"name": "more", "dtype": "int64", "shape": [], "kind": "mask"}),
    "a mask of float32": add_port({"name": "more", "dtype": "float32", "shape": [8], "kind": "mask"}),
    "an embedding of no axes": add_port({"name": "more", "dtype": "float32", "shape": [], "kind": "embedding"}),
    "an embedding of whole numbers": add_port({"name": "more", "dtype": "int64", "shape": [8], "kind": "embedding"}),
    "an embedding of float16": add_port({"name": "more", "dtype": "float16", "shape": [8], "kind": "embedding"}),
    "an embedding of seven axes": add_port(embedding("more", [1] * 7)),
    "an embedding of 2**36 values": add_port(embedding("more", [1 << 18, 1 << 18])),
    "an embedding of a negative side": add_port(embedding("more", [-8])),
    "token ids without a tokenizer": add_port(
        {"name": "more", "dtype": "int64", "shape": [8], "kind": "token_ids", "tokenizer": 0}
    ),
    "a tokenizer without token ids": lambda m: m["tokenizers"].append(
        {"file": "plan.json", "max_tokens": 8, "clean": "none", "pad_id": 0}
    ),
    "labels that a program makes": lambda m: m["prepare"].append(
        {"file": "plan.json", "weights": "", "inputs": [], "tables": [], "outputs": ["labels"]}
    ),
    "a scalar that a program makes of embeddings": both(
        add_port(scalar("more")), add_port(embedding("given", [8])),
        lambda m: m["prepare"].append(prepare("plan.json", ["given"], ["more"])),
    ),
    "embeddings that a program makes of labels": both(
        add_port(embedding("more", [8])), lambda m: m["prepare"].append(prepare("plan.json", ["labels"], ["more"])),
    ),
    "embeddings that a program of steps makes": both(
        add_port(embedding("more", [8])), put("prepare", 0, "outputs", value=["conditioning", "more"]),
    ),
    "an encoder of what an encoder makes": both(
        add_port(embedding("a", [8])), add_port(embedding("b", [8])), add_port(embedding("c", [8])),
        lambda m: m["prepare"].append(prepare("plan.json", ["a"], ["b"])),
        lambda m: m["prepare"].append(prepare("programs.json", ["b"], ["c"])),
    ),
}  # fmt: skip

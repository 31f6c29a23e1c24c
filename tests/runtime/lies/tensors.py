"""Manifests whose tensors are not made once, before they are taken."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, both, put
from .edits import RESERVED, UNPLAIN, add_request_tensor, name_tensor, prepare

TENSORS: dict[str, Callable[[Json], object]] = {
    **{f"a tensor named {name!r:.20}": name_tensor(name) for name in (*RESERVED, *UNPLAIN)},
    "two tensors of one name": lambda m: m["tensors"].append({**m["tensors"][0], "rows": False}),
    "a tensor named as a table": name_tensor("time_embedding"),
    "a tensor of an unknown type": put("tensors", 0, "dtype", value="float64"),
    "a tensor of whole numbers": put("tensors", 0, "dtype", value="int64"),
    "a tensor that no program makes": lambda m: m["tensors"].append({**m["tensors"][0], "name": "more"}),
    "a tensor that is made but not there": put("prepare", 0, "outputs", value=["conditioning", "more"]),
    "a tensor made twice by one program": put("prepare", 0, "outputs", value=["conditioning"] * 2),
    "a tensor made by two programs": both(
        lambda m: m["prepare"].append({**m["prepare"][0], "file": "plan.json", "tables": ["more"]}),
    ),
    "a tensor of steps made by a program of the request": put("prepare", 0, "tables", value=[]),
    "a tensor of the request made by a program of steps": put("tensors", 0, "per_step", value=False),
    "a program that makes nothing": lambda m: m["prepare"].append(
        prepare("plan.json", ["labels"], [])
    ),
    "a program that takes the labels twice": put("prepare", 0, "inputs", value=["labels", "labels"]),
    "a program that takes what it makes": put("prepare", 0, "inputs", value=["labels", "conditioning"]),
    "a program that takes what nothing gives": put("prepare", 0, "inputs", value=["gain"]),
    "a program that takes a table as an input": put("prepare", 0, "inputs", value=["time_embedding"]),
    "a program of labels that takes token ids": put("prepare", 0, "inputs", value=["input_ids"]),
    "a program of labels that takes embeddings": put("prepare", 0, "inputs", value=["embeds"]),
    "a program of labels that makes embeddings": lambda m: m["prepare"].append(
        prepare("plan.json", ["labels"], ["embeds"])
    ),
    "a program that takes the state": put("prepare", 0, "inputs", value=["state"]),
    "a program that takes what a later one makes": add_request_tensor(early=False),
    "a program that takes a tensor of steps": both(
        add_request_tensor(early=False), put("prepare", 0, "inputs", value=["labels"]),
        put("prepare", 1, "inputs", value=["conditioning"]),
    ),
    "a table listed twice": put("prepare", 0, "tables", value=["time_embedding", "time_embedding"]),
    "a table of two programs": both(
        add_request_tensor(early=True), put("tensors", 1, "per_step", value=True),
        put("prepare", 0, "tables", value=["time_embedding"]), put("prepare", 1, "inputs", value=["labels"]),
    ),
    "a table listed that holds the coefficients": put("prepare", 0, "tables", value=["time_embedding", "coefficients"]),
    "a table listed that holds the sampler's own coefficients": put(
        "prepare", 0, "tables", value=["time_embedding", "baseline_coefficients"]
    ),
    "a table named as the labels": put("prepare", 0, "tables", value=["labels"]),
    "a table of a name that is not plain": put("prepare", 0, "tables", value=["Time"]),
    "a step that takes a tensor twice": put("programs", 0, "inputs", value=["conditioning"] * 2),
    "a step that takes a tensor that is not there": put("programs", 0, "inputs", value=["conditioning", "more"]),
    "a step that takes the labels twice": put("programs", 0, "inputs", value=["labels", "labels"]),
    "a step that takes the state as a tensor": put("programs", 0, "inputs", value=["state"]),
}  # fmt: skip

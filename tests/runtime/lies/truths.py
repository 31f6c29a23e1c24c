"""Manifests that are unusual, and right."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, both, put
from .edits import (
    CARRY,
    FIRST,
    add_port,
    add_request_tensor,
    audio,
    chunked,
    embedding,
    name_tensor,
    prepare,
    rename,
    scalar,
    video,
)


def _second_weights(manifest: Json) -> None:
    manifest["weights"].append("more.safetensors")
    manifest["files"]["more.safetensors"] = manifest["files"]["weights.safetensors"]


def _widen_last(manifest: Json) -> None:
    """The slot that lies last in the arena is twice as large as the others."""
    name = manifest["programs"][0]["writes"][-1]
    slot = next(slot for slot in manifest["slots"] if slot["name"] == name)
    slot["shape"][0] *= 2
    manifest["arena"]["bytes"] += 2048


TRUTHS: dict[str, Callable[[Json], object]] = {
    "another name of a tensor": name_tensor("x_1"),
    "a tensor of the longest name": name_tensor("a" * 64),
    "a tensor of the request before the tensor of steps that is made of it": add_request_tensor(early=True),
    "a program of steps that takes nothing but tables": put("prepare", 0, "inputs", value=[]),
    "a step that takes no tensors": put("programs", 1, "inputs", value=[]),
    "a name beyond the first 65536 characters": put("model", "name", value="\U0001f964"),
    "a name of a backslash and half a pair's digits": put("model", "name", value="\\ud83d"),
    "a fractional timestep": put("sampler", "timesteps", 0, value=999.5),
    "a second weights file": _second_weights,
    "another name of the tables": both(
        put("tables", value="more.safetensors"),
        lambda m: m["files"].update({"more.safetensors": m["files"]["tables.safetensors"]}),
    ),
    "coefficients of the schedule's own": put("sampler", "fitted", value=True),
    "a step that takes the labels": put("programs", 0, "inputs", value=["conditioning", "labels"]),
    "a scalar": both(add_port(scalar("more")), put("prepare", 0, "inputs", value=["labels", "more"])),
    "a scalar of one value": add_port(scalar("more", least=0.5, most=0.5)),
    "a hint": both(add_port(embedding("hint", [3, 8, 8])), put("programs", 0, "inputs", value=["hint"])),
    "an encoder of a hint": both(
        add_port(embedding("hint", [3, 8, 8])), add_port(embedding("seen", [8])),
        lambda m: m["prepare"].append(prepare("plan.json", ["hint"], ["seen"])),
    ),
    "second outputs": rename("0.ff", "0.attn#1"),
    "the longest name of a slot": rename("0.ff", "a" * 96 + "#9"),
    "slots that nobody uses": lambda m: m["slots"].append({"name": "more", "shape": [1] * 6, "dtype": "bfloat16"}),
    "a slot of another size": _widen_last,
    "latents of four sides": both(
        put("model", "latent_shape", value=[1, 2, 8, 8]), put("model", "output", value="latents"),
    ),
    "latents of one side": both(put("model", "latent_shape", value=[64]), put("model", "output", value="latents")),
    "a video": video([2, 3, 8, 8]),
    "a video in chunks": chunked(),
    "a video in chunks that carry nothing": chunked(carry=[]),
    "a video whose calls are alike": video([8, 3, 8, 8], latents=4, latent_frames=1, frames=2, carry=[CARRY]),
    "a video of two programs, each called once": chunked(latent_frames=4, frames=8),
    "a video whose first call makes more": chunked(first=[{**FIRST, "latent_frames": 3, "frames": 5}]),
    "64 carried tensors of long names": chunked(
        carry=[{**CARRY, "name": f"{i:096}#9", "shape": [1] * 6} for i in range(64)]
    ),
    "sound": put("finish", value=[audio([2, 1 << 20])]),
    "a program without weights": put("programs", 0, "weights", value=""),
    "learned variance without noise": both(
        put("sampler", "learned_variance", value=True), put("sampler", "stochastic", value=False),
    ),
}  # fmt: skip

"""Edits of a manifest that cases of lies and of truths are made of."""

from __future__ import annotations

import json
from collections.abc import Callable

from ..bundles import Json, both, put


def rename(old: str, new: str) -> Callable[[Json], None]:
    """Rename a file wherever the manifest speaks of it, so that only the name itself is wrong."""

    def change(manifest: Json) -> None:
        text = json.dumps(manifest).replace(json.dumps(old), json.dumps(new))
        manifest.clear()
        manifest.update(json.loads(text))

    return change


def program(reads: list[str], writes: list[str]) -> Json:
    return {"file": "step-00.onnx", "weights": "", "inputs": [], "reads": reads, "writes": writes, "flops": 1}


def image(file: str, shape: list[int]) -> Json:
    return {"file": file, "weights": "", "kind": "image", "shape": shape}


def video(shape: list[int], rate: float = 16.0, latents: int = 1, **keys: object) -> Callable[[Json], None]:
    """Make it a bundle of so many frames of latents, whose decoder makes a video of them in one call."""
    finish = {"file": "plan.json", "weights": "", "kind": "video", "shape": shape, "frames_per_second": rate}
    finish |= {"latent_frames": latents, "frames": shape[0], "first": [], "carry": []} | keys
    model = both(put("model", "latent_shape", value=[1, latents, 8, 8]), put("model", "output", value="latents"))
    return both(model, put("finish", value=[finish]))


CARRY = {"name": "up.0.conv", "dtype": "float16", "shape": [2, 8, 8]}
FIRST = {"file": "programs.json", "latent_frames": 1, "frames": 1}


def chunked(**keys: object) -> Callable[[Json], None]:
    """One frame of the first of 5 latent frames, then 4 of every two."""
    whole: Json = {"latent_frames": 2, "frames": 4, "first": [FIRST], "carry": [CARRY]}
    return video([9, 3, 8, 8], latents=5, **(whole | keys))


def audio(shape: list[int], rate: float = 44100) -> Json:
    return {"file": "plan.json", "weights": "", "kind": "audio", "shape": shape, "sample_rate": rate}


def prepare(file: str, inputs: list[str], outputs: list[str]) -> Json:
    return {"file": file, "weights": "", "inputs": inputs, "tables": [], "outputs": outputs}


def step(program: int, read_offsets: list[int], write_offsets: list[int]) -> Json:
    return {"program": program, "read_offsets": read_offsets, "write_offsets": write_offsets}


def play(programs: list[Json], steps: list[Json]) -> Callable[[Json], None]:
    """Replace programs and steps; steps are filled up with the golden baseline."""

    def change(manifest: Json) -> None:
        baseline = manifest["programs"][manifest["baseline_program"]]
        manifest["programs"] = [*({**p, "file": f"step-0{i}.onnx"} for i, p in enumerate(programs)), baseline]
        manifest["baseline_program"] = len(programs)
        manifest["steps"] = steps + [step(len(programs), [], [])] * (8 - len(steps))

    return change


RESERVED = (
    "labels", "state", "state_out", "coefficients", "baseline_coefficients", "guidance", "noise", "latents", "image",
    "video", "audio",
)  # fmt: skip
UNPLAIN = ("", "cache.0.attn", "Conditioning", "0x", "_x", "a b", "tensör", "a" * 65, "x\n")


def name_tensor(name: str) -> Callable[[Json], None]:
    """Call the conditioning `name`, everywhere."""
    return both(
        put("tensors", 0, "name", value=name), put("prepare", 0, "outputs", value=[name]),
        lambda m: [program.update(inputs=[name]) for program in m["programs"]],
    )  # fmt: skip


def add_request_tensor(early: bool) -> Callable[[Json], None]:
    """A second prepare program, whose tensor `gain` the first one takes: before that or, wrongly, after it."""

    def change(manifest: Json) -> None:
        manifest["tensors"].append({"name": "gain", "dtype": "float16", "rows": True, "per_step": False, "shape": [1]})
        gain = prepare("plan.json", ["labels"], ["gain"])
        manifest["prepare"][0]["inputs"] = ["labels", "gain"]
        manifest["prepare"].insert(0 if early else 1, gain)

    return change


def name_slot(name: str) -> Callable[[Json], None]:
    """Call the first slot `name`, everywhere."""
    return rename("0.attn", name)


def scalar(name: str, **changes: object) -> Json:
    """A port of a number."""
    port = {"name": name, "dtype": "float32", "shape": [], "kind": "scalar", "default": 0.5, "least": 0.0, "most": 1.0}
    return port | changes


def embedding(name: str, shape: list[int]) -> Json:
    """A port of an embedding."""
    return {"name": name, "dtype": "float32", "shape": shape, "kind": "embedding"}


def add_port(port: Json) -> Callable[[Json], None]:
    return lambda manifest: manifest["ports"].append(port)

"""Manifests whose images, videos and sound are wrong, and the programs that make them."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, both, drop, put
from .edits import CARRY, FIRST, audio, chunked, image, video

FINISH: dict[str, Callable[[Json], object]] = {
    "an image of 2**20 rows": put("finish", value=[image("plan.json", [3, 1 << 20, 8])]),
    "an image without columns": put("finish", value=[image("plan.json", [3, 8, 0])]),
    "an image of two sides": put("finish", value=[image("plan.json", [8, 8])]),
    "two finish programs": put(
        "finish", value=[image(name, [3, 8, 8]) for name in ("plan.json", "programs.json")]
    ),
    "an image of 2**36 values": put("finish", value=[image("plan.json", [1 << 12] * 3)]),
    "a finish program of an unknown kind": put("finish", value=[{**image("plan.json", [3, 8, 8]), "kind": "text"}]),
    "a finish program without a kind": put("finish", value=[{"file": "plan.json", "weights": "", "shape": [3, 8, 8]}]),
    "a video without a rate": both(video([2, 3, 8, 8]), drop("finish", 0, "frames_per_second")),
    "an image with a rate": put("finish", value=[{**image("plan.json", [3, 8, 8]), "frames_per_second": 16.0}]),
    "a video of three sides": video([3, 8, 8]),
    "a video of no frames a second": video([2, 3, 8, 8], rate=0.0),
    "a video of a million frames a second": video([2, 3, 8, 8], rate=1e6),
    "a video of 2**40 values": video([1 << 16, 4, 1 << 11, 1 << 11]),
    "a video of latents without frames": both(video([2, 3, 8, 8]), put("model", "latent_shape", value=[1, 8, 8])),
    "a video that does not say what a call takes": both(chunked(), drop("finish", 0, "latent_frames")),
    "a video that does not say what a call makes": both(chunked(), drop("finish", 0, "frames")),
    "a video without first": both(chunked(), drop("finish", 0, "first")),
    "a video without carry": both(chunked(), drop("finish", 0, "carry")),
    "an image with carry": put("finish", value=[{**image("plan.json", [3, 8, 8]), "carry": []}]),
    "calls of no latent frames": chunked(latent_frames=0),
    "calls of negative latent frames": chunked(latent_frames=-2, frames=-4),
    "calls of 2**62 latent frames": chunked(latent_frames=1 << 62),
    "calls of half a latent frame": chunked(latent_frames=0.5),
    "calls of no frames": chunked(frames=0),
    "calls of 2**17 frames": chunked(frames=1 << 17),
    "calls that leave a latent frame over": chunked(latent_frames=3),
    "calls that make too few frames": chunked(frames=3),
    "calls that make too many frames": chunked(frames=8),
    "calls that make the frames of more latent frames than there are": chunked(latent_frames=4),
    "a first call that takes everything": chunked(first=[{**FIRST, "latent_frames": 5, "frames": 9}]),
    "a first call that takes more than there is": chunked(first=[{**FIRST, "latent_frames": 7, "frames": 13}]),
    "a first call that makes as much as the others": chunked(first=[{**FIRST, "frames": 4}]),
    "a first call of no latent frames": chunked(first=[{**FIRST, "latent_frames": 0}]),
    "a first call of 2**62 frames": chunked(first=[{**FIRST, "frames": 1 << 62}]),
    "a first call of negative frames": chunked(first=[{**FIRST, "frames": -3}]),
    "two first calls": chunked(first=[FIRST, {**FIRST, "file": "step-00.onnx"}]),
    "a first call without a file": chunked(first=[{"latent_frames": 1, "frames": 1}]),
    "a first call with weights": chunked(first=[{**FIRST, "weights": ""}]),
    "first that is no array": chunked(first=FIRST),
    "65 carried tensors": chunked(carry=[{**CARRY, "name": f"c{i}"} for i in range(65)]),
    "a carried tensor without axes": chunked(carry=[{**CARRY, "shape": []}]),
    "a carried tensor of seven axes": chunked(carry=[{**CARRY, "shape": [1] * 7}]),
    "a carried tensor of no values": chunked(carry=[{**CARRY, "shape": [2, 0]}]),
    "a carried tensor of 2**35 values": chunked(carry=[{**CARRY, "shape": [1 << 20, 1 << 15]}]),
    "a carried tensor of 2**21 rows": chunked(carry=[{**CARRY, "shape": [1 << 21]}]),
    "a carried tensor of ints": chunked(carry=[{**CARRY, "dtype": "int64"}]),
    "a carried tensor with rows": chunked(carry=[{**CARRY, "rows": True}]),
    "a carried tensor without a name": chunked(carry=[{**CARRY, "name": ""}]),
    "a carried tensor of an odd name": chunked(carry=[{**CARRY, "name": "up/0"}]),
    "a carried tensor of a long name": chunked(carry=[{**CARRY, "name": "a" * 97}]),
    "two carried tensors of one name": chunked(carry=[CARRY, CARRY]),
    "sound of three sides": put("finish", value=[audio([2, 8, 8])]),
    "sound of a rate of zero": put("finish", value=[audio([2, 8], rate=0)]),
    "sound of a fractional rate": put("finish", value=[audio([2, 8], rate=44100.5)]),
    "sound of 2**31 samples": put("finish", value=[audio([1, 1 << 31])]),
    "sound of 2**17 channels": put("finish", value=[audio([1 << 17, 8])]),
    "a finish program that is also a step's": put("finish", value=[image("step-00.onnx", [3, 8, 8])]),
    "a first call's program that is the other calls'": chunked(first=[{**FIRST, "file": "plan.json"}]),
    "a first call's program that is also a step's": chunked(first=[{**FIRST, "file": "step-00.onnx"}]),
    "a first call's program that is not listed": chunked(first=[{**FIRST, "file": "more.onnx"}]),
    "a first call's program outside the bundle": chunked(first=[{**FIRST, "file": "../programs.json"}]),
    "a finish program that is not listed": put("finish", value=[image("more.onnx", [3, 8, 8])]),
    "a finish program outside the bundle": put("finish", value=[image("../plan.json", [3, 8, 8])]),
    "a finish program's weights that are not there": put(
        "finish", value=[{**image("plan.json", [3, 8, 8]), "weights": "more.safetensors"}]
    ),
}  # fmt: skip

"""A hand-made bundle of version 5 with what the golden bundles of models lack, and the same computed in numpy.

Two tokenizers, two text encoders, ports of every kind, slots of two sizes and types, latents of four axes, and a finish
program that makes a video or sound. Only numpy and onnx make it: no reader has a hand in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtime.bundles import fix_hashes, safetensors_bytes

onnx = pytest.importorskip("onnx")
Floats = NDArray[np.float32]
LATENTS, STEPS, CLASSES, GUIDANCE = (2, 3, 2, 2), 4, 5, 3.0
COUNT = int(np.prod(LATENTS))
WEIGHTS = {
    "encoder.safetensors": {
        "text.weight": np.array([0.5, -0.25, 0.125], np.float32), "pool.weight": np.array([0.25, 0.5], np.float32),
    },
    "weights.safetensors": {
        "head.weight": np.array([0.75], np.float32), "rgb.weight": np.array([1, 0.5, 0.25], np.float32),
    },
}  # fmt: skip
PORTS: list[dict[str, Any]] = [
    {"name": "ids_a", "dtype": "int64", "shape": [4], "kind": "token_ids", "tokenizer": 0},
    {"name": "mask_a", "dtype": "int64", "shape": [4], "kind": "token_mask", "tokenizer": 0},
    {"name": "ids_b", "dtype": "int64", "shape": [3], "kind": "token_ids", "tokenizer": 1},
    {"name": "text", "dtype": "float32", "shape": [4, 3], "kind": "embedding"},
    {"name": "pooled", "dtype": "float32", "shape": [2], "kind": "embedding"},
    {"name": "hint", "dtype": "float32", "shape": [1, 2, 2], "kind": "hint"},
    {"name": "hint_mask", "dtype": "int64", "shape": [2], "kind": "mask"},
    {"name": "speed", "dtype": "float32", "shape": [], "kind": "scalar", "default": 0.5, "least": 0.0, "most": 2.0},
    {"name": "style", "dtype": "int64", "shape": [], "kind": "label", "num_classes": CLASSES, "null_class": CLASSES},
]
SLOTS = [
    {"name": "mid.attn", "shape": list(LATENTS), "dtype": "float32"},
    {"name": "mid.attn#1", "shape": [1], "dtype": "float16"},
]
_ONNX_TYPES = {"float32": 1, "int64": 7, "float16": 10}
NUMBERS = [f"i{i} = Constant <value_ints=[{i}]> ()" for i in range(4)] + ["last = Constant <value_ints=[-1]> ()"]
_STEP = ["s = Slice (coefficients, i0, i1)", "x0 = Squeeze (state, i0)"]
_TAIL = [
    "c_half, u_half = Split <axis=0, num_outputs=2> (o)", "a = Slice (coefficients, i1, i2)",
    "b = Slice (coefficients, i2, i3)", "spread = Sub (c_half, u_half)", "scaled = Mul (spread, guidance)",
    "e = Add (u_half, scaled)", "ax = Mul (a, state)", "be = Mul (b, e)", "be6 = Unsqueeze (be, i0)",
    "state_out = Add (ax, be6)",
]  # fmt: skip


@dataclass(frozen=True)
class PortsToy:
    """The model's output is s x + gain, times head.weight. Steps: computed, reused, computed, forecast from two."""

    result: str = "video"

    @property
    def coefficients(self) -> Floats:
        return np.random.default_rng(0).uniform(-0.6, 0.6, (STEPS, 4)).astype(np.float32)

    def manifest(self) -> dict[str, Any]:
        weights = "weights.safetensors"
        big, small = 256 * -(-2 * 4 * COUNT // 256), 256
        prepare = [
            {"file": "encoder-b.onnx", "inputs": ["ids_a", "ids_b"], "outputs": ["pooled"]},
            {
                "file": "gain.onnx", "inputs": ["text", "pooled", "hint", "hint_mask", "speed", "style"],
                "outputs": ["gain"],
            },
            {"file": "encoder-a.onnx", "inputs": ["mask_a", "ids_a"], "outputs": ["text"]},
        ]  # fmt: skip
        programs = [
            {"file": "compute.onnx", "inputs": ["gain"], "reads": [], "writes": ["mid.attn", "mid.attn#1"]},
            {"file": "reuse.onnx", "inputs": ["speed"], "reads": ["mid.attn#1", "mid.attn"], "writes": []},
            {"file": "forecast.onnx", "inputs": [], "reads": ["mid.attn@1", "mid.attn"], "writes": []},
            {"file": "baseline.onnx", "inputs": ["gain"], "reads": [], "writes": []},
        ]  # fmt: skip
        for program in prepare:
            program |= {"tables": [], "weights": "" if program["file"] == "gain.onnx" else "encoder.safetensors"}
        for program in programs:
            program |= {"weights": weights if program["inputs"] == ["gain"] else "", "flops": 1}
        finish = {"file": "finish.onnx", "weights": weights, "kind": self.result, "shape": [3, 3, 2, 2]}
        if self.result == "video":
            finish |= {"frames_per_second": 7.5, "latent_frames": 3, "frames": 3, "first": [], "carry": []}
        else:
            finish |= {"weights": "", "shape": [2, 12], "sample_rate": 16000}
        small_at = 2 * big
        steps = [
            {"program": 0, "read_offsets": [], "write_offsets": [0, small_at]},
            {"program": 1, "read_offsets": [small_at, 0], "write_offsets": []},
            {"program": 0, "read_offsets": [], "write_offsets": [big, small_at]},
            {"program": 2, "read_offsets": [0, big], "write_offsets": []},
        ]
        arena = 2 * big + small
        files = [p["file"] for p in (*prepare, *programs)]
        files += ["finish.onnx", "tables.safetensors", "one.json", "two.json", *WEIGHTS]
        return {
            "format": "soda-bundle", "version": 5, "builder": "toy", "backend": "ort", "precision": "fp32",
            "model": {
                "name": "ports", "family": "toy", "hash": "", "latent_shape": list(LATENTS), "output": "latents",
                "sites": 2,
            },
            "ports": PORTS,
            "tokenizers": [
                {"file": "one.json", "max_tokens": 4, "clean": "lower-strip", "pad_id": -1},
                {"file": "two.json", "max_tokens": 3, "clean": "none", "pad_id": 7},
            ],
            "sampler": {
                "name": "toy", "steps": STEPS, "timesteps": [1.0] * STEPS, "state_size": 1, "stochastic": False,
                "learned_variance": False, "fitted": False, "initial_scale": 1.0,
            },
            "rows_per_sample": 2, "guidance": GUIDANCE, "flops_ratio": 1.0, "forecasts": 0,
            "tensors": [{"name": "gain", "dtype": "float32", "rows": True, "per_step": False, "shape": [1]}],
            "prepare": prepare, "slots": SLOTS, "programs": programs, "baseline_program": 3, "steps": steps,
            "finish": [finish],
            "arena": {"bytes": arena, "lower_bound_bytes": arena, "naive_bytes": arena},
            "weights": list(WEIGHTS), "tables": "tables.safetensors", "files": dict.fromkeys(files),
        }  # fmt: skip

    def write(self, folder: Path) -> Path:
        """The bundle at `folder`."""
        folder.mkdir()
        manifest = self.manifest()
        for name, tensors in WEIGHTS.items():
            (folder / name).write_bytes(packed(tensors))
        (folder / "tables.safetensors").write_bytes(packed({"coefficients": self.coefficients}))
        for name in ("one.json", "two.json"):
            (folder / name).write_text("{}")
        for program in manifest["prepare"]:
            self._save(folder, program, _NODES[program["file"]], [*program["inputs"]], [*program["outputs"]])
        common = ["state", "coefficients", "guidance"]
        for program in manifest["programs"]:
            inputs = [*common, *program["inputs"], *("cache." + name for name in program["reads"])]
            outputs = ["state_out", *("cache_out." + name for name in program["writes"])]
            self._save(folder, program, [*_STEP, *_NODES[program["file"]], *_TAIL], inputs, outputs)
        finish = manifest["finish"][0]
        self._save(folder, finish, _NODES[self.result], ["latents"], [self.result])
        (folder / "manifest.json").write_text(json.dumps(manifest))
        fix_hashes(folder)
        return folder

    def play(self, given: dict[str, Any], noise: Floats, accelerated: bool = True) -> Floats:
        """Latents of ports [R, ...]: text and pooled, or tokens of which they are made."""
        rows = {name: np.asarray(value) for name, value in given.items()}
        weights = WEIGHTS["encoder.safetensors"]
        if "text" not in rows:
            rows["text"] = (rows["ids_a"] * rows["mask_a"])[..., None] * weights["text.weight"]
        if "pooled" not in rows:
            rows["pooled"] = (rows["ids_a"][:, :1] + rows["ids_b"].sum(1, keepdims=True)) * weights["pool.weight"]
        hint = rows["hint"].reshape(len(rows["hint"]), -1).mean(1) * rows["hint_mask"].sum(1)
        gain = rows["text"].mean((1, 2)) + rows["pooled"].mean(1) + hint * rows["speed"] + rows["style"] / 10
        gain = gain.astype(np.float32).reshape(-1, 1, 1, 1, 1)
        x, values = noise.astype(np.float32), []
        for i, (scale, a, b, _) in enumerate(self.coefficients):
            if not accelerated or i in (0, 2):
                o = (scale * np.concatenate([x, x]) + gain) * np.float32(0.75)
                values.append(o)
            elif i == 1:
                speed = rows["speed"].astype(np.float32).reshape(-1, 1, 1, 1, 1)
                o = values[-1] + gain.astype(np.float16).astype(np.float32) * speed
            else:
                o = 2 * values[-1] - values[-2]
            c, u = np.split(o, 2)
            x = a * x + b * (u + np.float32(GUIDANCE) * (c - u))
        return x

    def finish(self, latents: Floats) -> Floats:
        """The video [B, frames, height, width, channels], or the sound [B, channels, length]."""
        if self.result == "audio":
            return np.tanh(latents).reshape(-1, 2, 12)
        frames = np.clip(latents[:, 0] / 10 + np.float32(0.5), 0, 1)
        return frames[..., None] * WEIGHTS["weights.safetensors"]["rgb.weight"]

    def _save(
        self, folder: Path, program: dict[str, Any], nodes: list[str], inputs: list[str], outputs: list[str]
    ) -> None:
        known = {port["name"]: (port["dtype"], ["rows", *port["shape"]]) for port in PORTS}
        for slot in SLOTS:
            for name in (f"cache.{slot['name']}", f"cache.{slot['name']}@1", f"cache_out.{slot['name']}"):
                known[name] = (slot["dtype"], ["rows", *slot["shape"]])
        state = ("float32", [1, "batch", *LATENTS])
        known |= {
            "gain": ("float32", ["rows", 1]), "state": state, "state_out": state, "coefficients": ("float32", [4]),
            "guidance": ("float32", [1]), "latents": ("float32", ["batch", *LATENTS]),
            "video": ("float32", ["batch", 3, 3, 2, 2]), "audio": ("float32", ["batch", 2, 12]),
        }  # fmt: skip

        def declared(names: list[str]) -> list[Any]:
            return [onnx.helper.make_tensor_value_info(n, _ONNX_TYPES[known[n][0]], known[n][1]) for n in names]

        graph = onnx.parser.parse_graph("toy () => () {\n" + "\n".join([*NUMBERS, *nodes]) + "\n}")
        rename = {
            "AT1": "cache.mid.attn@1", "LATEST": "cache.mid.attn", "SMALL": "cache.mid.attn#1",
            "BIG_OUT": "cache_out.mid.attn", "SMALL_OUT": "cache_out.mid.attn#1", "W_TEXT": "text.weight",
            "W_POOL": "pool.weight", "W_HEAD": "head.weight", "W_RGB": "rgb.weight",
        }  # fmt: skip
        used = set()
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [rename.get(name, name) for name in names]
                used |= set(names)
        del graph.input[:], graph.output[:]
        graph.input.extend(declared(inputs))
        graph.output.extend(declared(outputs))
        if program["weights"]:
            graph.initializer.extend(external(folder / program["weights"], used))
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
        onnx.save(model, folder / program["file"])


def packed(tensors: dict[str, Floats]) -> bytes:
    """A safetensors file of float32 tensors."""
    header, data = {}, b""
    for name, values in tensors.items():
        offsets = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": offsets}
        data += values.tobytes()
    return safetensors_bytes(header, data)


def external(path: Path, used: set[str]) -> list[Any]:
    """Initializers of those of a weights file's tensors that are used."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    tensors = []
    for name, entry in json.loads(content[8:begin]).items():
        if name not in used:
            continue
        tensor = onnx.TensorProto(name=name, data_type=1, dims=entry["shape"], data_location=1)
        first, end = entry["data_offsets"]
        for key, value in {"location": path.name, "offset": begin + first, "length": end - first}.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    return tensors


_OUTPUT = [
    "both = Concat <axis=0> (x0, x0)", "sx = Mul (s, both)", "five = Constant <value_ints=[-1, 1, 1, 1, 1]> ()",
    "g5 = Reshape (gain, five)", "sum = Add (sx, g5)", "o = Mul (sum, W_HEAD)",
]  # fmt: skip
_NODES = {
    "encoder-a.onnx": [
        "kept = Mul (ids_a, mask_a)", "real = Cast <to=1> (kept)", "column = Unsqueeze (real, last)",
        "text = Mul (column, W_TEXT)",
    ],
    "encoder-b.onnx": [
        "first = Slice (ids_a, i0, i1, i1)", "sum = ReduceSum (ids_b, i1)", "all = Add (first, sum)",
        "real = Cast <to=1> (all)", "pooled = Mul (real, W_POOL)",
    ],
    "gain.onnx": [
        "axes = Constant <value_ints=[1, 2]> ()", "more_axes = Constant <value_ints=[1, 2, 3]> ()",
        "t = ReduceMean <keepdims=0> (text, axes)", "p = ReduceMean <keepdims=0> (pooled, i1)",
        "h = ReduceMean <keepdims=0> (hint, more_axes)", "m = ReduceSum <keepdims=0> (hint_mask, i1)",
        "mf = Cast <to=1> (m)", "hm = Mul (h, mf)", "hs = Mul (hm, speed)", "c = Cast <to=1> (style)",
        "tenth = Constant <value_float=0.1> ()", "ct = Mul (c, tenth)", "tp = Add (t, p)", "tph = Add (tp, hs)",
        "flat = Add (tph, ct)", "gain = Unsqueeze (flat, i1)",
    ],
    "compute.onnx": [*_OUTPUT, "BIG_OUT = Identity (o)", "SMALL_OUT = Cast <to=10> (gain)"],
    "baseline.onnx": _OUTPUT,
    "reuse.onnx": [
        "small = Cast <to=1> (SMALL)", "five = Constant <value_ints=[-1, 1, 1, 1, 1]> ()", "g5 = Reshape (small, five)",
        "v5 = Reshape (speed, five)", "more = Mul (g5, v5)", "o = Add (LATEST, more)",
    ],
    "forecast.onnx": ["two = Constant <value_float=2.0> ()", "twice = Mul (LATEST, two)", "o = Sub (twice, AT1)"],
    "video": [
        "tenth = Constant <value_float=0.1> ()", "half = Constant <value_float=0.5> ()",
        "zero = Constant <value_float=0.0> ()", "one = Constant <value_float=1.0> ()",
        "axes = Constant <value_ints=[1]> ()", "x = Slice (latents, i0, i1, axes)",
        "frames = Transpose <perm=[0, 2, 1, 3, 4]> (x)", "small = Mul (frames, tenth)", "moved = Add (small, half)",
        "clipped = Clip (moved, zero, one)", "rgb_shape = Constant <value_ints=[1, 1, 3, 1, 1]> ()",
        "rgb = Reshape (W_RGB, rgb_shape)", "video = Mul (clipped, rgb)",
    ],
    "audio": [
        "sound = Tanh (latents)", "shape = Constant <value_ints=[-1, 2, 12]> ()", "audio = Reshape (sound, shape)",
    ],
}  # fmt: skip

"""A hand-made bundle whose decoder makes a video chunk by chunk, and the same computed in numpy of the whole clip.

The decoder is a causal convolution over three frames of latents, brighter with each frame; calls carry the last two
frames and how many there were. Only numpy and onnx make it: no reader has a hand in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.runtime.bundles import edit_manifest, fix_hashes

from .ports_toy import NUMBERS, Floats, external, onnx, packed

SIDES, PIXELS, STEPS, CLASSES = (2, 3), (8, 12), 2, 10
TAPS = np.array([0.25, -0.5, 1], np.float32)
DECODER = {
    "taps": TAPS, "head.weight": np.array([1, 0.5], np.float32), "rgb.weight": np.array([1, 0.5, 0.25], np.float32)
}  # fmt: skip
_WEIGHTS = "decoder.safetensors"
_RENAMED = {
    "LAST": "carry.conv", "COUNT": "carry.count.0", "LAST_OUT": "carry_out.conv", "COUNT_OUT": "carry_out.count.0",
    "W_HEAD": "head.weight", "W_RGB": "rgb.weight",
}  # fmt: skip
CARRY = [
    {"name": "conv", "dtype": "float32", "shape": [2, 2, *SIDES]}, {"name": "count.0", "dtype": "float16", "shape": [1]}
]  # fmt: skip


@dataclass(frozen=True)
class ChunksToy:
    """decoder: `causal` makes one frame of the first latent frame and four of every two others; `even` two of each;
    `framewise` one of each, and carries nothing; `whole` makes in one call what `causal` does."""

    latent_frames: int = 5
    decoder: Literal["causal", "even", "framewise", "whole"] = "causal"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (2, self.latent_frames, *SIDES)

    @property
    def coefficients(self) -> Floats:
        return np.random.default_rng(0).uniform(-0.6, 0.6, (STEPS, 4)).astype(np.float32)

    def video_entry(self) -> dict[str, Any]:
        """The manifest's entry of `finish`."""
        count = self.latent_frames
        taken, made, frames = {
            "causal": (2, 4, 2 * count - 1), "even": (1, 2, 2 * count), "framewise": (1, 1, count),
            "whole": (count, 2 * count - 1, 2 * count - 1),
        }[self.decoder]  # fmt: skip
        first = [{"file": "decoder-first.onnx", "latent_frames": 1, "frames": 1}] if self.decoder == "causal" else []
        return {
            "file": "decoder.onnx", "weights": _WEIGHTS, "kind": "video", "shape": [frames, 3, *PIXELS],
            "frames_per_second": 8.0, "latent_frames": taken, "frames": made, "first": first,
            "carry": CARRY if self.decoder in ("causal", "even") else [],
        }  # fmt: skip

    def manifest(self) -> dict[str, Any]:
        files = ["gain.onnx", "step.onnx", "decoder.onnx", "tables.safetensors", "weights.safetensors", _WEIGHTS]
        files += [first["file"] for first in self.video_entry()["first"]]
        step = {"program": 0, "read_offsets": [], "write_offsets": []}
        label = {"name": "style", "dtype": "int64", "shape": [], "kind": "label"}
        return {
            "format": "soda-bundle", "version": 5, "builder": "toy", "backend": "ort", "precision": "fp32",
            "model": {
                "name": "chunks", "family": "toy", "hash": "", "latent_shape": list(self.latent_shape),
                "output": "latents", "sites": 0,
            },
            "ports": [label | {"num_classes": CLASSES, "null_class": CLASSES}], "tokenizers": [],
            "sampler": {
                "name": "toy", "steps": STEPS, "timesteps": [1.0] * STEPS, "state_size": 1, "stochastic": False,
                "learned_variance": False, "fitted": False, "initial_scale": 1.0,
            },
            "rows_per_sample": 1, "guidance": 1.0, "flops_ratio": 1.0, "forecasts": 0,
            "tensors": [{"name": "gain", "dtype": "float32", "rows": True, "per_step": False, "shape": [1]}],
            "prepare": [{"file": "gain.onnx", "weights": "", "inputs": ["style"], "tables": [], "outputs": ["gain"]}],
            "slots": [], "baseline_program": 0, "steps": [step] * STEPS,
            "programs": [
                {"file": "step.onnx", "weights": "", "inputs": ["gain"], "reads": [], "writes": [], "flops": 1}
            ],
            "finish": [self.video_entry()], "arena": {"bytes": 0, "lower_bound_bytes": 0, "naive_bytes": 0},
            "weights": ["weights.safetensors", _WEIGHTS], "tables": "tables.safetensors", "files": dict.fromkeys(files),
        }  # fmt: skip

    def write(self, folder: Path) -> Path:
        """The bundle at `folder`."""
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(self.manifest()))
        (folder / "tables.safetensors").write_bytes(packed({"coefficients": self.coefficients}))
        (folder / "weights.safetensors").write_bytes(packed({"unused": TAPS}))
        (folder / _WEIGHTS).write_bytes(packed(DECODER))
        state, gain = ("float32", [1, "batch", *self.latent_shape]), ("float32", ["rows", 1])
        _save(folder / "gain.onnx", _GAIN, {"style": ("int64", ["rows"])}, {"gain": gain})
        inputs = {"state": state, "coefficients": ("float32", [4]), "gain": gain}
        _save(folder / "step.onnx", _STEP, inputs, {"state_out": state})
        entry = self.video_entry()
        for call in (entry, *entry["first"]):
            taken, made = call["latent_frames"], call["frames"]
            carry = {each["name"]: (each["dtype"], ["batch", *each["shape"]]) for each in entry["carry"]}
            inputs = {"latents": ("float32", ["batch", 2, taken, *SIDES])}
            outputs = {"video": ("float32", ["batch", made, 3, *PIXELS])}
            inputs |= {f"carry.{name}": port for name, port in carry.items()}
            outputs |= {f"carry_out.{name}": port for name, port in carry.items()}
            _save(folder / call["file"], self._decoder(taken, made), inputs, outputs)
        fix_hashes(folder)
        return folder

    def write_adaptive(self, folder: Path) -> Path:
        """The same with a policy, so that each sample may be played alone: the last step takes halves of its row."""
        self.write(folder)
        own = np.ascontiguousarray(self.coefficients[:, None])
        tables = {"own": own, "halves": own / 2, "seen": np.zeros((STEPS, 1, 6), np.float32)}
        (folder / "policy.safetensors").write_bytes(packed(tables))
        actions = [("full", "own"), ("half", "halves")]
        (folder / "policy.json").write_text(json.dumps({
            "format": "soda-policy", "version": 1, "name": "toy", "signals": "signals.onnx", "held": [False],
            "root": False, "accumulate": False, "power": 0, "max_run": 1, "gap": 1,
            "actions": [{"name": name, "program": 0, "table": rows, "signals": "seen"} for name, rows in actions],
            "rules": [{"action": 1, "always": False, "threshold": 0.5}], "tables": "policy.safetensors",
        }))  # fmt: skip
        state = ("float32", [1, "batch", *self.latent_shape])
        inputs = {"state": state, "state_out": state, "signal_row": ("float32", [6])}
        _save(folder / "signals.onnx", _SIGNALS, inputs, {"signal": ("float32", ["batch", 1])})
        edit_manifest(folder, lambda m: m["files"].update(dict.fromkeys(_POLICY_FILES)))
        fix_hashes(folder)
        return folder

    def play(self, labels: list[int], noise: Floats) -> Floats:
        """Latents."""
        x, gain = noise.astype(np.float32), np.array(labels, np.float32).reshape(-1, 1, 1, 1, 1)
        for scale, a, b, _ in self.coefficients:
            x = a * x + b * (scale * x + gain)
        return x

    def finish(self, latents: Floats) -> Floats:
        """The video [B, frames, height, width, channels], of the whole clip at once."""
        count, causal = self.latent_frames, self.decoder != "framewise"
        padded = np.concatenate([np.zeros_like(latents[:, :, :2]), latents], axis=2)
        taps = TAPS if causal else TAPS * [0, 0, 1]
        mixed = sum(tap * padded[:, :, i : i + count] for i, tap in enumerate(taps))
        shade = (mixed * DECODER["head.weight"].reshape(2, 1, 1, 1)).sum(1) / 8 + 0.5  # [B, F, h, w]
        if causal:
            shade = shade + np.arange(count).reshape(-1, 1, 1) / 64
            shade = np.stack([shade, shade / 2], axis=2).reshape(len(shade), 2 * count, *SIDES)
        if self.decoder in ("causal", "whole"):
            shade = np.delete(shade, 1, axis=1)
        pixels = shade.repeat(4, axis=2).repeat(4, axis=3)
        return np.clip(pixels[..., None] * DECODER["rgb.weight"], 0, 1).astype(np.float32)

    def _decoder(self, taken: int, made: int) -> list[str]:
        """The nodes of a call's program."""
        carries, whole = self.decoder in ("causal", "even"), self.decoder == "whole"
        constants = {
            "rgb_shape": [1, 1, 3, 1, 1, 1, 1], "tiles": [1, 1, 3, SIDES[0], 4, SIDES[1], 4], "two": [2],
            "video_shape": [0, 0, 3, *PIXELS], "numbers": list(range(taken)), "grid": [1, -1, 1, 1],
            "frames_shape": [0, -1, *SIDES], "spread": [2, 4, 6], "end": [taken], "three": [taken + 1],
            "most": [taken + 2], "shown": [0, *range(2, 2 * taken)], "pads": [0, 0, 2, *[0] * 7],
        }  # fmt: skip
        nodes = [f"{name} = Constant <value_ints={values}> ()" for name, values in constants.items()]
        for name, value in {"zero": 0, "one": 1, "half": 0.5, "eight": 8, "many": 64}.items():
            nodes.append(f"{name} = Constant <value_float={float(value)}> ()")
        nodes.append("padded = Concat <axis=2> (LAST, latents)" if carries else "padded = Pad (latents, pads)")
        for i, (begin, end) in enumerate((("i0", "end"), ("i1", "three"), ("i2", "most"))):
            nodes += [f"tap{i} = Slice (taps, i{i}, i{i + 1})", f"part{i} = Slice (padded, {begin}, {end}, two)"]
            nodes.append(f"term{i} = Mul (part{i}, tap{i})")
        nodes += ["terms = Add (term0, term1)", "all_terms = Add (terms, term2)"]
        nodes.append(f"mixed = Identity ({'term2' if self.decoder == 'framewise' else 'all_terms'})")
        nodes += [
            "column = Constant <value_ints=[2, 1, 1, 1]> ()", "head = Reshape (W_HEAD, column)",
            "weighed = Mul (mixed, head)", "summed = ReduceSum <keepdims=0> (weighed, i1)",
            "small = Div (summed, eight)", "plain = Add (small, half)", "real = Cast <to=1> (numbers)",
        ]  # fmt: skip
        if carries:
            nodes += [
                "before = Cast <to=1> (COUNT)", "index = Add (before, real)",  # [B, taken]
                "taken = Cast <to=1> (end)", "after = Add (before, taken)", "COUNT_OUT = Cast <to=10> (after)",
                "LAST_OUT = Slice (padded, end, most, two)", "axes = Constant <value_ints=[2, 3]> ()",
                "index4 = Unsqueeze (index, axes)",
            ]  # fmt: skip
        else:
            nodes.append("index4 = Reshape (real, grid)")
        nodes += ["light = Div (index4, many)", "bright = Add (plain, light)", "dim = Mul (bright, half)"]
        nodes += ["a = Unsqueeze (bright, two)", "b = Unsqueeze (dim, two)", "pair = Concat <axis=2> (a, b)"]
        nodes += ["doubled = Reshape (pair, frames_shape)", "kept = Gather <axis=1> (doubled, shown)"]
        shade = "plain" if self.decoder == "framewise" else "kept" if whole else "bright" if made == 1 else "doubled"
        nodes += [
            f"spaced = Unsqueeze ({shade}, spread)", "rgb = Reshape (W_RGB, rgb_shape)", "tinted = Mul (spaced, rgb)",
            "tiled = Expand (tinted, tiles)", "pixels = Reshape (tiled, video_shape)",
            "video = Clip (pixels, zero, one)",
        ]  # fmt: skip
        return nodes


def _save(path: Path, nodes: list[str], inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    types = {"float32": 1, "int64": 7, "float16": 10}
    graph = onnx.parser.parse_graph("toy () => () {\n" + "\n".join([*NUMBERS, *nodes]) + "\n}")
    used = set()
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_RENAMED.get(name, name) for name in names]
        used |= set(node.input)
    for ports, declared in ((graph.input, inputs), (graph.output, outputs)):
        for name, (dtype, shape) in declared.items():
            ports.append(onnx.helper.make_tensor_value_info(name, types[dtype], shape))
    if "taps" in used:
        graph.initializer.extend(external(path.with_name(_WEIGHTS), used))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, path)


_POLICY_FILES = ("policy.json", "policy.safetensors", "signals.onnx")
_SIGNALS = [
    "size = Abs (state_out)", "axes = Constant <value_ints=[0, 2, 3, 4, 5]> ()",
    "mean = ReduceMean <keepdims=0> (size, axes)", "signal = Unsqueeze (mean, i1)",
]  # fmt: skip
_GAIN = ["real = Cast <to=1> (style)", "gain = Unsqueeze (real, i1)"]
_STEP = [
    "s = Slice (coefficients, i0, i1)", "a = Slice (coefficients, i1, i2)", "b = Slice (coefficients, i2, i3)",
    "five = Constant <value_ints=[-1, 1, 1, 1, 1]> ()", "g5 = Reshape (gain, five)", "sx = Mul (s, state)",
    "o = Add (sx, g5)", "ax = Mul (a, state)", "bo = Mul (b, o)", "state_out = Add (ax, bo)",
]  # fmt: skip

"""Play a bundle with ONNX Runtime alone, as runtime/BUNDLE.md says: for those who write a reader in another language.

    soda-export build --model digits --budget 17
    python examples/player.py engines/digits-b17-ort 3 1 4

It takes bundles of classes and samplers without noise between steps, and checks nothing: soda_runtime does.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

TYPES = {"float32": np.float32, "float16": np.float16}


def play(folder: Path, labels: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Classes int64 [B] and noise float32 [B, *X] -> latents float32 [B, *X]."""
    manifest = json.loads((folder / "manifest.json").read_text())
    tables, slots = load_file(folder / manifest["tables"]), {slot["name"]: slot for slot in manifest["slots"]}
    per_step = {tensor["name"] for tensor in manifest["tensors"] if tensor["per_step"]}
    batch, rows = len(labels), len(labels) * manifest["rows_per_sample"]
    engines = {}

    def run(file: str, feeds: dict) -> dict:
        engines.setdefault(file, onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"]))
        names = [output.name for output in engines[file].get_outputs()]
        return dict(zip(names, engines[file].run(names, feeds), strict=True))

    def place(name: str, offset: int) -> np.ndarray:  # section 7: a slot's part of the arena
        slot = slots[name.partition("@")[0]]
        shape, dtype = (rows, *slot["shape"]), TYPES[slot["dtype"]]
        return np.frombuffer(arena, dtype, int(np.prod(shape)), offset * batch).reshape(shape)

    (port,) = manifest["ports"]
    given = {port["name"]: np.append(labels, [port["null_class"]] * (rows - batch)).astype(np.int64)}  # section 8.2
    for program in manifest["prepare"]:  # section 8.1, all steps in one window
        feeds = {name: given[name] for name in program["inputs"]} | {name: tables[name] for name in program["tables"]}
        given |= run(program["file"], feeds)
    arena = bytearray(manifest["arena"]["bytes"] * batch)
    state = np.zeros((manifest["sampler"]["state_size"], *noise.shape), np.float32)
    state[0] = noise * np.float32(manifest["sampler"]["initial_scale"])
    for i, step in enumerate(manifest["steps"]):
        program = manifest["programs"][step["program"]]
        feeds = {"state": state, "coefficients": tables["coefficients"][i]}
        feeds |= {name: given[name][i] if name in per_step else given[name] for name in program["inputs"]}
        if manifest["rows_per_sample"] == 2:
            feeds["guidance"] = np.array([manifest["guidance"]], np.float32)
        feeds |= {f"cache.{n}": place(n, o) for n, o in zip(program["reads"], step["read_offsets"], strict=True)}
        made = run(program["file"], feeds)
        state = made["state_out"]
        for name, offset in zip(program["writes"], step["write_offsets"], strict=True):
            place(name, offset)[...] = made[f"cache_out.{name}"]
    return state[0]


if __name__ == "__main__":
    folder, labels = Path(sys.argv[1]), np.array(sys.argv[2:], np.int64)
    shape = json.loads((folder / "manifest.json").read_text())["model"]["latent_shape"]
    latents = play(folder, labels, np.random.default_rng(0).standard_normal((len(labels), *shape), np.float32))
    print(latents.shape, latents.mean(), latents.std())

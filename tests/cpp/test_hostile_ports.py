"""Manifests that lie about ports, encoders, slots and results are refused by both runtimes; unusual ones open."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from soda_runtime import Bundle, BundleError

from tests.runtime.bundles import Json, both, edit_manifest, put

from .library import Library
from .ports_toy import LATENTS, PORTS, PortsToy
from .test_ports import EMBEDS, SAMPLES, given

PREPARE = {"file": "encoder-a.onnx", "weights": "", "tables": [], "inputs": ["ids_a"], "outputs": ["text"]}
LIES: dict[str, Callable[[Json], object]] = {
    "no port of token ids for a tokenizer": put("ports", 2, value=PORTS[3] | {"name": "other"}),
    "two ports of token ids for a tokenizer": put("ports", 2, "tokenizer", value=0),
    "a tokenizer that is not there": put("ports", 1, "tokenizer", value=2),
    "token ids of another length": put("ports", 0, "shape", value=[5]),
    "a label with an axis": put("ports", 8, "shape", value=[1]),
    "an embedding without axes": put("ports", 4, "shape", value=[]),
    "an embedding of ints": put("ports", 4, "dtype", value="int64"),
    "a hint without axes": put("ports", 5, "shape", value=[]),
    "a hint of ints": put("ports", 5, "dtype", value="int64"),
    "a hint with a tokenizer": put("ports", 5, "tokenizer", value=0),
    "a mask of floats": put("ports", 6, "dtype", value="float32"),
    "a scalar whose default is too large": put("ports", 7, "default", value=2.5),
    "a scalar whose bounds cross": put("ports", 7, "least", value=0.75),
    "a scalar with a tokenizer": put("ports", 7, "tokenizer", value=0),
    "a label without classes": put("ports", 8, "num_classes", value=0),
    "a port of an unknown kind": put("ports", 8, "kind", value="image"),
    "a port named state": put("ports", 6, "name", value="state"),
    "a port named video": both(put("ports", 6, "name", value="video"), put("prepare", 1, "inputs", 3, value="video")),
    "a port and a tensor of one name": both(
        put("ports", 6, "name", value="gain"), put("prepare", 1, "inputs", 3, value="gain")
    ),
    "a port named twice": both(put("ports", 6, "name", value="hint"), put("prepare", 1, "inputs", value=["hint"])),
    "65 ports": lambda m: m["ports"].extend(PORTS[5] | {"name": f"p{i}"} for i in range(56)),
    "an encoder that takes masks alone": put("prepare", 2, "inputs", value=["mask_a"]),
    "an encoder that makes a label": put("prepare", 2, "outputs", value=["text", "style"]),
    "an encoder that makes a tensor, too": put("prepare", 2, "outputs", value=["text", "gain"]),
    "an encoder of what another makes": put("prepare", 2, "inputs", value=["ids_a", "pooled"]),
    "an encoder that takes a tensor": put("prepare", 2, "inputs", value=["ids_a", "gain"]),
    "an encoder with tables": put("prepare", 2, "tables", value=["some"]),
    "a port made twice": lambda m: m["prepare"].append(PREPARE | {"file": "gain.onnx"}),
    "token ids that a step takes": put("programs", 0, "inputs", value=["gain", "ids_a"]),
    "token ids that a program of the request takes": put("prepare", 1, "inputs", 0, value="ids_a"),
    "token ids that nothing takes": put("prepare", 0, "inputs", value=["ids_a"]),
    "weights that are not listed": put("programs", 0, "weights", value="tables.safetensors"),
    "no key weights": lambda m: m["programs"][0].pop("weights"),
    "a slot of an odd name": put("slots", 0, "name", value="Mid.attn"),
    "a slot of output 0": put("slots", 1, "name", value="mid.attn#0"),
    "a slot named twice": put("slots", 1, "name", value="mid.attn"),
    "a slot without axes": put("slots", 1, "shape", value=[]),
    "a slot of seven axes": put("slots", 1, "shape", value=[1] * 7),
    "a slot beyond 2^34 values": put("slots", 0, "shape", value=[1 << 20, 1 << 15]),
    "a slot of ints": put("slots", 1, "dtype", value="int64"),
    "a larger slot in the same places": put("slots", 0, "shape", value=[2, 3, 2, 3]),
    "a read of age 3": put("programs", 2, "reads", 0, value="mid.attn@3"),
    "a read of age 0": put("programs", 2, "reads", 1, value="mid.attn@0"),
    "a write with an age": put("programs", 0, "writes", 0, value="mid.attn@1"),
    "an age spelt as in version 4": put("programs", 2, "reads", 0, value="mid.attn.1"),
    "a read of what was not written yet": put("steps", 1, "program", value=2),
    "the older value where the newer one is": put("steps", 3, "read_offsets", value=[256, 0]),
    "a small slot inside a large one": put("steps", 0, "write_offsets", value=[0, 0]),
    "an arena that is too small": put("arena", "bytes", value=512),
    "an arena that is too large": put("arena", "bytes", value=256 * 7),
    "a key of version 4": put("arena", "slot_bytes", value=256),
    "latents without axes": put("model", "latent_shape", value=[]),
    "latents of five axes": put("model", "latent_shape", value=[1] * 5),
    "pixels of four axes": put("model", "output", value="pixels"),
    "too many sites": put("model", "sites", value=(1 << 20) + 1),
    "no frames a second": put("finish", 0, "frames_per_second", value=0),
    "a video of three axes": put("finish", 0, "shape", value=[3, 2, 2]),
    "a video with a sample rate": put("finish", 0, "sample_rate", value=1),
    "calls that leave a latent frame over": both(
        put("finish", 0, "latent_frames", value=2), put("finish", 0, "frames", value=2)
    ),
    "a call without its frames": lambda m: m["finish"][0].pop("frames"),
    "a carry named twice": put("finish", 0, "carry", value=[{"name": "a", "dtype": "float32", "shape": [1]}] * 2),
    "a first call that takes everything": put(
        "finish", 0, "first", value=[{"file": "one.json", "latent_frames": 3, "frames": 3}]
    ),
    "a finish program of an unknown kind": put("finish", 0, "kind", value="text"),
    "a tokenizer of no tokens": put("tokenizers", 1, "max_tokens", value=0),
    "a tokenizer that cleans otherwise": put("tokenizers", 1, "clean", value="lower"),
    "a padding below -1": put("tokenizers", 1, "pad_id", value=-2),
    "a tokenizer's file that is not listed": put("tokenizers", 1, "file", value="three.json"),
    "one file for two tokenizers": put("tokenizers", 1, "file", value="one.json"),
}
TRUTHS: dict[str, Callable[[Json], object]] = {
    "as it was written": lambda m: None,
    "the largest arena": put("arena", "bytes", value=256 * 6),
    "a smaller slot": put("slots", 0, "shape", value=[1]),
    "a name of ninety-six characters": lambda m: m["slots"].append(m["slots"][1] | {"name": "_" * 96 + "#9"}),
    "a port that nothing takes": lambda m: m["ports"].append(PORTS[7] | {"name": "negative_hint"}),
    "a baseline that takes ports": put("programs", 3, "inputs", value=["gain", "hint", "text"]),
    "an int in place of a float": put("finish", 0, "frames_per_second", value=24),
}


@pytest.mark.parametrize("change", LIES.values(), ids=LIES.keys())
def test_a_manifest_of_ports_and_slots_that_lies_is_refused(
    library: Library, tmp_path: Path, change: Callable[[Json], object]
) -> None:
    folder = PortsToy().write(tmp_path / "toy")
    edit_manifest(folder, change)
    with pytest.raises(BundleError, match=re.escape(f"{folder / 'manifest.json'}: ")):
        library.open(folder, backend="null")
    with pytest.raises(BundleError):
        Bundle.open(folder, backend="null")


@pytest.mark.parametrize("change", TRUTHS.values(), ids=TRUTHS.keys())
def test_a_manifest_of_ports_and_slots_that_is_only_unusual_opens(
    library: Library, tmp_path: Path, change: Callable[[Json], object]
) -> None:
    folder = PortsToy().write(tmp_path / "toy")
    edit_manifest(folder, change)
    latents = library.open(folder, backend="null").session().generate(ports=given(EMBEDS), seed=1)
    assert latents.shape == (SAMPLES, *LATENTS)
    Bundle.open(folder, backend="null")

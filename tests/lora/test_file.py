"""A LoRA file is read whole, or refused in one line that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import RequestError
from soda_runtime.lora.file import read_lora

from .files import factors, kohya, peft, write

LAYER = {"blocks.0.to_q": (6, 4)}


def one(**more: Any) -> dict[str, Any]:
    return {**peft(LAYER), **more}


@pytest.mark.parametrize("ending", ["lora_A.weight", "lora_down.weight", "lora.down.weight", "lora_A.default.weight"])
def test_factors_are_found_under_every_ending(ending: str, tmp_path: Path) -> None:
    down, up = factors((6, 4))
    other = ending.replace("lora_A", "lora_B").replace("down", "up")
    (layer,) = read_lora(write(tmp_path / "a.safetensors", {f"x.{ending}": down, f"x.{other}": up})).layers
    assert (layer.name, layer.scale) == ("x", 1.0)
    assert np.array_equal(layer.up.values() @ layer.down.values(), up @ down)


def test_the_scale_is_alpha_by_rank_from_whoever_states_it(tmp_path: Path) -> None:
    def scale(path: Path) -> float:
        return read_lora(path).layers[0].scale

    assert scale(write(tmp_path / "a.safetensors", kohya(LAYER, alpha=3.0))) == 1.5
    settings = {"transformer.lora_alpha": 8, "transformer.r": 2, "transformer.use_rslora": False}
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    assert scale(write(tmp_path / "b.safetensors", peft(LAYER, "transformer."), metadata)) == 4.0
    write(tmp_path / "adapter_model.safetensors", one())
    config = {"lora_alpha": 4, "r": 2, "alpha_pattern": {}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert scale(tmp_path) == 2.0
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    assert scale(tmp_path) == pytest.approx(4 / 2**0.5)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "alpha_pattern": {"to_q": 6}}))
    assert scale(tmp_path) == 3.0


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_factors_of_other_floats_are_widened(dtype: Any, tmp_path: Path) -> None:
    down, up = (each.astype(dtype) for each in factors((6, 4)))
    (layer,) = read_lora(write(tmp_path / "a.safetensors", {"x.lora_A.weight": down, "x.lora_B.weight": up})).layers
    assert np.array_equal(layer.down.values(), down.astype(np.float32))


DOWN, UP = factors((6, 4))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": (one(**{"x.dora_scale": DOWN}), "DoRA"),
    "dora-peft": (one(**{"x.lora_magnitude_vector.weight": DOWN}), "DoRA"),
    "loha": ({"x.hada_w1_a": DOWN}, "LoHa"), "lokr": ({"x.lokr_w1": DOWN}, "LoKr"),
    "three": (one(**{"x.lora_mid.weight": DOWN}), "three factors"), "diff": (one(**{"x.diff": DOWN}), "differences"),
    "bias": (one(**{"blocks.0.to_q.lora_B.bias": DOWN}), "biases"), "strange": (one(**{"y.z": DOWN}), "no part"),
    "checkpoint": ({"model.diffusion_model.conv.weight": DOWN}, "not a LoRA"), "empty": ({}, "not a LoRA"),
    "lone-down": ({"x.lora_A.weight": DOWN}, "second factor"),
    "lone-up": (one(**{"y.lora_B.weight": UP}), "second factor"),
    "ranks": ({"x.lora_A.weight": DOWN, "x.lora_B.weight": UP[:, :1]}, "do not go together"),
    "axes": ({"x.lora_A.weight": DOWN, "x.lora_B.weight": UP[..., None]}, "do not go together"),
    "int": ({"x.lora_A.weight": DOWN.astype(np.int8), "x.lora_B.weight": UP}, "I8"),
    "twice": (one(**{"base_model.model.blocks.0.to_q.lora_down.weight": DOWN}), "twice"),
    "alpha": ({**kohya(LAYER), "lora_unet_blocks_0_to_q.alpha": DOWN}, "alpha"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_lora_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    tensors, words = REFUSED[name]
    path = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(RequestError) as caught:
        read_lora(path)
    assert str(caught.value).startswith(f"lora {path}: ")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "old.bin").write_bytes(b"")
    refused = {"broken.safetensors": "not a whole", "old.bin": "pickled", "none": "no such", "": "neither"}
    for name, words in refused.items():
        with pytest.raises(RequestError, match=words):
            read_lora(tmp_path / name)

"""diffusers' calls for LoRA, and lora=, on SodaPipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from soda_runtime import RequestError, Session

from soda_export.pipelines import SodaPipeline
from tests.lora.files import peft, write
from tests.runtime.bundles import GOLDEN_V5_SIZES

LAYERS = {"transformer_blocks.0.attn1.to_q": (48, 48), "transformer_blocks.0.ff.net.2": (48, 192)}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for number, (name, layer) in enumerate(zip(("style", "sketch"), LAYERS, strict=True), 4):
        tensors = {key: number * value for key, value in peft({layer: LAYERS[layer]}).items()}
        found[name] = write(tmp_path / f"{name}.safetensors", tensors)
    return found


def drawn(pipe: SodaPipeline, **more: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    return pipe("red", generator=generator, output_type="latent", **more).images.numpy()


def test_adapters_are_loaded_named_and_weighed_as_in_diffusers(files: dict[str, Path]) -> None:
    pipe = SodaPipeline.from_bundle(GOLDEN_V5_SIZES, threads=1)
    pipe.set_progress_bar_config(disable=True)
    plain = drawn(pipe)

    def expected(*lora: tuple[Path, float]) -> Any:
        given = SodaPipeline.from_bundle(GOLDEN_V5_SIZES, threads=1, lora=lora)
        given.set_progress_bar_config(disable=True)
        assert given.get_active_adapters() == [f"default_{number}" for number in range(len(lora))]
        return drawn(given)

    pipe.load_lora_weights(files["style"])
    assert pipe.get_active_adapters() == ["default_0"]
    assert np.array_equal(drawn(pipe), expected((files["style"], 1.0)))
    pipe.load_lora_weights(files["sketch"].parent, weight_name="sketch.safetensors", adapter_name="sketch")
    assert pipe.get_active_adapters() == ["sketch"]  # the last one alone, until set_adapters says otherwise
    assert np.array_equal(drawn(pipe), expected((files["sketch"], 1.0)))
    pipe.set_adapters(["sketch", "default_0"], adapter_weights=[0.5, -0.25])
    both = drawn(pipe)
    assert np.array_equal(both, expected((files["style"], -0.25), (files["sketch"], 0.5)))
    assert np.abs(both - plain).max() > 1e-3
    assert drawn(pipe, height=8, width=24).shape[-2:] == (4, 12)
    pipe.unload_lora_weights()
    assert np.array_equal(drawn(pipe), plain)


def test_what_a_bundle_cannot_load_is_refused_in_one_line(files: dict[str, Path]) -> None:
    pipe = SodaPipeline(Session.open(GOLDEN_V5_SIZES, backend="null"))
    pipe.load_lora_weights(str(files["style"]), adapter_name="style")
    for call, message in (
        (lambda: pipe.load_lora_weights("author/style"), "author/style is not here"),
        (lambda: pipe.load_lora_weights({"a": torch.zeros(1)}), "takes LoRA from files"),
        (lambda: pipe.load_lora_weights(files["sketch"], adapter_name="style"), "'style' is loaded already"),
        (lambda: pipe.load_lora_weights(files["sketch"], hotswap=True), "hotswap has no effect"),
        (lambda: pipe.set_adapters("other"), "'other' is not loaded; loaded: style"),
        (lambda: pipe.set_adapters("style", [1.0, 2.0]), "1 names and 2 weights"),
        (lambda: pipe.set_adapters("style", {"unet": 1.0}), "one weight for all parts"),
    ):
        with pytest.raises(RequestError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)
    assert pipe.get_active_adapters() == ["style"]

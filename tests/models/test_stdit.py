"""STDiT3 gives what Open-Sora's own code gave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from soda_export.models.own.stdit import STDiT3
from tests.models.stdit_cases import CASES, fill, inputs

_GOLDEN = Path(__file__).parents[1] / "data" / "stdit"


def _module(name: str) -> STDiT3:
    config = {key: value for key, value in CASES[name].config.items() if key not in STDiT3.idle_settings}
    model = STDiT3(**config).eval()
    fill(model)
    return model


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_it_gives_what_the_release_gives(name: str) -> None:
    output = _module(name)(**inputs(CASES[name]), return_dict=False)[0]
    golden = load_file(_GOLDEN / f"{name}.safetensors")["output"]
    torch.testing.assert_close(output, golden, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "argument", ["timestep", "encoder_hidden_states", "encoder_attention_mask", "fps", "height", "is_negative"]
)
@torch.no_grad()
def test_the_golden_outputs_depend_on_each_argument(argument: str) -> None:
    given = inputs(CASES["tiny"])
    given[argument] = given[argument].flip(0) if len(given[argument]) > 1 else given[argument] * 1.1
    if argument == "encoder_attention_mask":
        given[argument] = torch.ones_like(given[argument])
    golden = load_file(_GOLDEN / "tiny.safetensors")["output"]
    assert (_module("tiny")(**given, return_dict=False)[0] - golden).abs().max() > 1e-2

"""Wan: the module is called as diffusers' pipeline does; sizes, what is refused, and its schedulers."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from soda_export.errors import ModelError
from soda_export.models.load import ModelRequest, load_model
from soda_export.sampler import make_scheduler, own_sampler
from tests.models.test_families import predict, random_inputs
from tests.tiny_models import plain_wan, save_tiny_wan

CLIP = {"size": ("32x48",), "frames": 9}


@torch.no_grad()
@pytest.mark.parametrize("config", [{}, {"cross_attn_norm": False, "rope_max_seq_len": 64}])
def test_a_wan_is_called_as_its_pipeline_does(config: dict[str, object], tmp_path: Path) -> None:
    folder = save_tiny_wan(tmp_path / "model", **config)
    loaded = load_model(ModelRequest(str(folder), **CLIP))
    assert loaded.spec.latent_shape == loaded.spec.prediction_shape == (4, 3, 4, 6)
    assert loaded.fps == 16
    latents, inputs = random_inputs(loaded, 2)
    expected = plain_wan(folder)(latents, torch.full((2,), 750), inputs["embeds"]).sample
    torch.testing.assert_close(predict(loaded, latents, 750.0, inputs), expected, rtol=1e-5, atol=1e-5)


def test_sites_of_a_wan_are_its_attentions_and_its_feed_forward(tmp_path: Path) -> None:
    spec = load_model(ModelRequest(str(save_tiny_wan(tmp_path / "model")), **CLIP)).spec
    kinds = {kind: len(numbers) for kind, numbers in spec.kinds.items()}
    assert kinds == {"attn": 2, "cross_attn": 2, "ff": 2, "stack": 1}
    assert {site.kind: site.tokens for site in spec.sites} == {"attn": 0, "cross_attn": 18, "ff": 18, "stack": 0}


def test_a_clips_size_is_the_users(tmp_path: Path) -> None:
    folder = str(save_tiny_wan(tmp_path / "model"))
    usual, square = load_model(folder), load_model(ModelRequest(folder, image_size=32, frames=1, fps=8.0))
    assert usual.spec.latent_shape == (4, 21, 60, 104)
    assert (square.spec.latent_shape, square.fps) == ((4, 1, 4, 4), 8.0)
    assert usual.spec.hash != square.spec.hash
    for request, message in (
        (ModelRequest(folder, frames=8), "--frames 8: the autoencoder makes 1 \\+ a multiple of 4"),
        (ModelRequest(folder, frames=0), "--frames 0: a clip has at least one"),
        (ModelRequest(folder, size=("32x40",)), "--size 32x40: must be a multiple of 16 pixels"),
        (ModelRequest(folder, fps=0.0), "--fps 0: must be within"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(request)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_dim": 8, "added_kv_proj_dim": 48}, "starts from a picture"),
        ({"in_channels": 8}, "starts from a picture"),
        ({"patch_size": (2, 2, 2)}, r"patch_size=\[2, 2, 2\]"),
    ],
)
def test_a_wan_of_another_task_is_refused(config: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = save_tiny_wan(tmp_path / "model", **config)
    with pytest.raises(ModelError, match=rf"config\.json: .*{message}"):
        load_model(ModelRequest(str(folder), **CLIP))


def test_a_pair_of_transformers_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_wan(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"transformer_2": [None, None]}))
    load_model(ModelRequest(str(folder), **CLIP))
    pair = {"transformer_2": ["diffusers", "WanTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index | pair))
    with pytest.raises(ModelError, match="pairs of transformers"):
        load_model(ModelRequest(str(folder), **CLIP))


def test_a_unipc_flow_is_its_own_sampler_and_euler_has_its_shift(tmp_path: Path) -> None:
    config = load_model(ModelRequest(str(save_tiny_wan(tmp_path / "model")), **CLIP)).scheduler_config
    assert own_sampler(config) == "unipc"
    schedules = {}
    for sampler in ("unipc", "flow-unipc", "flow-euler"):
        scheduler = make_scheduler(sampler, config)
        scheduler.set_timesteps(4)
        schedules[sampler] = np.array(scheduler.sigmas)
    np.testing.assert_array_equal(schedules["unipc"], schedules["flow-unipc"])
    expected = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected.set_timesteps(4)
    np.testing.assert_array_equal(schedules["flow-euler"], np.array(expected.sigmas))

"""Map files: read strictly, and refused with one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from soda_export.errors import PlanError
from soda_export.models.spec import ModelSpec
from soda_export.plan.prior import uniform_map
from soda_export.plan.sensitivity import MAX_INTERVAL, half_agreement, map_bytes, read_map
from tests.plan.problems import FLUX_TOY, NESTED, TOY, made_up_map, random_map

ARRAYS = ("reuse_error", "reuse_spread", "prune_error", "prune_spread", "stability")
each_model = pytest.mark.parametrize("spec", [TOY, FLUX_TOY, NESTED], ids=lambda spec: spec.name)


@each_model
def test_a_map_survives_its_file(spec: ModelSpec, tmp_path: Path) -> None:
    given = made_up_map(spec, "ddim", 12, 1.5)
    path = tmp_path / "map.safetensors"
    path.write_bytes(map_bytes(given))
    again = read_map(path)
    assert again.info == given.info
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(given, name))
    assert map_bytes(again) == map_bytes(given)


def changed(tmp_path: Path, info: dict[str, object], arrays: dict[str, np.ndarray]) -> Path:
    path = tmp_path / "map.safetensors"
    path.write_bytes(map_bytes(random_map(TOY, 12)))
    with safe_open(str(path), "np") as file:
        head = json.loads(file.metadata()["info"])
        known = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path.write_bytes(save({**known, **arrays}, metadata={"info": json.dumps({**head, **info})}))
    return path


SHAPE = (12, 9, MAX_INTERVAL)


@pytest.mark.parametrize(
    ("info", "arrays", "message"),
    [
        ({"version": 2}, {}, "a map of version 2, by layers and modules, is not read any more; profile again"),
        ({"version": 4}, {}, "version 4, expected 'soda-map' version 3"),
        ({"samples": 0}, {}, "samples 0 is outside 1 .. "),
        ({"samples": -1}, {}, "samples -1 is outside 1 .. "),
        ({"guidance": -1.0}, {}, "guidance -1 is outside 0 .. "),
        ({"seed": -1}, {}, "seed -1 is outside 0 .. "),
        ({"samples": True}, {}, "Expected `int`, got `bool`"),
        ({"samples": 1.5}, {}, "Expected `int`, got `float`"),
        ({}, {"reuse_error": np.zeros(SHAPE, np.int64)}, "reuse_error is int64, not float32"),
        ({}, {"reuse_error": np.zeros(SHAPE, bool)}, "reuse_error is bool, not float32"),
        ({}, {"reuse_error": np.zeros((12, 8, 9), np.float32)}, "reuse_error is (12, 8, 9), not (12, 9, 9)"),
        ({}, {"reuse_error": np.full(SHAPE, -1, np.float32)}, "reuse_error has numbers outside 0 .. "),
        ({}, {"reuse_spread": np.full(SHAPE, np.inf, np.float32)}, "reuse_spread has numbers outside 0 .. "),
        ({}, {"stability": np.full(MAX_INTERVAL, 2, np.float32)}, "stability has numbers outside -1 .. 1"),
        ({}, {"hidden_error": np.zeros(3, np.float32)}, "it holds hidden_error, prune_error"),
    ],
)
def test_what_is_no_map_is_refused(
    tmp_path: Path, info: dict[str, object], arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(PlanError) as raised:
        read_map(changed(tmp_path, info, arrays))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file"):
        read_map(tmp_path / "map.safetensors")
    (tmp_path / "map.safetensors").write_bytes(b"nothing")
    with pytest.raises(PlanError, match="not a sensitivity map"):
        read_map(tmp_path / "map.safetensors")


def test_the_mean_leaves_the_stack_out_and_cems_prior_is_the_stack() -> None:
    given = random_map(TOY, 12)
    one = given.reuse_error[1:, :, 0]
    np.testing.assert_allclose(given.mean_reuse_error()[1:, 0], one[:, :8].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(given.mean_reuse_error([2, 3])[1:, 0], one[:, 2:4].mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(given.hidden_error, given.reuse_error[:, 8])
    with pytest.raises(PlanError, match="nested has no stack"):
        _ = made_up_map(NESTED, "ddim", 12, 1.5).hidden_error


def test_halves_that_rank_places_alike_agree() -> None:
    a, b = (random_map(TOY, 30, seed=seed).reuse_error.astype(np.float64) for seed in (1, 2))
    assert half_agreement(a, 2.0 * a) == pytest.approx(np.ones(MAX_INTERVAL))
    assert np.abs(half_agreement(a, b)).max() < 0.5


@each_model
def test_a_uniform_map_is_a_map_whose_errors_grow_with_distance_alone(spec: ModelSpec, tmp_path: Path) -> None:
    given = uniform_map(spec, "ddim", 20, 1.5)
    path = tmp_path / "map.safetensors"
    path.write_bytes(map_bytes(given))
    assert read_map(path).info.sampler.steps == 20
    late = given.reuse_error[MAX_INTERVAL:]
    assert (late == late[:1, :1]).all()
    assert (np.diff(late[0, 0]) > 0).all()
    assert np.isnan(given.reuse_error[3, 0, 3])
    renewable = np.array([site.tokens > 0 for site in spec.sites])
    assert np.isfinite(given.prune_error[10][renewable]).all()
    assert np.isnan(given.prune_error[10][~renewable]).all()

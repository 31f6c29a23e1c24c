"""Requests that do not fit the bundle are refused before anything changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, Embeds, Noise, RequestError, Session

from .bundles import LABELS, SHAPE, STEPS, Latents, golden_noise


def _zeros(*shape: int) -> Latents:
    return np.zeros(shape, np.float32)


WRONG: dict[str, dict[str, Any]] = {
    "a negative label": {"labels": -1},
    "a label beyond the classes": {"labels": 10},
    "one wrong label of two": {"labels": [3, 10]},
    "no labels": {"labels": []},
    "a batch of another size than the labels": {"labels": [3, 7], "batch": 3},
    "a batch of a million": {"labels": 3, "batch": 10**6},
    "a negative batch": {"labels": 3, "batch": -1},
    "a fractional label": {"labels": [3.7]},
    "a label that is not a number": {"labels": [float("nan")]},
    "digits in a string": {"labels": "37"},
    "no labels at all": {"labels": None},
    "nested labels": {"labels": [[3]]},
    "a fractional seed": {"labels": 3, "seed": 1.5},
    "guidance that is not a number": {"labels": 3, "guidance": float("nan")},
    "infinite guidance": {"labels": 3, "guidance": float("inf")},
    "infinite guidance of half precision": {"labels": 3, "guidance": np.float16("inf")},
    "guidance beyond float64": {"labels": 3, "guidance": 10**400},
    "a negative seed": {"labels": 3, "seed": -1},
    "a seed beyond 64 bits": {"labels": 3, "seed": 2**64},
    "noise of another batch": {"labels": 3, "noise": Noise(_zeros(2, *SHAPE), _zeros(STEPS, 1, *SHAPE))},
    "noise of another latent shape": {"labels": 3, "noise": Noise(_zeros(1, 1, 8, 9), _zeros(STEPS, 1, *SHAPE))},
    "noise without a batch axis": {"labels": 3, "noise": Noise(_zeros(*SHAPE), _zeros(STEPS, 1, *SHAPE))},
    "no noise for the steps": {"labels": 3, "noise": Noise(_zeros(1, *SHAPE))},
    "noise for fewer steps": {"labels": 3, "noise": Noise(_zeros(1, *SHAPE), _zeros(STEPS - 1, 1, *SHAPE))},
    "step noise of another batch": {"labels": 3, "noise": Noise(_zeros(1, *SHAPE), _zeros(STEPS, 2, *SHAPE))},
    "labels in two rows": {"labels": np.array([[3, 7], [4, 8]])},
    "a fractional batch": {"labels": 3, "batch": 2.0},
    "a label of 5000 digits": {"labels": [10**5000]},
    "a seed of 5000 digits": {"labels": 3, "seed": 10**5000},
    "a batch of 5000 digits": {"labels": 3, "batch": 10**5000},
    "guidance of 5000 digits": {"labels": 3, "guidance": 10**5000},
    "labels and a prompt": {"labels": 3, "prompt": "a red circle"},
    "labels and a negative prompt": {"labels": 3, "negative_prompt": "blue"},
    "labels and embeddings": {"labels": 3, "embeds": Embeds(_zeros(1, 8, 16), np.ones((1, 8), np.int64))},
    "a prompt": {"prompt": "a red circle"},
    "embeddings": {"embeds": Embeds(_zeros(1, 8, 16), np.ones((1, 8), np.int64))},
    "noise in ragged lists": {"labels": 3, "noise": Noise([[1], [1, 2]], _zeros(STEPS, 1, *SHAPE))},  # type: ignore[arg-type]
    "noise that is infinite": {"labels": 3, "noise": Noise(_zeros(1, *SHAPE) + np.inf, _zeros(STEPS, 1, *SHAPE))},
    "noise of complex numbers": {"labels": 3, "noise": Noise(_zeros(1, *SHAPE) * 1j, _zeros(STEPS, 1, *SHAPE))},
    "guidance beyond float32": {"labels": 3, "guidance": 1e300},
    "guidance in a string": {"labels": 3, "guidance": "2"},
    "noise in an array": {"labels": 3, "noise": _zeros(1, *SHAPE)},
    "noise of strings": {"labels": 3, "noise": Noise(np.full((1, *SHAPE), "a"), _zeros(STEPS, 1, *SHAPE))},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_refused_before_anything_changes(null_bundle: Bundle, wrong: dict[str, Any]) -> None:
    session = null_bundle.session()
    session.start(LABELS, seed=3)
    session.step(0)
    playback, before = session.playback, [memory.read().copy() for memory in session.playback.memories()]
    with pytest.raises(RequestError) as caught:
        session.start(**wrong)
    assert str(caught.value).isprintable()
    assert session.playback is playback
    assert all(np.array_equal(memory.read(), old) for memory, old in zip(playback.memories(), before, strict=True))
    session.step(1)


def test_a_wrong_request_in_between_does_not_change_the_latents(session: Session) -> None:
    expected = session.generate(LABELS, seed=3)
    session.start(LABELS, seed=3)
    for i in range(STEPS):
        with pytest.raises(RequestError):
            session.start([3, 10], seed=4)
        session.step(i)
    assert np.array_equal(session.latents(), expected)


@pytest.mark.parametrize(
    ("guidance", "message"), [(2.0, "above 1"), (0.5, "no effect"), (float("nan"), "not a number")]
)
def test_guidance_is_refused_by_a_bundle_without_it(null_bundle: Bundle, guidance: float, message: str) -> None:
    null_bundle.manifest = replace(null_bundle.manifest, rows_per_sample=1, guidance=1.0)
    session = null_bundle.session()
    with pytest.raises(RequestError, match=message):
        session.start(3, guidance=guidance)
    session.generate(3, guidance=1.0)


def test_a_deterministic_sampler_ignores_noise_for_its_steps(null_bundle: Bundle) -> None:
    manifest = null_bundle.manifest
    null_bundle.manifest = replace(manifest, sampler=replace(manifest.sampler, stochastic=False))
    session = null_bundle.session()
    latents = session.generate(3, noise=golden_noise(1, 1))
    assert np.array_equal(latents, session.generate(3, noise=Noise(golden_noise(1, 1).initial)))


def test_noise_of_another_float_type_is_converted(session: Session) -> None:
    noise = golden_noise(5, 2)
    assert noise.steps is not None
    wide = Noise(noise.initial.astype(np.float64), noise.steps.astype(np.float64))
    assert np.array_equal(session.generate(LABELS, noise=wide), session.generate(LABELS, noise=noise))

"""Noise is the same everywhere: known answers of Philox4x32-10, literal float32 patterns, and independence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soda_runtime import RequestError
from soda_runtime.philox import INITIAL_STREAM, latent_noise, normal, philox4x32, step_noise

# Random123's kat_vectors for philox4x32-10: counter, key, answer
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
LITERAL_NORMALS = [
    ((0, 0, 0), "3f7dbb33 bf6cb6b0 bf1e1b9f bef6d1b2 be1d5357 3e392a6d 3f54ec98 3e4a2da3"),
    ((1234, 1, 1), "bff332d7 bea190ea bf0fd3c8 bf4feab8 3f123ba3 bdd004aa bfaaa4af 3f8860fe"),
    ((2**64 - 1, 7, 3), "bf37c2eb be4a09aa 3f4609f1 bdda6058 3f217fbd bf5d2837 3e92a341 3de05b94"),
    ((0x0123456789ABCDEF, 1, 2), "3d1ee3f0 3f17f0a9 bf038ef4 bee20277 be1c1b7f"),
]


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    low, high = _words(key)
    words = philox4x32(np.array([_words(counter)], np.uint32), (low, high))
    assert words.dtype == np.uint32
    assert words[0].tolist() == _words(answer)


def test_every_row_of_counters_is_independent_of_its_neighbours() -> None:
    counters = np.array([_words(counter) for counter, _, _ in KNOWN_ANSWERS], np.uint32)
    together = philox4x32(counters, (7, 9))
    alone = [philox4x32(counters[i : i + 1], (7, 9))[0] for i in range(len(counters))]
    assert np.array_equal(together, alone)


@pytest.mark.parametrize(("arguments", "patterns"), LITERAL_NORMALS)
def test_normals_have_these_literal_bit_patterns(arguments: tuple[int, int, int], patterns: str) -> None:
    expected = _words(patterns)
    values = normal(*arguments, len(expected))
    assert values.dtype == np.float32
    assert [f"{v:08x}" for v in values.view(np.uint32)] == [f"{v:08x}" for v in expected]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_normals_are_box_muller_of_the_specified_counters(seed: int, stream: int, row: int, count: int) -> None:
    expected: list[float] = []
    for block in range(-(-count // 4)):
        counter = np.array([[block, stream, row, 0]], np.uint32)
        words = philox4x32(counter, (seed % 2**32, seed // 2**32))[0].tolist()
        for first, second in (words[:2], words[2:]):
            radius, angle = math.sqrt(-2 * math.log((first + 1) / 2**32)), 2 * math.pi * second / 2**32
            expected += [radius * math.cos(angle), radius * math.sin(angle)]
    np.testing.assert_allclose(normal(seed, stream, row, count), expected[:count], rtol=1e-6, atol=1e-9)


def test_normals_have_mean_zero_and_variance_one() -> None:
    values = normal(42, INITIAL_STREAM, 0, 200_000).astype(np.float64)
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.01
    assert abs(values.var() - 1) < 0.02
    assert abs((values**3).mean()) < 0.05
    assert abs((values**4).mean() - 3) < 0.1


def test_rows_streams_and_seeds_are_uncorrelated() -> None:
    arguments = [(5, 0, 0), (5, 0, 1), (5, 1, 0), (6, 0, 0), (5 << 32, 0, 0)]
    samples = [normal(seed, stream, row, 20_000) for seed, stream, row in arguments]
    correlations = np.corrcoef(samples) - np.eye(len(samples))
    assert np.abs(correlations).max() < 0.03


def test_a_row_of_a_batch_is_the_same_row_computed_alone() -> None:
    batch = latent_noise(9, 4, 5, (3, 2, 7))
    assert batch.shape == (5, 3, 2, 7)
    for row in range(5):
        assert np.array_equal(batch[row].ravel(), normal(9, 4, row, 42))


@pytest.mark.parametrize("shape", [(2, 7), (3, 64, 64), (4, 128, 128)], ids=str)
def test_noise_of_many_steps_is_that_of_each_alone(shape: tuple[int, ...]) -> None:
    """However many of them are drawn at once."""
    noise = step_noise(2**63 + 9, range(3, 8), range(2), shape)
    assert noise.shape == (5, 2, *shape)
    assert np.array_equal(step_noise(2**63 + 9, range(3, 8), range(1, 2), shape), noise[:, 1:])
    for step in range(3, 8):
        for row in range(2):
            alone = normal(2**63 + 9, 1 + step, row, math.prod(shape))
            assert np.array_equal(noise[step - 3, row].ravel(), alone)


def test_a_larger_batch_keeps_the_rows_of_a_smaller_one() -> None:
    assert np.array_equal(latent_noise(9, 0, 7, (1, 4, 4))[:3], latent_noise(9, 0, 3, (1, 4, 4)))


def test_a_longer_row_begins_with_the_shorter_one() -> None:
    for count in range(1, 12):
        assert np.array_equal(normal(1, 2, 3, count), normal(1, 2, 3, 100)[:count])


def test_both_halves_of_the_seed_matter() -> None:
    drawn = {normal(seed, 0, 0, 4).tobytes() for seed in (0, 1, 1 << 31, 1 << 32, 1 << 63, 2**64 - 1)}
    assert len(drawn) == 6


@pytest.mark.parametrize("seed", [-1, 2**64, -(2**64), 10**40])
def test_a_seed_outside_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(RequestError, match="seed"):
        normal(seed, 0, 0, 4)

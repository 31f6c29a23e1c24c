"""How many samples fit into the time, from how long a model call takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from soda_export.search.best import affordable_samples


class FakeTrials:
    """Calls of `fixed` seconds and `each` a sample; 10 steps."""

    class sampler:  # noqa: N801
        steps = 10

    def __init__(self, samples: Sequence[int], fixed: float, each: float) -> None:
        self.samples, self.fixed, self.each = samples, fixed, each

    def with_samples(self, samples: Sequence[int]) -> FakeTrials:
        return FakeTrials(samples, self.fixed, self.each)

    def seconds_a_call(self) -> float:
        return self.fixed + self.each * len(self.samples)


@pytest.mark.parametrize(
    ("samples", "fixed", "each", "seconds", "expected"),
    [
        (16, 0.0, 0.01, 100.0, 16),
        (16, 0.05, 0.0, 5.0, 16),  # small models: many samples cost what one does
        (16, 0.0, 0.1, 100.0, 8),
        (16, 0.0, 1.0, 100.0, 1),
        (16, 0.0, 2.0, 100.0, 0),
        (5, 0.0, 0.01, 100.0, 5),
    ],
)
def test_what_fits_is_measured(samples: int, fixed: float, each: float, seconds: float, expected: int) -> None:
    trials: Any = FakeTrials(range(samples), fixed, each)
    assert affordable_samples(trials, seconds) == expected

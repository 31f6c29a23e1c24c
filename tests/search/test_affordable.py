"""How many samples fit into the time, from how long a model call takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from soda_export.errors import PlanError
from soda_export.options import ProfileOptions
from soda_export.plan.solve import PlanOptions
from soda_export.search import measuring
from soda_export.search.best import affordable_samples
from soda_export.search.trial import OutOfTime
from soda_export.workbench.components import ComponentMaker
from tests.conftest import OpenBench


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


@pytest.mark.parametrize(("fit", "texts"), [(0, []), (1, [2]), (4, [64])])
def test_no_more_texts_are_encoded_than_are_measured_with(
    fit: int, texts: list[int], open_text_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fit: samples that fit into the time, of 4. Where not all do, the 2 texts of profiling are enough."""
    bench, calibration, encoded = open_text_bench(steps=4), ProfileOptions(samples=2), []
    sensitivity, encode = bench.profile(calibration), ComponentMaker.encode

    def counted(self: ComponentMaker, given: list[str]) -> Any:
        encoded.append(len(given))
        return encode(self, given)

    def stop(*_: object, **__: object) -> None:
        raise OutOfTime

    monkeypatch.setattr(ComponentMaker, "encode", counted)
    monkeypatch.setattr(measuring, "affordable_samples", lambda *_: fit)
    monkeypatch.setattr(measuring, "search_best", stop)
    solved = measuring.plan_best(
        bench, sensitivity, PlanOptions(planner="best", flops_ratio=1.5, plan_samples=4), calibration
    )
    assert encoded == texts
    assert "soda" in solved.plan.made_by


def test_what_needs_time_to_measure_says_so(open_bench: OpenBench) -> None:
    """Beyond SODA's FLOPs ratios steps skip the model, by weights that are fitted."""
    bench = open_bench(steps=4)
    sensitivity = bench.profile(ProfileOptions(samples=2))
    options = PlanOptions(planner="best", flops_ratio=3.9, plan_seconds=0.0)
    with pytest.raises(PlanError, match=r"^--flops-ratio 3.9: this planner reaches .*; with time to measure.*"):
        measuring.plan_best(bench, sensitivity, options, ProfileOptions(samples=2))
    by_anchors = replace(options, flops_ratio=0.0, budget=1)
    with pytest.raises(PlanError, match=r"^--budget 1: ") as refused:
        measuring.plan_best(bench, sensitivity, by_anchors, ProfileOptions(samples=2))
    assert "--plan-seconds" not in str(refused.value)

"""Evenly spaced anchors for any number of them: periods that need not be whole."""

from __future__ import annotations


def offsets(steps: int, budget: int) -> tuple[int, ...]:
    """budget - 1 offsets 0, N, 2N, ... within the 0 .. steps - 2 that are left beside the first step.

    N is the largest whole period that gives so many, else the largest of all, its multiples rounded half to even.
    budget: 2 .. steps, or 1 where there is one step.
    """
    span, gaps = steps - 2, budget - 2
    if gaps < 1:
        return (0,) * (budget - 1)
    period = span // gaps
    if period * (gaps + 1) > span:  # one more multiple would not fit
        return tuple(j * period for j in range(gaps + 1))
    return tuple(round(j * span / gaps) for j in range(gaps + 1))


def evenly_spaced(steps: int, budget: int) -> tuple[int, ...]:
    """Round(i (S - 1) / (budget - 1)): the first and the last step, and others as evenly as whole steps allow."""
    if budget == 1:
        return (0,)
    return tuple(round(i * (steps - 1) / (budget - 1)) for i in range(budget))


def fewest_anchors(steps: int) -> int:
    """Two, the ends of the run; one where they are the same step."""
    return min(2, steps)

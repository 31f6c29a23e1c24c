"""What a step may do with a site, as one number. No torch.

    COMPUTE         everything
    k > 0           renew: compute k tokens and scatter them into the latest output
    REUSE = 0       the latest output as it is
    -1, -2          forecast it from the last computed ones, a Taylor expansion of that order (plan/forecast.py)
    IDLE            nothing: a site that contains it is not computed

A step that leaves every site idle is skipped: the model is not called, and the sampler goes on from what it remembers.
"""

from __future__ import annotations

from collections.abc import Sequence

COMPUTE = 1 << 24  # a name, not a token count: above any of them, so that more work is a larger number
REUSE = 0
IDLE = -(1 << 24)
MAX_ORDER = 2
"""Highest order of a forecast: it needs order + 1 computed outputs."""


def is_forecast(work: int) -> bool:
    """Whether it reads more than the latest output."""
    return -MAX_ORDER <= work < 0


def is_renewal(work: int) -> bool:
    """Whether it computes some of the tokens."""
    return 0 < work < COMPUTE


def is_skip(work: Sequence[int]) -> bool:
    """Whether a step does not call the model. work: [K], what it does with each site."""
    return all(does == IDLE for does in work)

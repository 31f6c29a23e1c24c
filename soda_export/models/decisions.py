"""What a step may do with a site, as one number. No torch.

    COMPUTE         everything
    k > 0           renew: compute k tokens and scatter them into the latest output
    REUSE = 0       the latest output as it is
    -1, -2          forecast it from the last computed ones, a Taylor expansion of that order (plan/forecast.py)
    IDLE            nothing: a site that contains it is not computed
"""

from __future__ import annotations

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

"""The policies by name."""

from __future__ import annotations

from typing import Literal, get_args

PolicyName = Literal["sada", "sada-paper", "easycache", "misfit"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
FIXED: tuple[PolicyName, ...] = ("sada", "sada-paper")
"""Those that nothing is calibrated for: how often they call the model follows from the samples."""

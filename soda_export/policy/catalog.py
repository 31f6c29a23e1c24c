"""The policies by name."""

from __future__ import annotations

from typing import Literal, get_args

PolicyName = Literal["sada", "sada-paper", "easycache", "misfit"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

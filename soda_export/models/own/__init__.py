"""Denoisers that diffusers does not have, as modules of ours: class name -> where it is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

OWN = {"STDiT3": "stdit"}
"""Class, as a configuration's `_class_name` or `model_type` has it -> module of this package."""


def denoiser_class(kind: str) -> Any:
    """The class of that name: ours where there is one, else diffusers'."""
    if kind in OWN:
        return getattr(importlib.import_module(f".{OWN[kind]}", __name__), kind)
    import diffusers

    return getattr(diffusers, kind)


def idle_settings(maker: Any) -> Mapping[str, Any]:
    """Settings of a class's configurations that change nothing in inference -> what they may be; None: anything."""
    found: Mapping[str, Any] = getattr(maker, "idle_settings", {})
    return found

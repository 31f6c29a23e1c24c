"""Every family that the package knows, by the diffusers class of its denoiser."""

from __future__ import annotations

from ..family import Family
from .dit import DIT
from .pixart import PIXART

FAMILIES: dict[str, Family] = {name: family for family in (DIT, PIXART) for name in family.classes}

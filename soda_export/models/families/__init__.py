"""Every family that the package knows, by the diffusers class of its denoiser."""

from __future__ import annotations

from ..family import Family
from .dit import DIT
from .flux import FLUX
from .pixart import PIXART
from .sana import SANA
from .sd3 import SD3

FAMILIES: dict[str, Family] = {name: family for family in (DIT, PIXART, FLUX, SD3, SANA) for name in family.classes}

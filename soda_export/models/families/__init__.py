"""Every family that the package knows, by the diffusers class of its denoiser."""

from __future__ import annotations

from ..family import Family
from .dit import DIT
from .flux import FLUX
from .opensora import OPENSORA
from .pixart import PIXART
from .sana import SANA
from .sd3 import SD3
from .unet import UNET
from .wan import WAN

_ALL = (DIT, PIXART, FLUX, SD3, SANA, OPENSORA, UNET, WAN)
FAMILIES: dict[str, Family] = {name: family for family in _ALL for name in family.classes}

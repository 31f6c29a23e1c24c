"""LoRA on an opened bundle: a file's low-rank changes are added to the weights that engines are opened with.

argument.py has what callers give, file.py reads a file, names.py finds the layers that its keys mean, apply.py makes
the changed weights.
"""

from __future__ import annotations

from .apply import BundleLoras
from .argument import LoraArgument, parse_lora

__all__ = ["BundleLoras", "LoraArgument", "parse_lora"]

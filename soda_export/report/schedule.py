"""Draw a plan in the terminal: steps from left to right, one row a layer, one block a module."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SHADES = "▁▂▃▄▅▆▇"  # pruned: from few kept tokens to nearly all
_STEPS_A_LINE = 100


def draw_schedule(kept: NDArray[np.int64], num_tokens: int, modules: Sequence[str]) -> list[str]:
    """Lines of text for kept tokens [S, L, M]."""
    lines = []
    for first in range(0, len(kept), _STEPS_A_LINE):
        part = kept[first : first + _STEPS_A_LINE]
        ruler = "".join(f"{t:<10}" for t in range(first, first + len(part), 10))[: max(len(part), 4)]
        lines.append(f"{'step':>16}  {ruler}")
        for m, module in enumerate(modules):
            for layer in range(part.shape[1]):
                cells = "".join(_cell(int(keep), num_tokens) for keep in part[:, layer, m])
                lines.append(f"{module if layer == 0 else '':>10} {layer:>5}  {cells}")
    lines.append(f"{'':>16}  █ computed   {_SHADES[0]}..{_SHADES[-1]} pruned, few to many tokens kept   · reused")
    return lines


def _cell(keep: int, num_tokens: int) -> str:
    if keep == 0:
        return "·"
    return "█" if keep == num_tokens else _SHADES[min(len(_SHADES) - 1, keep * len(_SHADES) // num_tokens)]

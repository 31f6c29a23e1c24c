"""Draw a plan in the terminal: steps from left to right, one row a layer, one block a module."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..plan.schedule import BLOCKS_RUN, Schedule

_SHADES = "▁▂▃▄▅▆▇"  # pruned: from few kept tokens to nearly all
_STEPS_A_LINE = 100
_STACK = -100


def draw_schedule(schedule: Schedule, num_tokens: int, modules: Sequence[str]) -> list[str]:
    """Lines of text."""
    lines, cells_of = [], np.where((schedule.stack == BLOCKS_RUN)[:, None, None], schedule.kept, _STACK)
    for first in range(0, schedule.steps, _STEPS_A_LINE):
        part = cells_of[first : first + _STEPS_A_LINE]
        ruler = "".join(f"{t:<10}" for t in range(first, first + len(part), 10))[: max(len(part), 4)]
        lines.append(f"{'step':>16}  {ruler}")
        for m, module in enumerate(modules):
            for layer in range(part.shape[1]):
                cells = "".join(_cell(int(keep), num_tokens) for keep in part[:, layer, m])
                lines.append(f"{module if layer == 0 else '':>10} {layer:>5}  {cells}")
    words = ["█ computed"]
    if ((cells_of > 0) & (cells_of < num_tokens)).any():
        words.append(f"{_SHADES[0]}..{_SHADES[-1]} pruned, few to many tokens kept")
    words.append("· reused")
    if ((cells_of < 0) & (cells_of != _STACK)).any():
        words.append("1 2 forecast at that order")
    if (cells_of == _STACK).any():
        words.append("  all blocks skipped")
    lines.append(f"{'':>16}  {'   '.join(words)}")
    return lines


def _cell(keep: int, num_tokens: int) -> str:
    if keep == _STACK:
        return " "
    if keep <= 0:
        return str(-keep) if keep else "·"
    return "█" if keep == num_tokens else _SHADES[min(len(_SHADES) - 1, keep * len(_SHADES) // num_tokens)]

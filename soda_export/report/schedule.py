"""Draw a plan in the terminal: steps from left to right, one row a site, one block a kind."""

from __future__ import annotations

import numpy as np

from ..models.decisions import COMPUTE, IDLE
from ..models.identity import ModelIdentity
from ..plan.schedule import Schedule

_SHADES = "▁▂▃▄▅▆▇"  # renewed: from few kept tokens to nearly all
_STEPS_A_LINE = 100


def draw_schedule(schedule: Schedule, model: ModelIdentity) -> list[str]:
    """Lines of text."""
    lines, work, skips = [], schedule.work, np.array(schedule.skips)
    for first in range(0, schedule.steps, _STEPS_A_LINE):
        part = work[first : first + _STEPS_A_LINE]
        ruler = "".join(f"{t:<10}" for t in range(first, first + len(part), 10))[: max(len(part), 4)]
        lines.append(f"{'step':>19}  {ruler}")
        for kind, numbers in model.kinds.items():
            for number, k in enumerate(numbers):
                cells = "".join(
                    "–" if skipped else _cell(int(does), model.site_tokens[k])
                    for does, skipped in zip(part[:, k], skips[first : first + _STEPS_A_LINE], strict=True)
                )
                lines.append(f"{kind if number == 0 else '':>13} {number:>5}  {cells}")
    words = ["█ computed"]
    if ((work > 0) & (work < COMPUTE)).any():
        words.append(f"{_SHADES[0]}..{_SHADES[-1]} pruned, few to many tokens kept")
    words.append("· reused")
    if ((work < 0) & (work != IDLE)).any():
        words.append("1 2 forecast at that order")
    if skips.any():
        words.append("– whole step skipped")
    if (work[~skips] == IDLE).any():
        words.append("  skipped with what contains it")
    lines.append(f"{'':>19}  {'   '.join(words)}")
    return lines


def _cell(does: int, tokens: int) -> str:
    if does == IDLE:
        return " "
    if does <= 0:
        return str(-does) if does else "·"
    return "█" if does == COMPUTE else _SHADES[min(len(_SHADES) - 1, does * len(_SHADES) // max(1, tokens))]

"""Draw a sensitivity map in the terminal: steps from left to right, one row a site, darker where reuse costs more."""

from __future__ import annotations

import numpy as np

from ..plan.sensitivity import SensitivityMap

_SHADES = " ▁▂▃▄▅▆▇█"
_STEPS_A_LINE = 100
_DECADES = 3.5  # of errors that the shades tell apart


def draw_sensitivity(sensitivity: SensitivityMap, interval: int = 1) -> list[str]:
    """Lines of text: errors of reusing what was computed `interval` steps before, on a logarithmic scale."""
    errors = sensitivity.reuse_error[:, :, interval - 1].astype(np.float64)  # [S, K]
    positive = errors[np.isfinite(errors) & (errors > 0)]
    if not positive.size:
        return []
    most = float(positive.max())
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.clip(1 + np.log10(errors / most) / _DECADES, 0.0, 1.0) * (len(_SHADES) - 1)
    lines = []
    for first in range(0, len(errors), _STEPS_A_LINE):
        part = level[first : first + _STEPS_A_LINE]
        ruler = "".join(f"{t:<10}" for t in range(first, first + len(part), 10))[: max(len(part), 4)]
        lines.append(f"{'step':>19}  {ruler}")
        for kind, numbers in sensitivity.info.model.kinds.items():
            for number, k in enumerate(numbers):
                cells = "".join(_SHADES[round(value)] if value == value else "?" for value in part[:, k])
                lines.append(f"{kind if number == 0 else '':>13} {number:>5}  {cells}")
    lines.append(
        f"{'':>19}  {_SHADES[1]}..{_SHADES[-1]} error of reusing an output one step later, up to {most:.3g}, "
        "logarithmic   ? not known"
    )
    return lines

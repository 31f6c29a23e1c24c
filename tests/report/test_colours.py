"""Colours of the report stay apart for colour-blind readers, and text is readable, in light and dark.

Dichromacy is simulated with the matrices of Machado, Oliveira and Fernandes (2009) at full severity, on linear RGB;
distances are Euclidean in CIELAB (CIE76).
"""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import soda_export.report.html as html

STYLE = (Path(html.__file__).parent / "templates/style.css").read_text()
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
CELLS = ("computed", "pruned", "reused", "forecast1", "forecast2", "skipped")
LEAST_DISTANCE = 14  # a difference of 2.3 is just noticeable


def variables(theme: str) -> dict[str, NDArray[np.float64]]:
    """Name -> linear RGB."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    found = dict(re.findall(r"--([\w]+): #([0-9a-f]{6})", blocks[theme == "dark"]))
    codes = {name: np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255 for name, code in found.items()}
    return {name: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for name, c in codes.items()}


def lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ np.clip(linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_cells_of_the_schedule_can_be_told_apart(theme: str, sight: str) -> None:
    colours = variables(theme)
    seen = {name: lab(SIGHT[sight] @ colours[name]) for name in CELLS}
    close = {
        (a, b): round(float(np.linalg.norm(seen[a] - seen[b])), 1)
        for a, b in combinations(CELLS, 2)
        if np.linalg.norm(seen[a] - seen[b]) < LEAST_DISTANCE
    }
    assert close == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["ground", "panel"])
@pytest.mark.parametrize("text", ["ink", "quiet"])
def test_text_has_the_contrast_that_wcag_asks_for(theme: str, ground: str, text: str) -> None:
    colours = variables(theme)
    light, dark = sorted((float(np.array([0.2126, 0.7152, 0.0722]) @ colours[n]) for n in (ground, text)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # level AA

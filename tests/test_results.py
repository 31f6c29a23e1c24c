"""Published figures of planners are those of the sweeps that stand beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from soda_export.report.html.sweep import Interval, read_sweep
from soda_export.sweep.summary import BEST_PUBLISHED

RESULTS = Path(__file__).parent.parent / "docs/results"
_ROW = re.compile(r"^\|(.+)\| \[table\]\((sweep-[\w-]+)\.md\) \|$", re.MULTILINE)
ROWS = _ROW.findall((RESULTS / "planners.md").read_text())


def shown(interval: Interval | None) -> str:
    assert interval is not None
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def test_tables_of_planners_have_such_rows() -> None:
    assert len(ROWS) >= 10


@pytest.mark.parametrize(("cells", "sweep"), ROWS, ids=[name for _, name in ROWS])
def test_a_row_has_the_ratios_of_its_sweep(cells: str, sweep: str) -> None:
    """The model; `best` against the best published planner, that on a typical sample, against SODA and fewer steps."""
    pairs = {pair.other: pair for pair in read_sweep(RESULTS / f"{sweep}.json").compared.pairs}
    published, soda, fewer = (pairs[name] for name in (BEST_PUBLISHED, "soda", "fewer-steps"))
    expected = [published.geometric_mean, published.typical, soda.geometric_mean, fewer.geometric_mean]
    for cell, interval in zip(cells.split("|")[1:], expected, strict=True):
        assert cell.strip().startswith(shown(interval))

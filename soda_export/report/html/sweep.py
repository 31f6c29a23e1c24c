"""sweep.json -> error against cost for every planner, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import msgspec
from markupsafe import Markup
from soda_runtime.printable import printable

from ...errors import UsageError
from .charts import Mark, draw_marker, draw_points
from .page import Chart, Table


class Interval(msgspec.Struct, frozen=True):
    """As `eval` writes it."""

    mean: float
    low: float
    high: float


class Row(msgspec.Struct, frozen=True):
    """Of a row of `soda-export sweep`, what is drawn."""

    planner: str
    target_flops_ratio: float
    seeds: str
    flops_ratio: float | None = None
    rmse: Interval | None = None
    psnr: Interval | None = None
    accuracy: Interval | None = None
    latency_s: float | None = None
    error: str = ""


class Pair(msgspec.Struct, frozen=True):
    """One planner against another."""

    other: str
    ratios: dict[float, Interval]
    geometric_mean: Interval | None
    typical: Interval | None = None


class Compared(msgspec.Struct, frozen=True):
    """`planner` against all others."""

    planner: str
    pairs: tuple[Pair, ...]


class SweepFile(msgspec.Struct, frozen=True):
    """sweep.json; keys that the page does not show are left alone."""

    of: str
    rows: tuple[Row, ...]
    refused: tuple[Row, ...]
    compared: Compared


def read_sweep(path: Path) -> SweepFile:
    """Read a sweep's sweep.json. Raises UsageError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=SweepFile)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not the sweep.json of `soda-export sweep` ({error})") from None


def draw_sweep(sweep: SweepFile) -> tuple[tuple[str, Chart], ...]:
    """Error against FLOPs ratio, and against latency where it was measured. Raises UsageError where nothing is left."""
    scored = [row for row in sweep.rows if row.rmse is not None and row.flops_ratio]
    scored = [row for row in scored if row.rmse is not None and row.rmse.low > 0]
    if not scored:
        raise UsageError("the sweep has no rows with an error above 0 to draw")
    hidden = len(sweep.rows) - len(scored)
    hint = "to the right is cheaper." + (f" {hidden} rows with no error above 0 cannot be drawn." if hidden else "")
    by_flops = _chart(sweep, scored, lambda row: row.flops_ratio, "FLOPs ratio", "{:.3g}x", hint)
    charts = [("Error against computing", by_flops)]
    timed = [row for row in scored if row.latency_s]
    if timed:
        by_time = _chart(
            sweep, timed, lambda row: 1e3 * (row.latency_s or 0), "latency, ms", "{:.4g} ms", "to the left is faster."
        )
        charts.append(("Error against latency", by_time))
    return tuple(charts)


def compare_planners(sweep: SweepFile) -> Table | None:
    """The comparisons, the closest rival last."""
    compared = [pair for pair in sweep.compared.pairs if pair.geometric_mean]
    pairs = sorted(compared, key=lambda pair: pair.geometric_mean.mean if pair.geometric_mean else 0.0)
    if not pairs:
        return None
    targets = sorted({target for pair in pairs for target in pair.ratios})
    head = (f"{sweep.compared.planner} against", *(f"at {t:g}" for t in targets), "geometric mean", "typical sample")
    rows = tuple(
        (p.other, *(_show(p.ratios.get(t)) for t in targets), _show(p.geometric_mean), _show(p.typical)) for p in pairs
    )
    return Table(head, rows)


def _chart(
    sweep: SweepFile, rows: Sequence[Row], x: Callable[[Row], float | None], x_title: str, form: str, hint: str
) -> Chart:
    by_planner: dict[str, list[tuple[Mark, Row]]] = {}
    for planner, target in dict.fromkeys((row.planner, row.target_flops_ratio) for row in rows):
        mine = [row for row in rows if (row.planner, row.target_flops_ratio) == (planner, target)]
        by_planner.setdefault(printable(planner), []).append((_mark(planner, mine, x, form), mine[0]))
    main = printable(sweep.compared.planner)
    names = sorted(by_planner, key=lambda name: (name != main, mean(mark.y for mark, _ in by_planner[name])))
    series = [(name, sorted((mark for mark, _ in by_planner[name]), key=lambda mark: mark.x)) for name in names]
    label = f"RMSE against {x_title} for {len(names)} planners; the table below has the figures."
    picture = draw_points(series, x_title, "RMSE against unaccelerated samples", label, main)
    table = Table(
        ("planner", x_title, "RMSE", "95 % interval"),
        tuple(
            (name, form.format(mark.x), f"{mark.y:.4f}", f"{mark.low:.4f} to {mark.high:.4f}")
            for name, marks in series for mark in marks
        ),
    )  # fmt: skip
    legend: tuple[tuple[Markup, str], ...] = tuple((draw_marker(i), name) for i, name in enumerate(names))
    many = len({row.seeds for row in rows}) > 1
    text = f"{printable(sweep.of)}. Lower is closer to the unaccelerated samples; {hint}"
    text += " Whiskers are 95 % intervals" + (", from the lowest to the highest over all seeds." if many else ".")
    return Chart(picture, table, legend, text)


def _mark(planner: str, rows: Sequence[Row], x: Callable[[Row], float | None], form: str) -> Mark:
    """Rows of one planner and target: root of the mean of squares, and the intervals' ends over all seeds."""
    errors = [row.rmse for row in rows if row.rmse is not None]
    middle = mean(error.mean**2 for error in errors) ** 0.5
    low, high = min(error.low for error in errors), max(error.high for error in errors)
    across = x(rows[0]) or 0.0
    words = f"{planner} at {form.format(across)}: RMSE {middle:.4f}, {low:.4f} to {high:.4f}"
    accuracy = [row.accuracy.mean for row in rows if row.accuracy is not None]
    if accuracy:
        words += f"; {100 * mean(accuracy):.0f} % as asked for"
    return Mark(across, middle, low, high, f"{words}.")


def _show(figure: Interval | None) -> str:
    return "" if figure is None else f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"

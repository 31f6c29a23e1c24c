"""soda-export eval"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from ..eval.metrics import Interval
from ..eval.options import EvalOptions
from ..models.request import ModelRequest
from ..options import NetworkOptions
from ..workbench.stages import SHELF, StageStore
from .terminal import Screen, print_json, printable, progress_bar, start_logging

if TYPE_CHECKING:
    from ..eval.evaluate import EvalRow

_FIGURES = {
    "rmse": ("RMSE of latents", "{:.4f}"), "psnr": ("PSNR, dB", "{:.2f}"),
    "frechet_real": ("Frechet distance to real", "{:.3f}"),
    "frechet_reference": ("Frechet distance to unaccelerated", "{:.3f}"),
    "accuracy": ("accuracy", "{:.1%}"), "accuracy_reference": ("accuracy, unaccelerated", "{:.1%}"),
    "overlap": ("overlap with silhouettes (IoU)", "{:.3f}"), "overlap_reference": ("overlap, unaccelerated", "{:.3f}"),
    "fid_reference": ("FID to unaccelerated", "{:.2f}"), "clip_score": ("CLIP score", "{:.2f}"),
    "clip_score_reference": ("CLIP score, unaccelerated", "{:.2f}"), "lpips": ("LPIPS", "{:.4f}"),
    "calls": ("model calls", "{:.1f}"),
}  # fmt: skip


@dataclass(frozen=True)
class PlanModel(ModelRequest):
    """Model of plans, at the size that --size says of bundles, too."""

    size: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    """That of the evaluation's options."""


def evaluate(
    *targets: Path,
    model: Annotated[PlanModel | None, Parameter(name="*", group="Model")] = None,
    options: Annotated[EvalOptions, Parameter(name="*", group="Samples")] = EvalOptions(),
    networks: Annotated[NetworkOptions, Parameter(name="*", group="Networks")] = NetworkOptions(),
    json: bool = False,
) -> None:
    """Score accelerated samples against the unaccelerated model's with the same noise.

    Every figure comes with a 95 % bootstrap interval over the samples. Plans are run eagerly in torch, bundles by the
    runtime. Built-in models come with a judge, which adds accuracy and Frechet distances.

    Examples:

        soda-export eval engines/digits-b17-ort

        soda-export eval engines/digits-b17-openvino --against model

        soda-export eval a.plan.json b.plan.json --model digits --seeds 2000000:2000500 --json

        soda-export eval pixart.plan.json --model path/to/pixart --seeds 1000000:1000030 --clip path/to/clip

    Parameters
    ----------
    targets
        Bundle folders and plan files.
    model
        Model of the plans; bundles are then asked for its prompts. [default: the built-in model that the plan names]
    json
        Print a list of rows as JSON.
    """
    from ..eval.evaluate import Evaluator  # with torch, which help pages do without

    start_logging()
    with progress_bar() as progress:
        store = StageStore(SHELF / ".work")
        rows = Evaluator(options, store, progress, model=model, networks=networks).evaluate(targets)
    if json:
        print_json([row.flat() for row in rows])
    else:
        _print_rows(rows)


def _print_rows(rows: list[EvalRow]) -> None:
    """One column a target."""
    table = Table(title=f"{rows[0].samples} samples, 95 % intervals", title_justify="left")
    table.add_column(style="bold")
    for row in rows:
        table.add_column(Text(printable(row.target)), overflow="fold")
    table.add_row("FLOPs ratio", *(f"{row.flops_ratio:.3f}" for row in rows))
    for name, (title, form) in _FIGURES.items():
        cells = [_cell(getattr(row.scores, name), form) for row in rows]
        if any(cells):
            table.add_row(title, *cells)
    Screen().print(table)


def _cell(figure: Interval | None, form: str) -> Text:
    """`0.0180 [0.0170, 0.0190]`, nothing where there is none."""
    if figure is None:
        return Text()
    return Text(f"{form.format(figure.mean)} [{form.format(figure.low)}, {form.format(figure.high)}]")

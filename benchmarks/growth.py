"""How the stages of a build, opening and generating grow with layers, steps, programs and tokens.

    OMP_NUM_THREADS=1 python benchmarks/growth.py --out docs/results/growth.json    # and growth.png beside it
    OMP_NUM_THREADS=1 python benchmarks/growth.py --planning --out docs/results/growth-planning.json

A small PixArt with random weights (width 64) is doubled along one axis at a time, the others as in BASE. Each point is
a process of its own, forked from one that has built the smallest model once, so that nothing is loaded for the first
time; a bundle is opened and played in a further one, which has no torch. Times are CPU seconds of the process, since
others may use the machine; peaks are resident bytes above those at the beginning of the stage. Stages below a second
are repeated, and the least time counts. growth_table.py fits exponents.

`--planning` measures planning and lowering alone, on a made-up map, in seconds and at larger sizes.

The map is profiled and a plan made of it by SODA; what is lowered, exported and so on is a schedule of as many programs
as are asked for, in each of which half of the sites, by turns, are computed. `misfit` is that policy's predictions
and weights of steps (search/gate.py); it is measured along steps alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from big_models import machine
from growth_stages import BACKENDS, Point, build, plan_alone, play
from growth_table import draw, table
from records import write_record

BASE = Point()
AXES: dict[str, tuple[int, ...]] = {
    "layers": (2, 4, 8, 16, 32),
    "steps": (16, 32, 64, 128, 256),
    "programs": (2, 4, 8, 16),
    "tokens": (8**2, 11**2, 16**2, 23**2, 32**2),
}
PLANNING: dict[str, tuple[int, ...]] = {
    "layers": (4, 8, 16, 32, 64), "steps": (32, 64, 128, 256, 512, 1024), "programs": (2, 4, 8, 16),
}  # fmt: skip
MISFIT_STEPS = 256  # at most: it plays the rest of a run from a dozen steps


def measure(point: Point, misfit: bool, planning: bool) -> dict[str, Any]:
    """Costs of all stages at one point."""
    if planning:
        with get_context("fork").Pool(1) as pool:
            return {**point._asdict(), "stages": pool.apply(plan_alone, (point,))}
    with tempfile.TemporaryDirectory() as folder:
        with get_context("fork").Pool(1) as pool:
            found = pool.apply(build, (point, Path(folder), BACKENDS, misfit))
        for backend in BACKENDS:
            command = [sys.executable, __file__, "--play", str(Path(folder) / backend)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found |= json.loads(done.stdout)
    return {**point._asdict(), "stages": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", help=f"of {', '.join(AXES)}; default: all")
    parser.add_argument("--planning", action="store_true", help="planning and lowering alone")
    parser.add_argument("--doublings", type=int, default=9, help="the largest points are left out; default: all")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.play:
        print(json.dumps(play(args.play)))
        return
    axes = PLANNING if args.planning else AXES
    unknown = sorted(set(args.axes) - set(axes))
    if unknown or args.doublings < 2:
        parser.error(f"no axis {unknown[0]}: there are {', '.join(axes)}" if unknown else "--doublings: at least 2")
    started, points = time.perf_counter(), dict[str, list[dict[str, Any]]]()
    if not args.planning:
        with tempfile.TemporaryDirectory() as folder:  # OpenVINO's threads would not be there in a fork
            build(Point(2, 8, 2, 16), Path(folder), ("ort",), misfit=False)
    for axis in args.axes or axes:
        for value in axes[axis][: args.doublings + 1]:
            misfit = axis == "steps" and value <= MISFIT_STEPS
            found = measure(BASE._replace(**{axis: value}), misfit, args.planning)
            points.setdefault(axis, []).append(found)
            print(f"{time.perf_counter() - started:.0f} s: {json.dumps(found)}", file=sys.stderr)
    record = {"machine": machine(), "seconds": time.perf_counter() - started, "axes": points}
    write_record(record, args.out)
    print(table(points))
    if args.out:
        draw(points, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()

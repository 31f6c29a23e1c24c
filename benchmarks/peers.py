"""Our bundles against what one would pick instead: one run, one machine, the same models, steps, noise and conditions.

    pip install -r benchmarks/peers/requirements.txt
    python benchmarks/peers.py

Models: `shapes` (trained, so its errors mean something), `digits`, `dit-xl` (a DiT of XL width with random weights: its
latencies mean something, and it is judged by the errors that the same settings have on shapes, whose plan shapes it
plays), or any diffusers folder. Systems play in turn, round after round; the error is that of the latents that were
timed, against diffusers in eager float32. A system that cannot run is listed with the reason. Rows are written as they
come; a table (.md) and a plot (.png) lie beside them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from peers.measure import Budget, Seen, measure
from peers.models import XL, Requests, open_model
from peers.plans import NamedPlan, Wanted, build_bundles, carry_over, make_plans, ratio_of, save_plan
from peers.report import plot_rows, summary_text, table_text
from peers.rows import Row, make_rows, unaccelerated_verdict, verdicts
from peers.settings import settings_like
from peers.systems import EAGER, System, bundle_system, bundle_systems, plan_systems, torch_systems

from soda_export.bench.doctor import describe_machine
from soda_export.options import ProfileOptions

log = logging.getLogger("peers")
INT8 = "int8"
"""A precision of our bundles alone; peers play in fp32 and bf16."""
TARGETS = (("ort", "fp32"), ("ort", INT8), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", INT8))
LIBRARIES = ("torch", "diffusers", "cache-dit", "onnxruntime", "openvino", "soda-export")
SMOOTHCACHE = "smoothcache"
SHAPE_SOURCE = "shapes"
"""Whose plans, settings and errors `dit-xl` takes over."""


def parse_arguments() -> argparse.Namespace:
    """What to measure, and for how long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="shapes,dit-xl", help="comma-separated (default shapes,dit-xl)")
    parser.add_argument("--only", default="", help="comma-separated beginnings of system names; default all")
    parser.add_argument("--precisions", default=f"fp32,bf16,{INT8}")
    parser.add_argument("--xl-precisions", default="bf16", help="of peers on dit-xl (default bf16, the faster one)")
    parser.add_argument("--layers", type=int, default=8, help="of dit-xl (default 8; the published model has 28)")
    parser.add_argument("--steps", type=int, default=0, help="default the model's own; dit-xl 20")
    parser.add_argument("--samples", type=int, default=4, help="of a trained model, held out (default 4)")
    parser.add_argument("--batch", type=int, default=1, help="samples in one request (default 1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="most timed rounds (default 5)")
    parser.add_argument("--minutes", type=float, default=8.0, help="of measuring a trained model (default 8)")
    parser.add_argument("--xl-minutes", type=float, default=10.0, help="of measuring dit-xl (default 10)")
    parser.add_argument("--limit-seconds", type=float, default=300.0, help="for one system to open, or for one round")
    parser.add_argument("--free-gb", type=float, default=5.0, help="memory left free when a system opens (default 5)")
    parser.add_argument("--ratios", default="1.5,2,2.5", help="FLOPs ratios of our plans")
    parser.add_argument("--planner", default="best")
    parser.add_argument("--plan-seconds", type=float, default=30.0, help="of planner best, for each ratio (default 30)")
    parser.add_argument("--profile-samples", type=int, default=32)
    parser.add_argument("--memory", default=XL, help="models whose peak memory is measured in a pass of its own")
    parser.add_argument("--work", type=Path, default=Path("engines/.work/peers"), help="bundles, plans and logs")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/peers-MODELS.json")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    models = args.models.split(",")
    out = args.out or Path("benchmarks/results") / f"peers-{'-'.join(Path(name).name for name in models)}.json"
    run = _Run(args, out)
    for name in sorted(models, key=lambda name: name == XL):  # dit-xl is judged by what was seen before
        run.model(name)
    print(out.with_suffix(".md").read_text())


class _Run:
    """One run: rows so far, and what dit-xl takes over."""

    def __init__(self, args: argparse.Namespace, out: Path) -> None:
        self._args, self._out, self._started = args, out, time.time()
        self._rows: list[Row] = []
        self._seen_on_source: list[Seen] = []
        self._work: Path = args.work.resolve()
        self._work.mkdir(parents=True, exist_ok=True)
        self._machine = _machine()
        if self._machine["load_average"] > 0.5:
            log.warning("the machine is busy, load %.1f: torch suffers most from that", self._machine["load_average"])

    def model(self, name: str) -> None:
        """Plan, build and measure one model."""
        args, top = self._args, max(self._ratios)
        asked = Requests(1 if name == XL else args.samples, args.batch, args.threads, args.steps)
        bench, case = open_model(name, args.layers, asked, self._work)
        log.info("%s: %d requests of %d, %d steps", case.model, case.requests, args.batch, case.sampler.steps)
        if name == XL:
            source, _ = open_model(SHAPE_SOURCE, 0, Requests(1, 1, args.threads, args.steps), self._work)
            plans = carry_over(
                [p for p in self._plans(source) if p.wanted.ratio == top or p.wanted.planner == SMOOTHCACHE], bench
            )
        else:
            plans = self._plans(bench)
        place = self._work / case.model
        place.mkdir(parents=True, exist_ok=True)
        spec = bench.loaded.spec
        ratios = {p.wanted.label: ratio_of(p, spec) for p in plans if p.plan is not None}
        files = {p.wanted.label: (save_plan(p, place), ratios[p.wanted.label]) for p in plans if p.plan is not None}
        ours = [p for p in plans if p.wanted.planner != SMOOTHCACHE]
        targets = [(backend, precision) for backend, precision in TARGETS
                   if precision in args.precisions.split(",") and self._wants(bundle_system(backend))]  # fmt: skip
        bundles = build_bundles(bench, ours, targets, place)
        del bench
        precisions = args.xl_precisions if name == XL else args.precisions
        systems = self._systems(files, bundles, ratios, precisions.split(","))
        judged: dict[str, float] | None = None
        if name == XL and self._seen_on_source:
            systems, judged = settings_like(self._seen_on_source, systems)
        minutes, memory = args.xl_minutes if name == XL else args.minutes, name in args.memory.split(",")
        budget = Budget(args.rounds, minutes, args.limit_seconds, 1e9 * args.free_gb, memory)
        before = list(self._rows)

        def keep(seen: Sequence[Seen]) -> None:
            self._rows = [*before, *make_rows(case.model, seen, judged)]
            self._write(final=False)

        seen = measure(case, systems, place, budget, keep)
        keep(seen)
        if name == SHAPE_SOURCE:
            self._seen_on_source = seen
        self._write(final=True)

    @property
    def _ratios(self) -> list[float]:
        return [float(text) for text in self._args.ratios.split(",")]

    def _plans(self, bench: Any) -> list[NamedPlan]:
        args, top = self._args, max(self._ratios)
        wanted = [Wanted(args.planner, ratio) for ratio in self._ratios]
        wanted += [Wanted("soda", top)] if args.planner != "soda" else []
        wanted += [Wanted(SMOOTHCACHE, ratio) for ratio in self._ratios]
        return make_plans(bench, wanted, args.plan_seconds, ProfileOptions(samples=args.profile_samples))

    def _systems(
        self, files: dict[str, Any], bundles: dict[Any, Any], ratios: dict[str, float], precisions: list[str]
    ) -> list[System]:
        """In the order of a round: what matters most first, in case that time runs out."""
        skipping = [label for label in files if label.startswith(SMOOTHCACHE)]
        found = bundle_systems(bundles, ratios)
        precisions = [precision for precision in precisions if precision != INT8]
        for precision in dict.fromkeys(("fp32", *precisions)):
            mine = [*plan_systems(precision, files, skipping), *torch_systems(precision)]
            found += [s for s in mine if precision in precisions or s.system == EAGER]
        found.sort(key=lambda system: "max_autotune" in system.options)
        return [s for s in found if self._wants(s.system) or (s.system, s.precision) == (EAGER, "fp32")]

    def _wants(self, system: str) -> bool:
        return any(system.startswith(part) for part in self._args.only.split(","))

    def _write(self, final: bool) -> None:
        """The rows, always; the table and the plot at the end of a model."""
        rows = self._rows
        found = verdicts(rows)
        compiled = [unaccelerated_verdict(rows, model) for model in dict.fromkeys(row.model for row in rows)]
        record = {
            "settings": {key: value for key, value in vars(self._args).items() if key not in ("work", "out")},
            "machine": self._machine, "minutes": (time.time() - self._started) / 60, "rows": msgspec.to_builtins(rows),
            "verdicts": msgspec.to_builtins(found),
            "unaccelerated": msgspec.to_builtins([one for one in compiled if one]),
        }  # fmt: skip
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._out.write_text(json.dumps(record, indent=1) + "\n")
        if final:
            text = table_text(rows) + "\n" + summary_text([one for one in compiled if one], found)
            self._out.with_suffix(".md").write_text(text)
            plot_rows(rows, self._out.with_suffix(".png"))


def _machine() -> dict[str, Any]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    machine = describe_machine()
    return {
        "processor": f"{machine.cores} x {machine.processor}", "instructions": machine.features,
        "load_average": os.getloadavg()[0], "system": platform.system(), "python": platform.python_version(),
        "versions": versions,
    }  # fmt: skip


if __name__ == "__main__":
    main()

"""`--backend auto`: of the installed backends the one whose all-compute step is fastest on this machine, measured."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soda_runtime import Bundle
from soda_runtime.request import example_request

from ..compile import GRAPH_BACKENDS, REGISTRY, BackendStatus, backend_status
from ..compile.places import why_unable
from ..errors import CompileError, SodaError
from ..models.precision import Precision, numbers_of
from ..options import BundleOptions
from ..plan.schedule import Schedule
from .timing import time_steps

if TYPE_CHECKING:
    from ..workbench.pipeline import Workbench

log = logging.getLogger(__name__)
_STEPS = 5  # timed, after one that warms up


@dataclass(frozen=True)
class Place:
    """A backend on one device, cpu or cuda."""

    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend} on cuda" if self.device == "cuda" else self.backend


@dataclass(frozen=True)
class Choice:
    """A backend, and the words that say why."""

    backend: str
    why: str


def choose_backend(bench: Workbench, options: BundleOptions) -> Choice:
    """Build bundles that compute everything, play some of their steps in every place, and take the fastest.

    What cannot be built or played on a GPU is left out with a warning. Raises CompileError.
    """
    places = places_for(options.precision, {name: backend_status(name) for name in REGISTRY})
    if len(places) == 1:
        return Choice(places[0].backend, f"the only one installed that runs {options.precision} on this machine")
    seconds: dict[Place, float] = {}
    probes: dict[str, Path] = {}
    for place in places:
        kind = place.backend
        if kind in GRAPH_BACKENDS:  # whose engines are equal graphs, where they are of the same numbers
            kind = f"graphs-{numbers_of(options.precision, kind).compute}"
        try:
            if kind not in probes:
                probes[kind] = _build_probe(bench, place.backend, kind, options)
            seconds[place] = step_seconds(probes[kind], place)
        except SodaError as error:
            if place.device == "cpu":
                raise
            log.warning("backend: %s is left out: %s", place, error)
    if not seconds:
        raise CompileError(f"--backend auto: no installed backend runs {options.precision} on this machine")
    best = min(seconds, key=lambda place: seconds[place])
    figures = ", ".join(f"{place} {1e3 * each:.1f} ms" for place, each in seconds.items())
    hint = "; play it with --device cuda" if best == Place("ort", "cuda") else ""
    return Choice(best.backend, f"{figures} an all-compute step{hint}")


def places_for(precision: Precision, found: Mapping[str, BackendStatus]) -> list[Place]:
    """Where the installed backends run that precision on this machine. Raises CompileError."""
    places = [Place(name, device) for name, status in found.items() for device in status.devices]
    able = [place for place in places if not why_unable(place.backend, place.device, precision)]
    if not able:
        missing = [f"{name}: {status.install}" for name, status in found.items() if not status.version]
        reason = "; ".join(missing) or "none can"
        raise CompileError(f"--backend auto: no installed backend runs {precision} on this machine ({reason})")
    return able


def _build_probe(bench: Workbench, backend: str, kind: str, options: BundleOptions) -> Path:
    """A bundle that computes everything."""
    spec, steps = bench.loaded.spec, bench.sampler.steps
    plan = bench.plan_of(Schedule.at_anchors(spec, steps, tuple(range(steps))), "everything")
    without = tuple(dict.fromkeys((*options.without, "text-encoder", "decoder")))
    return bench.build(
        plan, backend, bench.store.root / f"probe-auto-{spec.name}-{options.precision}-{kind}",
        BundleOptions(precision=options.precision, without=without),  # type: ignore[arg-type]
    ).out  # fmt: skip


def step_seconds(path: Path, place: Place) -> float:
    """Median seconds of an all-compute step of one sample."""
    with Bundle.open(path, backend=place.backend, device=place.device) as bundle, bundle.session() as session:
        session.start(**example_request(bundle, 1), accelerated=False)
        times = time_steps(session, min(1 + _STEPS, bundle.manifest.sampler.steps))
    return statistics.median(times[1:] or times)

"""`--backend auto`: of the installed backends for the CPU the one whose all-compute step is fastest here, measured."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soda_runtime import Bundle
from soda_runtime.request import example_request

from .compile import GRAPH_BACKENDS, BackendStatus, backend_status
from .errors import CompileError
from .models.precision import Precision
from .options import BundleOptions
from .plan.schedule import Schedule

if TYPE_CHECKING:
    from .pipeline import Workbench

log = logging.getLogger(__name__)
_STEPS = 5  # timed, after one that warms up


@dataclass(frozen=True)
class Choice:
    """A backend, and the words that say why."""

    backend: str
    why: str


def choose_backend(bench: Workbench, options: BundleOptions) -> Choice:
    """Build a bundle that computes everything, play some of its steps with every backend, and take the fastest.

    Engines of these backends are the same graphs, so one bundle serves for all. Raises CompileError.
    """
    candidates = candidates_for(options.precision, {name: backend_status(name) for name in GRAPH_BACKENDS})
    if len(candidates) == 1:
        return Choice(candidates[0], f"the only one installed that runs {options.precision} on this machine")
    steps = bench.sampler.steps
    plan = bench.plan_of(Schedule.at_anchors(bench.loaded.denoiser.spec, steps, tuple(range(steps))), "everything")
    without = tuple(dict.fromkeys((*options.without, "text-encoder", "decoder")))
    built = bench.build(
        plan, candidates[0], bench.store.root / f"probe-auto-{bench.loaded.denoiser.spec.name}-{options.precision}",
        BundleOptions(precision=options.precision, without=without),  # type: ignore[arg-type]
    )  # fmt: skip
    seconds = {name: step_seconds(built.out, name) for name in candidates}
    best = min(seconds, key=lambda name: seconds[name])
    figures = ", ".join(f"{name} {1e3 * each:.1f} ms" for name, each in seconds.items())
    return Choice(best, f"{figures} an all-compute step")


def candidates_for(precision: Precision, found: Mapping[str, BackendStatus]) -> list[str]:
    """The installed backends that run on this machine's CPU in that precision. Raises CompileError."""
    able = [name for name, status in found.items() if "cpu" in status.devices and (name, precision) not in _UNABLE]
    if not able:
        missing = [f"{name}: {status.install}" for name, status in found.items() if not status.version]
        reason = "; ".join(missing) or "none can"
        raise CompileError(f"--backend auto: no installed backend runs {precision} on the CPU ({reason})")
    return able


_UNABLE = {("ort", "bf16"), ("ort", "int8-weights")}  # ONNX Runtime's CPU provider has no bfloat16 products


def step_seconds(path: Path, backend: str) -> float:
    """Median seconds of an all-compute step of one sample."""
    bundle = Bundle.open(path, backend=backend)
    session = bundle.session()
    session.start(**example_request(bundle, 1), accelerated=False)
    times = []
    for step in range(min(1 + _STEPS, bundle.manifest.sampler.steps)):
        started = time.perf_counter()
        session.step(step)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:] or times)

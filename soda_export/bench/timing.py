"""Time accelerated and all-compute generations in turn, step by step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from soda_runtime import Session
from soda_runtime.backends import DeviceBackend

from .energy import EnergyMeter
from .result import Timing

_RESAMPLES = 1000


class Generations:
    """What repeated generations of one kind took: seconds of the whole [rounds], before the first step [rounds] and of
    each step [rounds, S]; the latents [rounds, B, C, H, W]; joules [rounds] where they can be read. decisions: of each
    generation that followed a policy, [S, B]."""

    def __init__(self, session: Session, request: dict[str, Any], accelerated: bool) -> None:
        self._session, self._request, self._accelerated = session, request, accelerated
        self._meter = EnergyMeter()
        self.whole: list[float] = []
        self.before: list[float] = []
        self.steps: list[list[float]] = []
        self.latents: list[NDArray[np.float32]] = []
        self.joules: list[float | None] = []
        self.decisions: list[NDArray[np.int64]] = []

    def run(self, seed: int) -> None:
        """One more."""
        session, clock, counters = self._session, time.perf_counter, self._meter.read()
        started = clock()
        session.start(**self._request, seed=seed, accelerated=self._accelerated)
        self.before.append(clock() - started)
        is_one_call = session.playback.loop is not None
        steps = [] if is_one_call else time_steps(session, session.bundle.manifest.sampler.steps)
        session.run_steps()
        latents = session.latents()
        self.whole.append(clock() - started)
        self.latents.append(latents)
        if session.playback.play == "adaptive":
            self.decisions.append(session.decisions)
        self.joules.append(self._meter.joules(counters, self._meter.read()))
        if is_one_call:  # on a device; its steps are timed in a run of their own
            session.start(**self._request, seed=seed, accelerated=self._accelerated)
            steps = time_steps(session, session.bundle.manifest.sampler.steps)
        self.steps.append(steps)

    def forget_first(self) -> None:
        """Drop the first one."""
        for values in (self.whole, self.before, self.steps, self.latents, self.joules, self.decisions):
            del values[:1]  # type: ignore[attr-defined]


def time_steps(session: Session, steps: int) -> list[float]:
    """Seconds of each of the first steps of a request that has been started; a device is waited for after each."""
    session.wait()
    is_on_device = isinstance(session.bundle.backend, DeviceBackend)
    times = [time.perf_counter()]
    for step in range(steps):
        session.step(step)
        if is_on_device:
            session.wait()
        times.append(time.perf_counter())
    seconds: list[float] = np.diff(times).tolist()
    return seconds


def timing(seconds: Sequence[float]) -> Timing:
    """Median with its interval."""
    return Timing(statistics.median(seconds), *_interval(np.median(_resamples(np.array([seconds]))[0], axis=-1)))


def speedup_interval(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float]:
    """Interval of the ratio of medians; what ran in the same round is resampled together."""
    a, b = np.median(_resamples(np.array([slow, fast])), axis=-1)
    return _interval(a / b)


def _resamples(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[k, n] -> [k, resamples, n]: columns drawn with replacement."""
    drawn = np.random.default_rng(0).integers(0, values.shape[1], (_RESAMPLES, values.shape[1]))
    chosen: NDArray[np.float64] = values[:, drawn]
    return chosen


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def measure_encoding(session: Session, request: dict[str, Any], rounds: int) -> float:
    """Median seconds that a request with prompts spends in text encoders, after one that warms up."""
    request = request | {"policy": "frozen"}  # one playback, whatever decides
    session.start(**request)
    playback, backend, spent = session.playback, session.bundle.backend, 0.0

    def wait() -> None:  # the session is busy with the start of the request
        if isinstance(backend, DeviceBackend):
            backend.wait()

    def timed(call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            nonlocal spent
            wait()
            started = time.perf_counter()
            call()
            wait()
            spent += time.perf_counter() - started

        return run

    originals = playback.encode
    playback.encode = {file: timed(call) for file, call in originals.items()}
    try:
        times = []
        for _ in range(rounds + 1):
            spent = 0.0
            session.start(**request)
            times.append(spent)
    finally:
        playback.encode = originals
    return statistics.median(times[1:])


def measure_dispatch(session: Session, request: dict[str, Any], seed: int, rounds: int) -> float:
    """Median microseconds from the end of an engine's call to the next one's beginning, over steps of the schedule."""
    gaps: list[float] = []
    for _ in range(rounds):
        session.start(**request, seed=seed, policy="frozen")
        session.playback.wait()
        gaps += _gaps(session)
    return 1e6 * statistics.median(gaps)


def _gaps(session: Session) -> list[float]:
    """Seconds between the engines of a request that has been started, which this runs."""
    playback, ends = session.playback, [time.perf_counter()]
    gaps: list[float] = []
    prepared = 0.0

    def timed(call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            nonlocal prepared
            gaps.append(time.perf_counter() - ends[-1] - prepared)
            call()
            prepared = 0.0
            ends.append(time.perf_counter())

        return run

    def preparing(call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            nonlocal prepared
            started = time.perf_counter()
            call()
            prepared += time.perf_counter() - started

        return run

    originals = playback.prepares, list(playback.steps), playback.loop
    playback.prepares = [[preparing(call) for call in calls] for calls in playback.prepares]
    playback.steps[:], playback.loop = map(timed, playback.steps), None
    try:
        session.run_steps()
    finally:
        playback.prepares, playback.steps[:], playback.loop = originals
    return gaps[1:] or gaps

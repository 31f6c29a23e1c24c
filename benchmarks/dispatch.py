"""What Python takes between two engines of a bundle, and what an engine library takes for a model of one addition.

    python benchmarks/dispatch.py engines/digits-b17-openvino --out docs/results/dispatch.json

Engines are left out: `warm` has nothing in their place, `cold` a sum over 400 MB, which leaves as little in the
processor's caches as a large engine does. Times are of the thread, so that other processes do not count; medians in
microseconds. `loop` is from step to step in `generate`, `step` in a caller's own loop over `Session.step`, `bare` in a
loop that does nothing but call: what measuring takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from records import write_record
from soda_runtime import Bundle, Session
from soda_runtime.request import example_request

from soda_export.bench.doctor import describe_machine
from soda_export.compile import library_version

_SWEPT = np.ones(50_000_000)  # 400 MB
_CALLS = {"warm": 1000, "cold": 100}


def between_engines(session: Session, play: Callable[[], None], is_cold: bool) -> list[float]:
    """Seconds of the thread from one engine to the next, in a request that has been started."""
    begins: list[float] = []
    ends: list[float] = []

    def engine() -> None:
        begins.append(time.thread_time())
        if is_cold:
            _SWEPT.sum()
        ends.append(time.thread_time())

    steps = session.playback.steps
    originals = list(steps)
    steps[:] = [engine] * len(steps)
    try:
        play()
    finally:
        steps[:] = originals
    return [begin - end for begin, end in zip(begins[1:], ends, strict=False)]


def measure_bundle(path: Path) -> dict[str, float]:
    """Medians of both kinds of loop, with warm and cold caches."""
    bundle = Bundle.open(path, threads=1)
    session, request, found = bundle.session(), example_request(bundle, 1), {}
    steps = bundle.manifest.sampler.steps

    def alone() -> None:
        for index in range(steps):
            session.step(index)

    def bare() -> None:
        for call in session.playback.steps:
            call()

    for caches, calls in _CALLS.items():
        for kind, play in (("bare", bare), ("loop", session.run_steps), ("step", alone)):
            gaps: list[float] = []
            while len(gaps) < calls:
                session.start(**request, seed=1, policy="frozen")
                session.playback.wait()
                gaps += between_engines(session, play, caches == "cold")
            found[f"{kind}, {caches}"] = round(1e6 * statistics.median(gaps), 1)
    return found


def measure_openvino(outputs: int) -> dict[str, float]:
    """A call of `infer` as the runtime makes it, of a model that adds one to each of so many tensors of 16 values."""
    import openvino
    from openvino import opset13 as ops
    from soda_runtime.backends.openvino import process_core

    takes = [ops.parameter([1, 16], np.float32) for _ in range(outputs)]
    model = openvino.Model([ops.result(ops.add(each, np.float32(1))) for each in takes], takes)
    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    infer = process_core().compile_model(model, "CPU", options).create_infer_request().infer
    found = {}
    for caches, calls in _CALLS.items():
        times = []
        for _ in range(calls):
            if caches == "cold":
                _SWEPT.sum()
            begin = time.thread_time()
            infer(share_outputs=True)
            times.append(time.thread_time() - begin)
        found[caches] = round(1e6 * statistics.median(times), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    record = {
        "machine": msgspec.to_builtins(describe_machine()),
        "openvino": library_version("openvino"),
        "between_engines_us": measure_bundle(args.bundle),
        "openvino_infer_us": {f"{count} outputs": measure_openvino(count) for count in (1, 33)},
    }
    write_record(record, args.out)


if __name__ == "__main__":
    main()

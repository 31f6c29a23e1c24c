"""Figures of the C++ runtime beside the Python runtime's, on bundles of the shelf.

    python benchmarks/cpp_runtime.py            # after `make cpp`; engines/digits-b17-ort and engines/shapes-b8-ort

Differences of latents with the same seed on each backend, latency of both runtimes in turn, time from cancelling to
the call's return against the longest step, time of a step outside the engine, and the library's size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from soda_runtime import Bundle  # noqa: E402
from soda_runtime.request import example_request  # noqa: E402

from tests.cpp.fields import fields_of  # noqa: E402
from tests.cpp.library import BUILD, CancelledError, CppSession, Library, has_backend  # noqa: E402

BUNDLES = [ROOT / "engines" / name for name in ("digits-b17-ort", "shapes-b8-ort")]


def compare(library: Library, path: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Largest differences over three seeds, and median seconds of a generation in turn."""
    bundle = Bundle.open(path, threads=threads)
    python, request = bundle.session(), example_request(bundle, 2)
    fields = fields_of(request, python.bundle)
    result: dict[str, Any] = {}
    for backend in ("ort", "openvino"):
        if not has_backend(backend):
            continue
        cpp = library.open(path, backend=backend, threads=threads).session()
        pairs = [(python.generate(**request, seed=s), cpp.generate(**fields, seed=s)) for s in range(3)]
        result[backend] = {
            "max_abs_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
            "largest_latent": max(float(np.abs(a).max()) for a, _ in pairs),
        }
        times: dict[str, list[float]] = {"python": [], "cpp": []}
        for _ in range(rounds):
            begin = time.perf_counter()
            python.generate(**request, seed=0)
            middle = time.perf_counter()
            cpp.generate(**fields, seed=0)
            times["python"].append(middle - begin)
            times["cpp"].append(time.perf_counter() - middle)
        result[backend]["seconds"] = {name: statistics.median(values) for name, values in times.items()}
        result[backend]["least_seconds"] = {name: min(values) for name, values in times.items()}
        if backend == "ort":
            result["cancel"] = cancel_times(cpp, fields)
    return result


def cancel_times(session: CppSession, fields: dict[str, Any], rounds: int = 20) -> dict[str, float]:
    """Milliseconds from soda_cancel in another thread to the end of the generation, and of the longest step."""
    waits, steps, last = [], [], [0.0]

    def timed(*_: int) -> bool:
        now = time.perf_counter()
        steps.append(now - last[0])
        last[0] = now
        return False

    for _ in range(2):
        last[0] = time.perf_counter()
        session.generate(**fields, progress=timed)
    for _ in range(rounds):
        at = [0.0]
        timer = threading.Timer(0.05, lambda at=at: (at.__setitem__(0, time.perf_counter()), session.cancel()))

        timer.start()
        try:
            session.generate(**fields)
        except CancelledError:
            waits.append(time.perf_counter() - at[0])
        timer.join()
    session.generate(**fields)  # still usable
    return {
        "median_ms": statistics.median(waits) * 1e3,
        "max_ms": max(waits) * 1e3,
        "longest_step_ms": max(steps) * 1e3,
    }


def dispatch(*arguments: str) -> str:
    """The line that test_dispatch prints."""
    command = [str(BUILD / "bin" / "test_dispatch"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0].strip()


def stripped_bytes() -> int:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "library"
        subprocess.run(["strip", "-o", str(out), str(BUILD / "lib" / "libsoda_runtime.so")], check=True)
        return out.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=31)
    args = parser.parse_args()
    library = Library(BUILD / "lib" / "libsoda_runtime.so")
    record: dict[str, Any] = {"stripped_bytes": stripped_bytes(), "dispatch": {}}
    for path in BUNDLES:
        if not path.is_dir():
            print(f"{path} is not there; build it first", file=sys.stderr)
            continue
        record["dispatch"][path.name] = dispatch(str(path))
        record[path.name] = compare(library, path, args.threads, args.rounds)
    record["dispatch"]["golden v5"] = dispatch(str(ROOT / "tests" / "golden" / "v5"))
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()

"""Many requests at once and one after the other: equal bits, and memory that does not grow.

    python benchmarks/load.py                     # both runtimes, on a golden bundle; the C++ one after `make cpp`
    python benchmarks/load.py --requests 1000 --json load.json

Of each runtime: 16 threads with sessions of their own over one bundle, 8 processes over one folder, 20 processes that
start at once, and 10,000 mixed requests to one session (batch sizes, guidance, accelerated or not, errors in between).
Every answer to a seed must be the same, bit for bit, and memory after the last request at most 1 MB above that after
the first hundred. Exit code 1 where not.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "runtime" / "python"))

from soda_runtime import Bundle, RequestError  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "v5"
THREADS, PROCESSES, STARTING, SEEDS = 16, 8, 20, 8
SETTLED, MOST_GROWTH_MB = 100, 1.0
FAULTS: list[dict[str, Any]] = [{"inputs": {"labels": [99999]}}, {"guidance": float("nan")}, {"batch": 70_000}]
Play = Callable[[dict[str, Any]], bytes]  # a request to the latents' bytes


def sessions(runtime: str, folder: Path) -> Callable[[], Play]:
    """Open the bundle once; the result opens a session."""
    bundle = Bundle.open(folder, threads=1)
    if runtime == "python":
        return lambda: _python_session(bundle)
    from tests.cpp.fields import fields_of
    from tests.cpp.library import load

    cpp = load().open(folder, threads=1)

    def session() -> Play:
        opened = cpp.session()
        return lambda request: opened.generate(**fields_of(request, bundle)).tobytes()

    return session


def _python_session(bundle: Bundle) -> Play:
    session = bundle.session()
    return lambda request: session.generate(**request).tobytes()


def digest(play: Play) -> str:
    """What a session makes of eight seeds."""
    answers = [play({"inputs": {"labels": [3, 5]}, "batch": 2, "seed": seed}) for seed in range(SEEDS)]
    return hashlib.sha256(b"".join(answers)).hexdigest()


def threads_over_one_bundle(runtime: str, folder: Path, expected: str) -> dict[str, Any]:
    """Threads that play at the same time, each with a session of its own."""
    session, found = sessions(runtime, folder), list[str]()
    began = time.perf_counter()
    started = [threading.Thread(target=lambda: found.append(digest(session()))) for _ in range(THREADS)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return _told(found, THREADS, expected, began)


def processes_over_one_folder(runtime: str, folder: Path, expected: str, count: int) -> dict[str, Any]:
    """Processes that start at once, open the folder and play."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--child", "--runtime", runtime, "--bundle", str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    found = [process.communicate()[0].strip() for process in started]
    return _told(found, count, expected, began)


def _told(found: list[str], count: int, expected: str, began: float) -> dict[str, Any]:
    seconds = round(time.perf_counter() - began, 2)
    return {"players": count, "seconds": seconds, "equal_bits": found == [expected] * count}


def mixed_requests(runtime: str, folder: Path, count: int) -> dict[str, Any]:
    """One session, request after request; memory in MB after the first hundred and every tenth of the rest."""
    play, choose = sessions(runtime, folder)(), random.Random(0)
    before, refused, memory = digest(play), 0, []
    began = time.perf_counter()
    for number in range(1, count + 1):
        batch = choose.randint(1, 4)
        labels = [choose.choice([1, 2, 3])] * batch
        request: dict[str, Any] = {"inputs": {"labels": labels}, "batch": batch, "seed": choose.getrandbits(64)}
        request |= {"accelerated": choose.random() < 0.7, "guidance": choose.choice([1.5, 4.0, 7.5])}
        if choose.random() < 0.1:
            request |= choose.choice(FAULTS)
        try:
            play(request)
        except RequestError:
            refused += 1
        if number == SETTLED or (number > SETTLED and number % max(1, count // 10) == 0):
            memory.append(round(_resident_mb(), 2))
    growth = round(memory[-1] - memory[0], 2)
    return {
        "requests": count, "refused": refused, "seconds": round(time.perf_counter() - began, 1), "memory_mb": memory,
        "growth_mb": growth, "grew_little": growth <= MOST_GROWTH_MB, "equal_bits": digest(play) == before,
    }  # fmt: skip


def _resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    from importlib.metadata import version

    from soda_export.bench.doctor import describe_machine

    found = describe_machine()
    return {
        "processor": found.processor, "cpus": found.cores, "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(), "onnxruntime": version("onnxruntime"), "numpy": version("numpy"),
        "date": time.strftime("%Y-%m-%d"), "command": " ".join(["python benchmarks/load.py", *sys.argv[1:]]),
    }  # fmt: skip


def main() -> int:
    """Run all checks and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=["python", "cpp"], help="default both")
    parser.add_argument("--bundle", type=Path, default=GOLDEN, help="one of labels; default a golden one")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(digest(sessions(options.runtime, options.bundle)()))
        return 0
    result: dict[str, Any] = {"machine": machine()}
    expected = digest(sessions("python", options.bundle)())
    for runtime in [options.runtime] if options.runtime else ["python", "cpp"]:
        result[runtime] = {
            "threads_over_one_bundle": threads_over_one_bundle(runtime, options.bundle, expected),
            "processes_over_one_folder": processes_over_one_folder(runtime, options.bundle, expected, PROCESSES),
            "processes_starting_at_once": processes_over_one_folder(runtime, options.bundle, expected, STARTING),
            "mixed_requests": mixed_requests(runtime, options.bundle, options.requests),
        }
        print(json.dumps({runtime: result[runtime]}, indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    checks = [value for name, runtime in result.items() if name != "machine" for value in runtime.values()]
    return int(not all(check["equal_bits"] and check.get("grew_little", True) for check in checks))


if __name__ == "__main__":
    sys.exit(main())

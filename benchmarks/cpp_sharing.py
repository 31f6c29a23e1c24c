"""One copy of the weights for twelve programs: memory and speed of the C++ runtime against the Python runtime.

    python benchmarks/cpp_sharing.py            # after `make cpp`

A DiT of XL width with random weights and twelve step programs. Resident weights (`weights_copies`, in copies of the
weights file) are the anonymous memory that opening all programs adds to a process, and the pages of the weights file
that are resident after a generation; of the Python runtime its first step's activations count, too. `everything_copies`
counts activations, arena and tables. The Python runtime repacks the weights for each program, or with `--weights
shared` leaves them where the file is mapped (`python-shared`); all use the same ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PROGRAMS, LABEL = 12, 3
RUNTIMES = ("cpp", "python", "python-shared")


def build(scratch: Path, layers: int) -> Path:
    """A bundle whose steps run one full program and eleven that reuse attention and renew different numbers of tokens
    in the feed-forward modules, as the planners' steps do."""
    from xl_model import save_random_dit

    from soda_export.models.decisions import REUSE
    from soda_export.models.identity import SamplerIdentity, identify
    from soda_export.options import SamplerOptions
    from soda_export.plan.plan import Plan
    from soda_export.plan.schedule import Schedule
    from soda_export.workbench.pipeline import Workbench
    from soda_export.workbench.stages import StageStore

    save_random_dit(scratch / "model", layers)
    options = SamplerOptions("ddim", PROGRAMS, 0.0, 1.5)
    bench = Workbench(str(scratch / "model"), options, StageStore(scratch / "work"), lambda *_: None)
    spec = bench.loaded.spec
    work = Schedule.full(spec, PROGRAMS).work
    for step in range(1, PROGRAMS):
        work[step, list(spec.kinds["attn"])], work[step, list(spec.kinds["ff"])] = REUSE, 16 * step
    plan = Plan(identify(spec), SamplerIdentity("ddim", PROGRAMS), 1.5, Schedule(work))
    return bench.build(plan, "ort", scratch / "bundle").out


def resident(weights: str) -> tuple[int, int]:
    """Anonymous bytes of this process, and resident bytes of the file `weights`."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    match = re.search(r"Anonymous:\s+(\d+) kB", rollup)
    assert match
    pages, counting = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counting = line.endswith(weights)
        elif counting and line.startswith("Pss:"):  # a page that several sessions map counts once
            pages += int(line.split()[1]) << 10
    return int(match[1]) << 10, pages


def sessions(bundle: Path, runtime: str, threads: int) -> Any:
    """A session, its library loaded, nothing of the bundle's programs open."""
    if runtime != "cpp":
        from soda_runtime import Session

        return Session.open(bundle, threads=threads, weights="shared" if runtime == "python-shared" else "")
    from tests.cpp.library import load

    return load().open(bundle, threads=threads).session()


def start(session: Any, runtime: str) -> None:
    """Begin a request."""
    if runtime == "cpp":
        session.start(labels=[LABEL], seed=0)
    else:
        session.start(LABEL, seed=0)


def measure_memory(bundle: Path, runtime: str, threads: int) -> None:
    """Print what opening every program, and a whole generation, added to this process."""
    session = sessions(bundle, runtime, threads)
    before, _ = resident("weights.safetensors")
    begin = time.perf_counter()
    start(session, runtime)
    if runtime != "cpp":  # which opens all programs at once; the Python runtime the others after the first step
        session.step(0)
        session.playback.wait()
    seconds = time.perf_counter() - begin
    opened = resident("weights.safetensors")
    for i in range(0 if runtime == "cpp" else 1, PROGRAMS):
        session.step(i)
    played = resident("weights.safetensors")
    print(json.dumps({
        "open_seconds": seconds,
        "opened_anonymous": opened[0] - before, "opened_pages": opened[1],
        "played_anonymous": played[0] - before, "played_pages": played[1],
    }))  # fmt: skip


def measure_speed(bundle: Path, rounds: int, threads: int) -> dict[str, Any]:
    """All runtimes in turn, in one process: seconds of a generation, and the largest difference of latents."""
    opened = {runtime: sessions(bundle, runtime, threads) for runtime in RUNTIMES}
    times: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    latents: dict[str, Any] = {}
    for _ in range(rounds + 1):
        for runtime, session in opened.items():
            begin = time.perf_counter()
            start(session, runtime)
            for i in range(PROGRAMS):
                session.step(i)
            latents[runtime] = session.latents()
            times[runtime].append(time.perf_counter() - begin)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {
        "seconds": median, "over_python": {name: value / median["python"] for name, value in median.items()},
        "least": {name: min(values[1:]) for name, values in times.items()},
        "difference": {name: float(np.abs(found - latents["python"]).max()) for name, found in latents.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bundle", type=Path, help="a bundle built before by this command; default: build it")
    parser.add_argument("--keep", type=Path, help="build into this folder and leave the bundle there")
    parser.add_argument("--memory", choices=RUNTIMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        return measure_memory(args.bundle, args.memory, args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = args.bundle or build(args.keep or Path(scratch), args.layers)
        copy = (bundle / "weights.safetensors").stat().st_size
        record: dict[str, Any] = {"weights_bytes": copy, "programs": PROGRAMS}
        for runtime in RUNTIMES:
            options = ["--bundle", str(bundle), "--memory", runtime, "--threads", str(args.threads)]
            command = [sys.executable, __file__, *options]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            weights, everything = (found[f"{when}_anonymous"] + found["played_pages"] for when in ("opened", "played"))
            record[runtime] = {**found, "weights_copies": weights / copy, "everything_copies": everything / copy}
        record["speed"] = measure_speed(bundle, args.rounds, args.threads)
    print(json.dumps(record, indent=1))
    return None


if __name__ == "__main__":
    main()

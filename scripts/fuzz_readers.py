"""Two readers, one verdict: mutations of the golden bundles are opened and played by the Python and the C++ runtime.

    python scripts/fuzz_readers.py --seconds 60
    python scripts/fuzz_readers.py --format 5 --mutations 100000 --seed 1
    python scripts/fuzz_readers.py --format 5 --seed 1 --only 4711      # one mutation again, with what was changed

Both must give the same verdict, errors of one family and, where they open a bundle, the same answer to a request: equal
latents, or errors of one family. A crash or a hang of either is a disagreement. Each one is printed with the command
that repeats it; the exit code is then 1. Bundles lie in a memory file system. Needs `make cpp`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORMATS = (3, 4, 5)
SECONDS_FOR_ONE = 120  # a mutation that takes longer hangs, on however busy a machine


def main() -> int:
    """Run the wanted mutations in processes that may die, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0, help="stop after so many; default no limit")
    parser.add_argument("--mutations", type=int, default=0, help="of each format version; default no limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", type=int, choices=FORMATS, default=0, help="default each in turn")
    parser.add_argument("--only", type=int, help="number of one mutation, to be repeated and explained")
    parser.add_argument("--from", dest="first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return _work(options)
    if not (options.seconds or options.mutations or options.only is not None):
        parser.error("give --seconds or --mutations")
    if options.only is not None:
        options.first, options.mutations = options.only, options.only + 1
    found = Counter()
    began, formats = time.monotonic(), [options.format] if options.format else list(FORMATS)
    for i, version in enumerate(formats):
        share = (options.seconds - (time.monotonic() - began)) / (len(formats) - i) if options.seconds else 0
        found += _run(options, version, share)
    print(f"{found['mutations']} mutations of formats {formats}: {found['disagreements']} disagreements, "
          f"{found['crashes']} crashes, {found['hangs']} hangs; {found['opened']} opened, {found['played']} played, "
          f"{time.monotonic() - began:.0f} s, seed {options.seed}")  # fmt: skip
    return int(any(found[kind] for kind in ("disagreements", "crashes", "hangs")))


def _run(options: argparse.Namespace, version: int, seconds: float) -> Counter[str]:
    """Mutations of one format version; a worker that dies is followed by another one behind the fatal mutation."""
    found, first, end = Counter[str](), options.first, time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="soda-fuzz-", dir=_memory_folder()) as scratch:
        while True:
            left = max(0.1, end - time.monotonic()) if seconds else 0
            command = [
                sys.executable, __file__, "--worker", scratch, "--format", str(version), "--seed", str(options.seed),
                "--from", str(first), "--mutations", str(options.mutations), "--seconds", str(left),
                *(["--only", str(first)] if options.only is not None else []),
            ]  # fmt: skip
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "runtime" / "python")])}
            status = subprocess.run(command, env=environment, check=False).returncode
            if not (Path(scratch) / "counts").exists():
                sys.exit("no mutation was tried, see above")
            counts = (Path(scratch) / "counts").read_text().split()
            for name, count in zip(("mutations", "opened", "played", "disagreements"), counts, strict=True):
                found[name] += int(count)
            if status == 0:
                return found
            kind = "hangs" if status == -signal.SIGALRM else "crashes"
            found[kind] += 1
            first += int(counts[0])
            _report(options.seed, version, first - 1, f"one of {kind} (status {status})")


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None


def _report(seed: int, version: int, number: int, what: str) -> None:
    again = f"python scripts/fuzz_readers.py --format {version} --seed {seed} --only {number}"
    print(f"DISAGREE: {what}\n    {again}", flush=True)


def _work(options: argparse.Namespace) -> int:
    """Mutations one after the other in this process, counted in a file that outlives it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    scratch = Path(options.worker)
    os.environ["XDG_CACHE_HOME"] = "/dev/null/none"  # hashes are not remembered
    from tests.cpp.library import load
    from tests.cpp.mutations import Mutator
    from tests.cpp.verdicts import Readers, walk_each_graph_once

    walk_each_graph_once()
    readers, mutator = Readers(load()), Mutator(options.format, scratch / "goldens")
    counts, parent = [0, 0, 0, 0], os.getppid()
    end = time.monotonic() + options.seconds
    number = options.first
    with (scratch / "counts").open("w", buffering=1) as file:
        while not options.mutations or number < options.mutations:
            if (options.seconds and time.monotonic() > end) or os.getppid() != parent:  # the one that reads them died
                break
            counts[0] += 1
            file.seek(0)
            file.write(" ".join(map(str, counts)) + "\n")
            signal.alarm(SECONDS_FOR_ONE)
            choose = random.Random(f"{options.format}/{options.seed}/{number}")
            with mutator.mutated(choose) as (folder, changes, sound_programs):
                if options.only is not None:
                    kept = Path(tempfile.mkdtemp(prefix="soda-fuzz-")) / folder.name
                    shutil.copytree(folder, kept, symlinks=True)
                    print(f"changed: {changes}; a copy is in {kept}", flush=True)
                answer = readers.compare(folder, choose, engines=None if sound_programs else False)
            counts[1] += answer.opened
            counts[2] += answer.played
            if answer.difference:
                counts[3] += 1
                _report(options.seed, options.format, number, f"{changes}: {answer.difference}")
            if options.only is not None:
                print(answer, flush=True)
            number += 1
        file.seek(0)
        file.write(" ".join(map(str, counts)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

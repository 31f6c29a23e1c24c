"""kill -9 every verb that writes, at random moments, run it again, and check that nothing was ever half-written.

    python benchmarks/kill_builds.py --rounds 1000 --out docs/results/kills.json

Half of the kills come at a random time, half before a random change of the file system. What is checked is in
tests/faults/kills.py, which verbs and stages in tests/faults/cases.py. The model is a toy, imported and traced once, so
that kills meet the time in which files are written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.faults.cases import make_stock
from tests.faults.kills import Campaign, Kill
from tests.faults.places import Places
from tests.faults.verbs import Verbs
from tests.tiny import save_tiny_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--out", type=Path, help="file for the figures, written after every ten kills")
    args = parser.parse_args()
    started, kills = time.time(), list[Kill]()
    scratch = Path(tempfile.mkdtemp())  # kept where a check fails: it shows what was left
    model = save_tiny_model(scratch / "tiny")
    verbs = Verbs(model)
    make_stock(verbs, model, scratch / "stock")
    (scratch / "places").mkdir()
    campaign = Campaign(Places(verbs, model, scratch / "stock", scratch / "places"), args.seed)
    for kill in campaign.kills(args.rounds):
        kills.append(kill)
        passed = time.time() - started
        if len(kills) % 10 == 0 or len(kills) == args.rounds or passed > args.seconds:
            print(f"{len(kills)} kills in {passed:.0f} s: none left anything behind", flush=True)
            if args.out:
                args.out.write_text(json.dumps(_figures(kills, args.seed, passed), indent=1) + "\n")
        if passed > args.seconds:
            break
    verbs.close()
    shutil.rmtree(scratch)


def _figures(kills: list[Kill], seed: int, seconds: float) -> dict[str, object]:
    cases = Counter(kill.case for kill in kills)
    died = Counter(kill.case for kill in kills if kill.died)
    there = Counter(kill.case for kill in kills if kill.died and kill.there)
    return {
        "command": f"python benchmarks/kill_builds.py --rounds {len(kills)} --seed {seed}",
        "processor": _processor(), "python": platform.python_version(), "seconds": round(seconds),
        "rounds": len(kills), "killed": sum(died.values()), "came_too_late": len(kills) - sum(died.values()),
        "half_written": 0, "left_behind_after_the_next_run": 0, "next_runs_that_failed_or_differed": 0,
        "cases": {
            name: {"rounds": cases[name], "killed": died[name], "with_outputs_there": there[name]} for name in cases
        },
    }  # fmt: skip


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()

"""Run verbs on a disk that is full after every single page, and after every single file, and run each again with room.

    python benchmarks/full_disk.py --out docs/results/full-disk.json

Needs the right to mount a tmpfs. What is checked is in tests/faults/full_disk.py. `--every 5` takes each fifth point.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.faults.cases import CASES, make_stock
from tests.faults.full_disk import fill, need_of
from tests.faults.places import Places
from tests.faults.verbs import Verbs
from tests.tiny import save_tiny_model

_SLOW = ("build: best", "sweep: bench")  # what they write, others write, too; they take 5 and 7 s a run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take each n-th page and file")
    parser.add_argument("--out", type=Path, help="file for the figures, written after every case")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = save_tiny_model(Path(scratch) / "tiny")
        verbs = Verbs(model)
        make_stock(verbs, model, Path(scratch) / "stock")
        for name in ("places", "disk"):
            (Path(scratch) / name).mkdir()
        places = Places(verbs, model, Path(scratch) / "stock", Path(scratch) / "places")
        started, cases = time.time(), {}
        for case in CASES:
            if case.name in _SLOW:
                continue
            cases[case.name] = _take(places, case.name, Path(scratch) / "disk", args.every)
            print(f"{case.name}: {cases[case.name]}", flush=True)
            if args.out:
                figures = {
                    "command": f"python benchmarks/full_disk.py --every {args.every}", "cores": os.cpu_count(),
                    "seconds": round(time.time() - started), "left_out": _SLOW, "faults": 0, "cases": cases,
                }  # fmt: skip
                args.out.write_text(json.dumps(figures, indent=1) + "\n")
        verbs.close()


def _take(places: Places, name: str, folder: Path, every: int) -> dict[str, int]:
    """Points that were taken, and at how many of them the verb was refused room."""
    case = next(case for case in CASES if case.name == name)
    need = need_of(places, case, folder)
    pages = [fill(places, case, folder, pages=room) for room in range(0, need.pages, every)]
    files = [fill(places, case, folder, files=room) for room in range(0, need.files, every)]
    return {
        "pages_needed": need.pages, "files_needed": need.files, "points": len(pages) + len(files),
        "refused_in_one_line": sum(map(bool, [*pages, *files])),
    }  # fmt: skip


if __name__ == "__main__":
    main()

"""kill -9 a build at random moments, build again, and check that nothing was ever half-written.

    python benchmarks/kill_builds.py --rounds 20
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.test_build import kill_at_random_moments
from tests.tiny import save_tiny_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--longest", type=float, default=18.0, help="latest moment of a kill, in seconds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = save_tiny_model(Path(scratch) / "tiny")
        for line in kill_at_random_moments(model, Path(scratch), args.rounds, args.longest):
            print(line)
    print(f"{args.rounds} kills, {args.rounds} whole bundles")


if __name__ == "__main__":
    main()

"""Score a digits bundle, accelerated and not: share of samples recognised as their label, Frechet distance.

    python scripts/score_digits.py engines/digits-b17-ort --samples 300
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from soda_runtime import Session

from soda_export.eval.digits import DigitsJudge

_BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    judge, session = DigitsJudge(), Session.open(args.bundle)
    labels = np.arange(args.samples) % 10
    scores = {"held_out_accuracy_of_the_classifier": judge.held_out_accuracy()}
    for name, accelerated in (("accelerated", True), ("everything_computed", False)):
        parts = [
            session.generate(labels[i : i + _BATCH].tolist(), seed=args.seed + i, accelerated=accelerated)
            for i in range(0, args.samples, _BATCH)
        ]
        images = np.concatenate(parts)
        scores[f"{name}_accuracy"] = judge.accuracy(images, labels)
        scores[f"{name}_frechet"] = judge.frechet_to_held_out(images)
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()

"""Score a shapes bundle, accelerated and not, on held-out prompts with the same noise: prompt satisfaction and PSNR.

    python scripts/score_shapes.py engines/shapes-b8-ort --prompts 200
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from soda_runtime import Session

from soda_export.eval.scene_checker import SceneChecker
from soda_export.eval.scenes import held_out_prompts

_BATCH = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    scenes, session = held_out_prompts(args.prompts), Session.open(args.bundle)
    drawn = {}
    for name, accelerated in (("accelerated", True), ("everything_computed", False)):
        parts = []
        for i in range(0, len(scenes), _BATCH):
            captions = [scene.caption for scene in scenes[i : i + _BATCH]]
            session.generate(prompt=captions, seed=args.seed + i, accelerated=accelerated)
            parts.append(session.images())
        drawn[name] = np.concatenate(parts)
    checker = SceneChecker()
    satisfied = {name: checker.satisfied(images.transpose(0, 3, 1, 2), scenes) for name, images in drawn.items()}
    errors = ((drawn["accelerated"] - drawn["everything_computed"]) ** 2).mean((1, 2, 3))
    manifest = session.bundle.manifest
    scores = {
        "bundle": str(args.bundle), "prompts": len(scenes), "sampler": manifest.sampler.name,
        "steps": manifest.sampler.steps, "guidance": manifest.guidance, "flops_ratio": manifest.flops_ratio,
        **{f"satisfied_{name}": float(np.mean(kept)) for name, kept in satisfied.items()},
        "psnr_db": float(-10 * np.log10(errors.mean())),
        "median_psnr_db": float(np.median(-10 * np.log10(errors.clip(1e-12)))),
    }  # fmt: skip
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()

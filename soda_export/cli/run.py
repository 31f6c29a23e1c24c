"""soda-export run"""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from soda_runtime import Session

from ..errors import UsageError
from ..files import write_whole
from ..report.images import save_grid
from .terminal import print_json, progress_bar


def run(
    bundle: str,
    /,
    *,
    labels: str = "0",
    seed: int = 0,
    guidance: float | None = None,
    baseline: bool = False,
    out: str = "out.png",
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Generate with a bundle and write a picture (.png) or the latents (.npy).

    Examples:

        soda-export run engines/digits-b17-ort --labels 0,1,2,3 --seed 0 --out out.png

        soda-export run engines/digits-b17-ort --labels 7 --baseline --out full.png

    Parameters
    ----------
    bundle
        Bundle folder.
    labels
        Class of each sample, separated by commas.
    seed
        Seed of the noise, 0 .. 2**64-1.
    guidance
        Guidance scale. [default: the bundle's]
    baseline
        Compute everything at every step, for comparison.
    out
        File to write: .png for models whose output is pixels, or .npy.
    device
        cpu or cuda.
    json
        Print the result as JSON.
    """
    path = Path(out)
    if path.suffix not in (".png", ".npy"):
        raise UsageError(f"--out {out}: name a .png or a .npy file")
    if path.is_dir():
        raise UsageError(f"--out {out}: is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {path.parent} does not exist")
    session = Session.open(bundle, device=device)
    if path.suffix == ".png" and session.bundle.manifest.model.output != "pixels":
        raise UsageError(f"--out {out}: this model makes latents and the bundle has no decoder; name a .npy file")
    classes = _parse_labels(labels)
    started = time.perf_counter()
    session.start(classes, seed=seed, guidance=guidance, accelerated=not baseline)
    steps = session.bundle.manifest.sampler.steps
    with progress_bar() as progress:
        for step in range(steps):
            session.step(step)
            progress("steps", step + 1, steps)
    latents = session.latents()
    seconds = time.perf_counter() - started
    content = io.BytesIO()
    if path.suffix == ".npy":
        np.save(content, latents)
    else:
        save_grid(latents, content)
    write_whole(path, content.getvalue())
    if json:
        print_json({"out": out, "labels": classes, "seed": seed, "seconds": seconds})
    else:
        print(f"{out}: {len(classes)} samples in {seconds:.2f} s (engines opened on the way)")


def _parse_labels(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--labels {text}: give whole numbers separated by commas, e.g. 0,1,2,3") from None

"""Write the golden bundle of the current format version: tests/golden/v<VERSION>, with inputs and expected latents.

    python scripts/make_golden.py

A golden bundle is made once per format version and never again: readers of later versions must still open it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from soda_runtime import Session
from soda_runtime.manifest import VERSION
from soda_runtime.philox import INITIAL_STREAM, latent_noise

from soda_export.options import SamplerOptions
from soda_export.pipeline import Workbench
from soda_export.reference import run_reference
from soda_export.stages import StageStore

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.tiny import make_plan, mixed_kept, save_tiny_model  # noqa: E402

LABELS, SEED = [3, 7], 1234


def main() -> None:
    out = ROOT / f"tests/golden/v{VERSION}"
    if out.exists():
        sys.exit(f"{out} exists: a golden bundle is never remade; raise the format version instead")
    with tempfile.TemporaryDirectory() as scratch:
        model = save_tiny_model(Path(scratch) / "tiny")
        store = StageStore(ROOT / "tests/golden/.work")
        options = SamplerOptions("ddim", 8, 1.0, 1.5)
        bench = Workbench(str(model), options, store, lambda *_: None)
        plan = make_plan(bench.loaded.denoiser.spec, mixed_kept(), eta=1.0)
        table = bench.build(plan, "ort", out).table
        store.discard(store.root)
    shape = bench.loaded.denoiser.spec.latent_shape
    initial = latent_noise(SEED, INITIAL_STREAM, len(LABELS), shape)
    steps = np.stack([latent_noise(SEED, 1 + i, len(LABELS), shape) for i in range(8)])
    reference = run_reference(
        bench.loaded.denoiser, bench.sampler, table, torch.tensor(LABELS), torch.from_numpy(initial),
        torch.from_numpy(steps),
    ).numpy()  # fmt: skip
    played = Session.open(out).generate(LABELS, seed=SEED)
    print(f"{out}: largest difference from the reference {np.abs(played - reference).max():.2e}")
    np.savez(out.with_suffix(".npz"), labels=LABELS, seed=SEED, latents=reference)


if __name__ == "__main__":
    main()

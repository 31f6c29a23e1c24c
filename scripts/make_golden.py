"""Write the golden bundles of the current format version, with inputs and expected latents.

    python scripts/make_golden.py

tests/golden/v<VERSION> is conditioned on labels, v<VERSION>-text on prompts, with text encoder and image decoder. A
golden bundle is made once per format version and never again: readers of later versions must still open it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from soda_runtime import Session
from soda_runtime.manifest import VERSION
from soda_runtime.philox import INITIAL_STREAM, latent_noise

from soda_export.build.pipeline import Workbench
from soda_export.build.stages import StageStore
from soda_export.eager.reference import run_reference
from soda_export.models.denoiser import TextRows
from soda_export.options import ProfileOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.search.trial import Trials

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.tiny import forecasting_schedule, make_plan, save_tiny_model, save_tiny_pixart  # noqa: E402

LABELS, SEED = [3, 7], 1234
PROMPTS, NEGATIVE = ["a red circle", "a blue square above a red circle"], "blue"


def main() -> None:
    outs = ROOT / f"tests/golden/v{VERSION}", ROOT / f"tests/golden/v{VERSION}-text"
    for out in outs:
        if out.exists():
            sys.exit(f"{out} exists: a golden bundle is never remade; raise the format version instead")
    label_options, text_options = SamplerOptions("ddim", 10, 1.0, 1.5), SamplerOptions("dpm-solver++", 10, 0.0, 4.5)
    make(outs[0], save_tiny_model, label_options, {"labels": LABELS}, lambda bench: torch.tensor(LABELS))
    request = {"prompt": PROMPTS, "negative_prompt": NEGATIVE}
    make(outs[1], save_tiny_pixart, text_options, request, encode)


def encode(bench: Workbench) -> TextRows:
    texts = bench.components.encode([*PROMPTS, NEGATIVE, NEGATIVE])
    return TextRows(texts.embeds, texts.mask)


def make(
    out: Path, save: Callable[[Path], Path], options: SamplerOptions, request: dict[str, object],
    condition: Callable[[Workbench], torch.Tensor | TextRows],
) -> None:  # fmt: skip
    """Build a toy model with steps of every kind, and play it to compare with the reference."""
    with tempfile.TemporaryDirectory() as scratch:
        model = save(Path(scratch) / "tiny")
        store = StageStore(Path(scratch) / "work")
        bench = Workbench(str(model), options, store, lambda *_: None)
        spec = bench.loaded.spec
        schedule = forecasting_schedule(modules=len(spec.modules))
        plan = make_plan(
            spec, schedule.kept, options.sampler, options.eta, options.guidance, stack=schedule.stack
        )  # fmt: skip
        table = bench.build(replace(plan, coefficients=fit(bench, schedule)), "ort", out).table
        rows = condition(bench)
    initial = latent_noise(SEED, INITIAL_STREAM, 2, spec.latent_shape)
    steps = np.stack([latent_noise(SEED, 1 + i, 2, spec.latent_shape) for i in range(options.steps)])
    reference = run_reference(
        bench.loaded.denoiser, bench.sampler, table, rows, torch.from_numpy(initial), torch.from_numpy(steps)
    ).numpy()
    session = Session.open(out)
    played = session.generate(**request, seed=SEED)
    print(f"{out}: largest difference from the reference {np.abs(played - reference).max():.2e}")
    expected = {"latents": reference, **({"images": session.images()} if "prompt" in request else {})}
    np.savez(out.with_suffix(".npz"), seed=SEED, **request, **expected)


def fit(bench: Workbench, schedule: Schedule) -> NDArray[np.float32]:
    """Coefficients of the sampler for the schedule."""
    options = ProfileOptions()
    calibration = bench.calibration(options, bench.calibration_texts(options))
    trials = Trials(
        bench.loaded.denoiser, bench.sampler, bench.identity, bench.options.guidance, calibration, range(4)
    )  # fmt: skip
    return trials.fit_sampler(schedule).coefficients


if __name__ == "__main__":
    main()

"""From a model's name to the folder, the workbench and the case that all systems share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xl_model import save_random_dit

from soda_export.eval.conditions import SeedConditions
from soda_export.eval.seeds import seed_noise
from soda_export.models.load import DEFAULT_PARTS, TEXT_PARTS, ModelRequest, load_model
from soda_export.options import SamplerRequest, defaults_for
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

from .case import Case

XL = "dit-xl"
FIRST_SEED = 1_000_000
"""Far from the seeds of profiles and planners: nobody planned for this noise (soda_export/eval/seeds.py)."""


@dataclass(frozen=True)
class Requests:
    """How much is asked of every system. steps: 0 = the model's own number."""

    samples: int
    batch: int
    threads: int
    steps: int = 0


def open_model(name: str, layers: int, asked: Requests, work: Path) -> tuple[Workbench, Case]:
    """A built-in model, `dit-xl` (random weights) or a diffusers folder."""
    folder = _random_xl(layers, work) if name == XL else None
    loaded = load_model(ModelRequest(str(folder or name)), (*DEFAULT_PARTS, *TEXT_PARTS))
    base, guidance = defaults_for(loaded)
    steps = asked.steps or (20 if name == XL else base.steps)
    sampler = SamplerRequest(steps=steps).resolve(base, guidance)
    bench = Workbench(loaded, sampler, StageStore(work / "stages"), lambda *_: None)
    assert loaded.folder is not None
    noise, condition = _inputs(bench, asked)
    label = f"{XL}-{layers}" if name == XL else loaded.spec.name
    return bench, Case(label, loaded.folder, sampler, asked.threads, noise, condition)


def _inputs(bench: Workbench, asked: Requests) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    spec, conditions = bench.loaded.spec, SeedConditions(bench)
    noise, found = [], []
    for first in range(FIRST_SEED, FIRST_SEED + asked.samples, asked.batch):
        seeds = range(first, first + asked.batch)
        noise.append(seed_noise(seeds, spec.latent_shape, 0).initial)
        found.append({port: rows.numpy() for port, rows in conditions(seeds).items()})
    return np.stack(noise), {name: np.stack([rows[name] for rows in found]) for name in found[0]}


def _random_xl(layers: int, work: Path) -> Path:
    """A diffusers DiT folder of XL width, random weights, made once."""
    folder = work / f"{XL}-{layers}"
    if not (folder / "scheduler").is_dir():
        save_random_dit(folder, layers)
    return folder

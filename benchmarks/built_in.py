"""A model with the sampler, steps and guidance that it comes with, for benchmarks that measure in torch."""

from __future__ import annotations

from pathlib import Path

from soda_export.models.load import LoadedModel, load_model
from soda_export.models.request import ModelRequest
from soda_export.options import SamplerRequest, defaults_for
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore


def open_bench(model: str | ModelRequest | LoadedModel, store: Path, steps: int | None = None) -> Workbench:
    """store: folder of the stage store. steps: default the model's."""
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    options = SamplerRequest(steps=steps).resolve(*defaults_for(loaded))
    return Workbench(loaded, options, StageStore(store), lambda *_: None)

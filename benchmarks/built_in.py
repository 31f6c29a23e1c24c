"""A model with the sampler, steps and guidance that it comes with, for benchmarks that measure in torch."""

from __future__ import annotations

from pathlib import Path

from soda_export.models.load import LoadedModel, load_model
from soda_export.models.request import ModelRequest
from soda_export.options import SamplerRequest, defaults_for
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore


def open_bench(
    model: str | ModelRequest | LoadedModel, store: Path, asked: SamplerRequest = SamplerRequest()
) -> Workbench:
    """store: folder of the stage store. asked: what is not the model's own."""
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    options = asked.resolve(*defaults_for(loaded))
    return Workbench(loaded, options, StageStore(store), lambda *_: None)

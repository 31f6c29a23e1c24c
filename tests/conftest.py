"""Shared fixtures: a toy model on disk, and workbenches over it."""

from __future__ import annotations

import functools
import gc
import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from soda_export.workbench.pipeline import Built, Workbench
    from tests.sizes_toy import SizesToy

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: torch's threads would wait for each other's cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.set_threshold(100_000, 20, 20)  # over torch's many objects it would take a tenth of the time

OpenBench = Callable[..., "Workbench"]


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remembered weight hashes stay out of the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def pytest_collection_finish() -> None:
    """What the test files imported stays: collections, of which the exporter asks for one a trace, do not walk it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _traces_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every toy: to trace one takes ten seconds, and many files play the same. So is the exporter's table of
    operators, which it makes anew for every trace in half a second."""
    if "soda_export.export.arrange" in sys.modules:
        monkeypatch.setattr("soda_export.export.arrange._KEPT_TRACES", 64)
        monkeypatch.setattr(f"{_REGISTRY}.from_torchlib", staticmethod(_kept_operators()), raising=False)


_REGISTRY = "torch.onnx._internal.exporter._registration.ONNXRegistry"


@functools.cache
def _kept_operators() -> Callable[..., object]:
    return functools.cache(pkgutil.resolve_name(f"{_REGISTRY}.from_torchlib"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy DiT folder."""
    from tests.tiny_models import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def sizes_toy(tmp_path_factory: pytest.TempPathFactory) -> SizesToy:
    """A toy PixArt at three sizes."""
    from tests.sizes_toy import make_sizes_toy

    return make_sizes_toy(tmp_path_factory.mktemp("sizes"))


@pytest.fixture(scope="session")
def open_bench(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenBench:
    """Workbenches over the toy model that share one stage store."""
    from soda_export.options import SamplerOptions
    from soda_export.workbench.pipeline import Workbench
    from soda_export.workbench.stages import StageStore

    root = tmp_path_factory.mktemp("store")

    def opened(sampler: str = "ddim", steps: int = 8, eta: float = 0.0, guidance: float = 1.5) -> Workbench:
        options = SamplerOptions(sampler, steps, eta, guidance)
        return Workbench(str(tiny_model), options, StageStore(root), lambda *_: None)

    return opened


@pytest.fixture(scope="session")
def tiny_pixart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy PixArt folder, with text encoder and VAE."""
    from tests.tiny_models import save_tiny_pixart

    return save_tiny_pixart(tmp_path_factory.mktemp("models") / "tiny-pixart")


@pytest.fixture(scope="session")
def open_text_bench(tiny_pixart: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenBench:
    """Workbenches over the toy PixArt that share one stage store; `scheduler` overrides its scheduler's settings."""
    from dataclasses import replace

    from soda_export.models.load import load_model
    from soda_export.options import SamplerOptions
    from soda_export.workbench.pipeline import Workbench
    from soda_export.workbench.stages import StageStore

    root, loaded = tmp_path_factory.mktemp("text-store"), load_model(str(tiny_pixart))

    def opened(
        sampler: str = "dpm-solver++", steps: int = 8, guidance: float = 4.5, guided_channels: int = 0,
        scheduler: dict[str, object] | None = None,
    ) -> Workbench:  # fmt: skip
        options = SamplerOptions(sampler, steps, 0.0, guidance, guided_channels)
        model = replace(loaded, scheduler_config={**loaded.scheduler_config, **(scheduler or {})})
        return Workbench(model, options, StageStore(root), lambda *_: None)

    return opened


@pytest.fixture(scope="session")
def tiny_bundle(open_bench: OpenBench, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The toy model's bundle with every kind of step."""
    from tests.tiny import make_plan, mixed_kept

    bench = open_bench()
    plan = make_plan(bench.loaded.spec, mixed_kept())
    return bench.build(plan, "ort", tmp_path_factory.mktemp("shelf") / "tiny")

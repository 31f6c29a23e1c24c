"""Sizes that a manifest has and the engines do not are refused before anything of that size is allocated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError
from soda_runtime.backends.host import HostMemory
from soda_runtime.request import example_request

from .bundles import Json, edit_manifest, put


def forbid_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, no memory may be allocated."""

    def fail(*_: object) -> None:
        raise AssertionError("memory was allocated for sizes that no engine has")

    monkeypatch.setattr(HostMemory, "__init__", fail)


def test_a_latent_shape_that_the_engines_do_not_have_is_refused_before_noise_is_drawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise AssertionError("noise was drawn for a shape that no engine has")

    edit_manifest(folder, put("model", "latent_shape", value=[1 << 11] * 3))
    monkeypatch.setattr("soda_runtime.players.latent_noise", fail)
    with pytest.raises(EngineError):
        Bundle.open(folder, threads=1).session().start(1)


def test_an_arena_that_the_engines_do_not_have_is_refused_before_it_is_allocated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def widen(manifest: Json) -> None:
        for slot in manifest["slots"]:
            slot["shape"] = [1 << 20, 1 << 14]
        manifest["arena"].update(bytes=6 << 37)
        for step in manifest["steps"]:
            for key in ("read_offsets", "write_offsets"):
                step[key] = [offset // 2048 << 37 for offset in step[key]]

    edit_manifest(folder, widen)
    forbid_memory(monkeypatch)
    with pytest.raises(EngineError, match="rebuild the bundle"):
        Bundle.open(folder, threads=1).session().start(1)


@pytest.mark.parametrize(
    "change",
    [
        put("tensors", 0, "shape", value=[1 << 17, 1 << 17]),
        lambda m: (
            m["tensors"].append({**m["tensors"][0], "name": "more", "shape": [1 << 17, 1 << 17]}),
            m["prepare"][0]["outputs"].append("more"),
        ),
    ],
    ids=["a tensor of the steps", "a tensor of no step"],
)
def test_a_tensor_that_the_engines_do_not_have_is_refused_before_it_is_allocated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Json], object]
) -> None:
    edit_manifest(folder, change)
    forbid_memory(monkeypatch)
    with pytest.raises(EngineError, match="rebuild the bundle"):
        Bundle.open(folder, threads=1).session().start(1)


def test_an_image_that_the_engine_does_not_have_is_refused_before_it_is_allocated(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_manifest(text_folder, put("finish", 0, "shape", value=[1 << 11] * 3))
    bundle = Bundle.open(text_folder, threads=1)
    session = bundle.session()
    session.start(**example_request(bundle, 1))
    forbid_memory(monkeypatch)
    with pytest.raises(EngineError, match=r"decoder\.onnx: output 'image'.*rebuild the bundle"):
        session.images()

"""NaN and infinity in what a C++ session gives out are errors of the engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from soda_runtime import EngineError

from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_TEXT, copy_golden
from tests.runtime.test_non_finite import VALUES, spoil

from .fields import golden_fields
from .library import Library, has_backend


@pytest.mark.parametrize("value", VALUES)
def test_latents_that_are_not_finite_are_an_engine_error(
    library: Library, backend: str, tmp_path: Path, value: float
) -> None:
    folder = spoil(copy_golden(tmp_path / "bundle", GOLDEN_V5), "weights.safetensors", value)
    session = library.open(folder, backend=backend, threads=1).session()
    with pytest.raises(EngineError, match=r"latents of sample 0 after 10 of 10 steps: .*NaN or infinite.*--precision"):
        session.generate(**golden_fields())
    for use in (session.result, session.result_rgb, session.images, session.rgb):
        with pytest.raises(EngineError, match="NaN or infinite"):
            use()


def test_images_that_are_not_finite_are_an_engine_error(library: Library, tmp_path: Path) -> None:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    folder = spoil(copy_golden(tmp_path / "bundle", GOLDEN_V5_TEXT), "decoder.safetensors", float("nan"))
    session = library.open(folder, threads=1).session()
    ports = {"embeds": np.zeros((1, 8, 16), np.float32), "attention_mask": np.ones((1, 8), np.int64)}
    session.generate(ports=ports | {"-" + name: values for name, values in ports.items()})
    with pytest.raises(EngineError, match=r"image of sample 0 .*NaN or infinite"):
        session.result()

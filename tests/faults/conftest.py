"""One warm process, and what cases need, for all tests of faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .cases import make_stock
from .places import Places
from .verbs import Verbs


@pytest.fixture(scope="session")
def places(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Folders to run cases in."""
    folder = tmp_path_factory.mktemp("faults")
    verbs = Verbs(tiny_model)
    try:
        make_stock(verbs, tiny_model, folder / "stock")
        (folder / "places").mkdir()
        yield Places(verbs, tiny_model, folder / "stock", folder / "places")
    finally:
        verbs.close()

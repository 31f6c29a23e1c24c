"""Benches of toy pipelines, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.pipelines.toys import Bench


@pytest.fixture(scope="session")
def open_toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """A toy's bench by its name."""
    benches: dict[str, Bench] = {}

    def opened(name: str) -> Bench:
        if name not in benches:
            benches[name] = Bench(name, tmp_path_factory.mktemp(name))
        return benches[name]

    return opened

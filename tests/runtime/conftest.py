"""Remembered hashes stay in the test; `refuses` opens a hostile bundle with no backend to allocate from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from soda_runtime import Bundle, BundleError, Session
from soda_runtime.backends.host import HostMemory

from .bundles import GOLDEN, GOLDEN_TEXT, GOLDEN_V1, GOLDEN_V3, GOLDEN_V4, copy_current, copy_golden

_REMEDY = re.compile(r"copy the bundle again|build the bundle again|rebuild|update soda-runtime|`soda-export build`")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the golden bundle as one of the current version, with remembered hashes of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return copy_current(tmp_path / "bundle")


@pytest.fixture
def text_folder(folder: Path) -> Path:
    """A copy of the golden bundle of prompts as one of the current version."""
    return copy_current(folder.with_name("text"), GOLDEN_TEXT)


@pytest.fixture
def v1_folder(folder: Path) -> Path:
    """A copy of the golden bundle of version 1."""
    return copy_golden(folder.with_name("v1"), GOLDEN_V1)


@pytest.fixture
def v3_folder(folder: Path) -> Path:
    """A copy of the golden bundle of version 3."""
    return copy_golden(folder.with_name("v3"), GOLDEN_V3)


@pytest.fixture
def v4_folder(folder: Path) -> Path:
    """A copy of the golden bundle of version 4."""
    return copy_golden(folder.with_name("v4"), GOLDEN_V4)


@pytest.fixture(scope="session")
def text_bundle() -> Bundle:
    """The golden bundle of prompts, opened once with its own backend."""
    return Bundle.open(GOLDEN_TEXT, threads=1)


@pytest.fixture(scope="session")
def ort_bundle() -> Bundle:
    """The golden bundle, opened once with its own backend."""
    return Bundle.open(GOLDEN, threads=1)


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], None]:
    """Open a bundle and demand a one-line BundleError with the culprit's path and a remedy, before any allocation."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a backend was opened or memory allocated before the bundle was refused")

    monkeypatch.setattr("soda_runtime.opened.open_backend", fail)
    monkeypatch.setattr(HostMemory, "__init__", fail)

    def check(folder: Path, culprit: str) -> None:
        with pytest.raises(BundleError) as caught:
            Bundle.open(folder, backend="null")
        message = str(caught.value)
        assert message.isprintable()
        assert message.startswith(f"{folder / culprit}: ")
        assert _REMEDY.search(message), message
        assert len(message) < 1000 + len(str(folder))

    return check


@pytest.fixture
def opens() -> Callable[[Path], None]:
    """Open a bundle that must not be refused."""
    return lambda folder: Bundle.open(folder, backend="null").close()


@pytest.fixture
def session(ort_bundle: Bundle) -> Session:
    """A new session of the golden bundle."""
    return ort_bundle.session()


@pytest.fixture
def text_session(text_bundle: Bundle) -> Session:
    """A new session of the golden bundle of prompts."""
    pytest.importorskip("tokenizers")
    return text_bundle.session()


@pytest.fixture
def null_text_bundle() -> Bundle:
    """The golden bundle of prompts on the null backend."""
    return Bundle.open(GOLDEN_TEXT, backend="null")


@pytest.fixture
def null_bundle() -> Bundle:
    """The golden bundle on the null backend, for requests that are judged before anything is computed."""
    return Bundle.open(GOLDEN, backend="null")

"""The library, bundles that a test may damage, and the demand that both runtimes refuse a bundle alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from soda_runtime import Bundle, BundleError

from tests.runtime.bundles import GOLDEN_TEXT, GOLDEN_V1, copy_golden

from .library import ROOT, Library, load

_REMEDY = re.compile(r"copy the bundle again|copy or build|rebuild|update soda-runtime|`soda-export build`")
_FRESH = {"digits": "digits-b17-ort", "shapes": "shapes-b8-ort"}


@pytest.fixture(scope="session")
def library() -> Library:
    """libsoda_runtime; skips where it has not been built."""
    return load()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the golden bundle, with remembered hashes of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return copy_golden(tmp_path / "bundle")


@pytest.fixture
def text_folder(folder: Path) -> Path:
    """A copy of the golden bundle of prompts."""
    return copy_golden(folder.with_name("text"), GOLDEN_TEXT)


@pytest.fixture
def v1_folder(folder: Path) -> Path:
    """A copy of the golden bundle of version 1."""
    return copy_golden(folder.with_name("v1"), GOLDEN_V1)


@pytest.fixture
def refuses(library: Library) -> Callable[[Path, str], None]:
    """Open a bundle in both runtimes: a one-line BundleError from each, C++'s with the culprit's path and a remedy."""

    def check(folder: Path, culprit: str) -> None:
        with pytest.raises(BundleError) as caught:
            library.open(folder, backend="null")
        message = str(caught.value)
        assert message.isprintable()
        manifest = folder / "manifest.json"  # is to blame for an int beyond 64 bits, which a reader may refuse there
        assert message.startswith(
            (f"{folder / culprit}: ", f"{manifest}: $") if "64 bits" in message else f"{folder / culprit}: "
        )
        assert _REMEDY.search(message), message
        assert len(message) < 1000 + len(str(folder))
        with pytest.raises(BundleError):
            Bundle.open(folder, backend="null")

    return check


@pytest.fixture(scope="session", params=["digits", "shapes"])
def fresh_bundle(request: pytest.FixtureRequest) -> Path:
    """A bundle of a built-in model, as `soda-export build` left it on the shelf."""
    path = ROOT / "engines" / _FRESH[request.param]
    if not path.is_dir():
        budget = path.name.split("-")[1].removeprefix("b")
        command = f"soda-export build --model {request.param} --budget {budget} --planner soda"
        pytest.skip(f"engines/{path.name} is not there; run `{command}`")
    return path

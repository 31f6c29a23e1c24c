"""The library, bundles that a test may damage, and the demand that both runtimes refuse a bundle alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from soda_runtime import Bundle, BundleError

from tests.runtime.conftest import folder, text_folder, v1_folder, v3_folder  # noqa: F401  (fixtures)

from .library import ROOT, Library, has_backend, load

_REMEDY = re.compile(r"copy the bundle again|copy or build|rebuild|update soda-runtime|`soda-export build`")
_FRESH = {"digits": "digits-b17-ort", "shapes": "shapes-b8-ort"}


@pytest.fixture(scope="session")
def library() -> Library:
    """libsoda_runtime; skips where it has not been built."""
    return load()


@pytest.fixture(params=["ort", "openvino"])
def backend(request: pytest.FixtureRequest, library: Library) -> str:
    """A backend that was built."""
    name = str(request.param)
    if not has_backend(name):
        pytest.skip(f"the backend {name} has not been built; `make cpp` says why")
    return name


@pytest.fixture
def refuses(library: Library) -> Callable[[Path, str], None]:
    """Open a bundle in both runtimes: a one-line BundleError from each, C++'s with the culprit's path and a remedy."""

    def check(bundle: Path, culprit: str) -> None:
        with pytest.raises(BundleError) as caught:
            library.open(bundle, backend="null")
        message = str(caught.value)
        assert message.isprintable()
        assert message.startswith(f"{bundle / culprit}: ")
        assert _REMEDY.search(message), message
        assert len(message) < 1000 + len(str(bundle))
        with pytest.raises(BundleError):
            Bundle.open(bundle, backend="null")

    return check


@pytest.fixture
def opens(library: Library) -> Callable[[Path], None]:
    """Open a bundle in both runtimes, which must not refuse it."""

    def check(bundle: Path) -> None:
        library.open(bundle, backend="null")
        Bundle.open(bundle, backend="null")

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

"""Random manifests: both runtimes give the same verdict, and what opens plays the same on the null backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from soda_runtime import Bundle, BundleError, SodaError
from soda_runtime.request import example_request

from tests.runtime.test_fuzz import (
    PLAYED_BYTES,
    _played_bytes,
    bounded,
    damaged_texts,
    mutated_manifests,
    roomy,
    schedules,
)

from .fields import fields_of
from .library import InternalCppError, Library

__all__ = ["roomy"]


def _opened(open_bundle: Any, folder: Path) -> Any:
    try:
        return open_bundle(folder, backend="null")
    except BundleError:
        return None


def _play(bundle: Bundle, cpp: Any) -> None:
    for accelerated in (True, False):
        request = {**example_request(bundle, 1), "accelerated": accelerated}
        fields = fields_of(request, bundle)
        try:
            expected = bundle.session().generate(**request)
        except SodaError as error:
            with pytest.raises(type(error)):
                cpp.session().generate(**fields)
            continue
        assert np.array_equal(cpp.session().generate(**fields), expected)


def _same_verdict(library: Library, folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    python, cpp = _opened(Bundle.open, folder), _opened(library.open, folder)
    if python is None or cpp is None:
        assert (python is None) == (cpp is None), text
        return
    if _played_bytes(python.manifest) <= PLAYED_BYTES:
        try:
            _play(python, cpp)
        except InternalCppError as error:
            raise AssertionError("a bundle that opened broke the null backend") from error


@pytest.mark.parametrize("golden", ["folder", "text_folder", "v1_folder", "v3_folder"])
def test_both_give_random_values_the_same_verdict(
    library: Library, golden: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(golden)
    name = {"folder": "labels", "text_folder": "prompts", "v1_folder": "v1", "v3_folder": "v3"}[golden]

    @bounded
    @given(mutated_manifests(name))
    def check(text: bytes) -> None:
        _same_verdict(library, folder, text)

    check()


@bounded
@given(damaged_texts())
def test_both_give_random_bytes_the_same_verdict(library: Library, folder: Path, text: bytes) -> None:
    _same_verdict(library, folder, text)


@bounded
@given(schedules(careful=False))
def test_both_give_a_careless_schedule_the_same_verdict(library: Library, roomy: Path, text: bytes) -> None:
    _same_verdict(library, roomy, text)


@bounded
@given(schedules(careful=True))
def test_both_play_a_sound_schedule(library: Library, roomy: Path, text: bytes) -> None:
    _same_verdict(library, roomy, text)
    assert _opened(library.open, roomy) is not None

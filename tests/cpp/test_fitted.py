"""Bundles whose schedule brings coefficients of its own, in C++: the Python runtime's own attacks, and its results."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError

from tests.runtime.bundles import copy_golden, distance, edit_manifest
from tests.runtime.test_fitted import (
    OLDER,
    fitted,
    test_a_missing_table_of_coefficients_is_refused,
    test_an_older_version_has_its_own_keys,
    test_either_table_of_coefficients_of_another_shape_or_type_is_refused,
    test_the_samplers_own_coefficients_where_the_schedule_has_none_are_refused,
    test_two_tables_of_coefficients_open,
)
from tests.runtime.test_toys import noise_of
from tests.runtime.toys import Toy

from .library import BUILD, Library, has_backend

__all__ = [
    "fitted", "test_a_missing_table_of_coefficients_is_refused", "test_an_older_version_has_its_own_keys",
    "test_either_table_of_coefficients_of_another_shape_or_type_is_refused",
    "test_the_samplers_own_coefficients_where_the_schedule_has_none_are_refused",
    "test_two_tables_of_coefficients_open",
]  # fmt: skip
FAKES = BUILD / "fakes"
SODA_BUNDLE_ERROR = 100
TOYS = {
    "no correction": Toy(),
    "a correction": Toy(fitted=True),
    "a correction of all there is": Toy("fp16", 2, True, True, True, True),
}


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS.keys())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_kind_of_request_takes_its_own_coefficients(
    library: Library, tmp_path: Path, toy: Toy, device: str
) -> None:
    """In one session after another; on the stand-in for a CUDA device, too."""
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    folder, options = toy.write(tmp_path / "toy"), {}
    if device == "cuda":
        if not (FAKES / "libfake_onnxruntime.so").exists():
            pytest.skip("the stand-ins of the backend ort have not been built; `make cpp` says why")
        ctypes.CDLL(str(FAKES / "libcudart.so.13"))  # what the backend finds under that name from now on
        options = {"device": "cuda", "engine_library": str(FAKES / "libfake_onnxruntime.so")}
    session = library.open(folder, threads=1, **options).session()
    python = Bundle.open(folder, threads=1).session()
    for accelerated in (True, False, True):
        latents = session.generate(labels=[0, 4], seed=5, baseline=int(not accelerated))
        assert np.array_equal(latents, python.generate([0, 4], seed=5, accelerated=accelerated))
        expected = toy.play([0, 4], noise_of(5, 2, toy.stochastic), accelerated)
        assert distance(latents, expected) <= {"fp32": 1e-5, "fp16": 2e-3}[toy.precision]


def test_null_takes_either_kind_of_request(library: Library, tmp_path: Path) -> None:
    session = library.open(Toy(fitted=True).write(tmp_path / "toy"), backend="null").session()
    for baseline in (0, 1, 0):
        assert session.generate(labels=[0, 4], seed=5, baseline=baseline).shape == (2, 1, 2, 2)


@pytest.mark.parametrize("name", OLDER)
def test_an_older_version_with_keys_of_a_later_one_says_so(library: Library, folder: Path, name: str) -> None:
    golden, change, message = OLDER[name]
    older = copy_golden(folder.with_name("older"), golden)
    edit_manifest(older, change)
    with pytest.raises(BundleError, match=message) as caught:
        library.open(older, backend="null")
    assert caught.value.status == SODA_BUNDLE_ERROR  # type: ignore[attr-defined]

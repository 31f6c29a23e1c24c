"""Sizes in C++: Python's results at every size, its refusals, handles that outlive one another."""

from __future__ import annotations

import numpy as np
import pytest
from soda_runtime import Bundle, RequestError

from tests.runtime.bundles import GOLDEN_V5_SIZES, golden_request
from tests.runtime.test_sizes import (
    LISTS,
    MANIFESTS,
    test_a_changed_file_of_a_size_is_refused,
    test_a_list_of_sizes_that_lies_is_refused,
    test_a_manifest_of_another_size_that_lies_is_refused,
    test_a_policy_of_one_size_alone_is_refused,
)
from tests.sizes_toy import SizesToy

from .fields import fields_of
from .library import Library

__all__ = [
    "LISTS",
    "MANIFESTS",
    "test_a_changed_file_of_a_size_is_refused",
    "test_a_list_of_sizes_that_lies_is_refused",
    "test_a_manifest_of_another_size_that_lies_is_refused",
    "test_a_policy_of_one_size_alone_is_refused",
]


@pytest.mark.parametrize("preload", [0, 1])
def test_every_size_is_as_in_python(library: Library, backend: str, preload: int) -> None:
    bundle = Bundle.open(GOLDEN_V5_SIZES, backend=backend, threads=1)
    opened = library.open(GOLDEN_V5_SIZES, backend=backend, threads=1, preload=preload)
    assert opened.sizes() == list(bundle.sizes)
    request = golden_request(GOLDEN_V5_SIZES)
    for size in bundle.sizes:
        expected, sized = bundle.at(size), opened.at(*size)
        assert list(sized.info().image_shape) == [*size, 3]
        session, player = expected.session(), sized.session()
        latents = session.generate(**request)
        found = player.generate(**fields_of(request, expected))
        np.testing.assert_allclose(found, latents, atol=1e-5)
        np.testing.assert_allclose(player.result(), session.images(), atol=1e-5)


@pytest.mark.long
def test_every_size_follows_its_own_policy_as_in_python(
    library: Library, backend: str, sizes_toy: SizesToy
) -> None:
    bundle = Bundle.open(sizes_toy.deciding, backend=backend, threads=1)
    opened = library.open(sizes_toy.deciding, backend=backend, threads=1)
    for size in bundle.sizes:
        expected, sized = bundle.at(size), opened.at(*size)
        request = {"prompt": "a red circle", "seed": 5, "policy": "adaptive"}
        latents = expected.session().generate(**request)
        np.testing.assert_allclose(sized.session().generate(**fields_of(request, expected)), latents, atol=1e-5)


def test_a_handle_of_a_size_outlives_the_bundles(library: Library) -> None:
    opened = library.open(GOLDEN_V5_SIZES, backend="null")
    sized = opened.at(8, 24)
    del opened
    again = sized.at(16, 16)
    assert list(sized.info().latent_shape) == [4, 4, 12]
    assert list(again.info().latent_shape) == [4, 8, 8]
    assert again.sizes() == [(16, 16), (8, 24)]


def test_a_size_that_is_not_there_is_refused(library: Library) -> None:
    opened = library.open(GOLDEN_V5_SIZES, backend="null")
    with pytest.raises(RequestError, match="size 24x8: this bundle has 16x16, 8x24"):
        opened.at(24, 8)
    with pytest.raises(RequestError, match="size 2 of 2"):
        library.call("soda_bundle_size", opened.handle, 2, *_two_numbers())


def _two_numbers() -> tuple[object, object]:
    from ctypes import byref, c_int32

    return byref(c_int32()), byref(c_int32())

"""Previews in C++: those of the Python runtime after every step, also where the callback asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, RequestError, Session

from tests.runtime.bundles import (
    GOLDEN_V5,
    GOLDEN_V5_INPAINT,
    GOLDEN_V5_POLICY,
    GOLDEN_V5_SKIP,
    GOLDEN_V5_START,
    GOLDEN_V5_TEXT,
    add_previews,
    copy_golden,
    golden_request,
    relative,
    retable,
    zeros,
)

from .fields import fields_of
from .library import Library, has_backend


@pytest.fixture
def library_of_ort(library: Library) -> Library:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    return library


@pytest.mark.parametrize(
    "golden",
    [GOLDEN_V5, GOLDEN_V5_TEXT, GOLDEN_V5_SKIP, GOLDEN_V5_START, GOLDEN_V5_INPAINT, GOLDEN_V5_POLICY],
    ids=lambda golden: golden.name,
)
def test_previews_are_those_of_python(library_of_ort: Library, tmp_path: Path, golden: Path) -> None:
    folder = add_previews(copy_golden(tmp_path / "bundle", golden), 0.7, -0.4)
    request = golden_request(golden)
    found: dict[int, Any] = {}
    expected: dict[int, Any] = {}
    cpp = library_of_ort.open(folder, threads=1).session()

    def look(done: int, steps: int) -> bool:
        found[done - 1] = cpp.preview(), cpp.preview_result(), cpp.result()
        return False

    python = Session.open(folder, threads=1)
    latents = python.generate(
        **request, on_step=lambda step: expected.update({step.index: (step.preview(), step.preview_result())})
    )
    fields = fields_of(request, Bundle.open(folder, backend="null"))
    assert relative(cpp.generate(progress=look, **fields), latents) <= 1e-6
    assert found.keys() == expected.keys()
    for step, (preview, result) in expected.items():
        assert relative(found[step][0], preview) <= 1e-5
        assert np.abs(found[step][1] - result).max() <= 1e-4
    assert np.array_equal(found[max(found)][2], cpp.result())  # previews leave results as they are


def test_a_callback_may_not_play(library_of_ort: Library) -> None:
    session, refused = library_of_ort.open(GOLDEN_V5, threads=1).session(), list[object]()

    def play(done: int, steps: int) -> bool:
        for call in (session.reset, lambda: session.step(done), lambda: session.start(labels=[1])):
            with pytest.raises(RequestError, match="callback may look") as caught:
                call()
            refused.append(caught)
        return False

    session.generate(labels=[1], progress=play)
    assert len(refused) == 3 * session.info.steps


def test_what_has_no_preview_says_so(library_of_ort: Library, tmp_path: Path) -> None:
    session = library_of_ort.open(GOLDEN_V5, threads=1).session()
    session.start(labels=[1])
    with pytest.raises(RequestError, match="before the first step"):
        session.preview()
    session.step(0)
    with pytest.raises(RequestError, match="build it again"):
        session.preview()


def test_a_table_of_another_shape_is_refused_by_both(
    tmp_path: Path, refuses: Callable[[Path, str], None]
) -> None:
    folder = add_previews(copy_golden(tmp_path / "bundle", GOLDEN_V5), 1.0, 0.0)
    Bundle.open(folder, backend="null")
    steps = Bundle.open(folder, backend="null").manifest.sampler.steps
    for shape in ([steps, 3], [steps, 2, 1], [steps + 1, 2]):
        retable(folder, "preview.levels", zeros("F32", shape))
        refuses(folder, "tables.safetensors")

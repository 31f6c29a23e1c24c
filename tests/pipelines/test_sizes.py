"""Bundles of several sizes, most of them not square, in diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from soda_runtime import RequestError

from soda_export.pipelines import SodaPipeline, SodaTransformer
from tests.pipelines.toys import Bench

BAR = 1e-3
pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = {
    "pixart": ((16, 24), (24, 16)), "sd15": ((16, 32), (16, 16)), "sd3": ((16, 24), (24, 16)),
    "flux": ((32, 48), (48, 32)),  # as many tokens: their places tell which is which
}  # fmt: skip
OpenToy = Callable[[str], Bench]


def difference(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name != "pixart")) for name in SIZES])
def test_at_each_size_of_a_bundle_pipelines_draw_what_they_draw_with_their_own_module(
    open_toy: OpenToy, name: str, record_property: Callable[..., None]
) -> None:
    bench, sizes = open_toy(name), SIZES[name]
    pipe, bundle = bench.pipe(), bench.at_sizes(sizes)

    def drawn(pipe: Any, size: Sequence[int], own: bool = True) -> Any:
        more = {**(bench.toy.own if own else {}), "height": size[0], "width": size[1], "output_type": "np"}
        return pipe(**bench.toy.arguments(**more)).images

    expected = {size: drawn(pipe, size) for size in sizes}
    assert all(images.shape[1:3] == size for size, images in expected.items())
    setattr(pipe, bench.part, SodaTransformer(bundle))
    alone = SodaPipeline.from_bundle(bundle)
    alone.set_progress_bar_config(disable=True)
    for size in (*sizes, sizes[0]):  # and back again
        inside = difference(drawn(pipe, size), expected[size])
        whole = difference(drawn(alone, size, False), expected[size])
        record_property(f"{name} {size}: largest difference in the pipeline, alone", (inside, whole))
        assert inside <= BAR
        assert whole <= BAR
    known = ", ".join("{}x{}".format(*size) for size in sizes)
    for refusing, own in ((pipe, True), (alone, False)):
        with pytest.raises(RequestError, match=known) as refused:
            drawn(refusing, (64, 64), own)
        assert "\n" not in str(refused.value)
        assert difference(drawn(refusing, sizes[1], own), expected[sizes[1]]) <= BAR  # and the next run is as ever
    default = bench.toy.arguments(output_type="np", height=None, width=None)
    assert np.array_equal(alone(**default).images, drawn(alone, sizes[0], False))

"""Bundles whose programs read older values: played right, and refused where the manifest lies about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Session
from soda_runtime.errors import BundleError

from .bundles import (
    GOLDEN,
    GOLDEN_V3,
    GOLDEN_V3_TEXT,
    Json,
    copy_golden,
    edit_manifest,
    golden_request,
    golden_results,
    put,
    read_manifest,
)

Change = Callable[[Json], object]


@pytest.mark.parametrize("golden", [GOLDEN_V3, GOLDEN_V3_TEXT], ids=lambda path: path.name)
def test_the_golden_bundles_of_version_3_reproduce_the_reference(golden: Path) -> None:
    session = Session.open(golden)
    expected = golden_results(golden)
    latents = session.generate(**golden_request(golden))
    assert np.abs(latents - expected["latents"]).max() <= 1e-3 * np.abs(expected["latents"]).max()
    if "images" in expected:
        assert np.abs(session.images() - expected["images"]).max() <= 1e-3


def test_the_golden_bundle_forecasts_at_every_order() -> None:
    manifest = read_manifest(GOLDEN_V3)
    reads = [program["reads"] for program in manifest["programs"]]
    assert manifest["forecasts"] >= 1
    for suffix in ("", ".1", ".2"):
        assert any(f"0.attn{suffix}" in names for names in reads)
        assert [f"3.stack{s}" for s in ("", ".1", ".2") if s <= suffix] in reads


def _program_reading(manifest: Json, name: str) -> tuple[Json, Json, int]:
    """The first step that reads `name`, its program, and the name's position."""
    for step in manifest["steps"]:
        program = manifest["programs"][step["program"]]
        if name in program["reads"]:
            return step, program, program["reads"].index(name)
    raise AssertionError(name)


def _rename_read(old: str, new: str) -> Change:
    def change(manifest: Json) -> None:
        _, program, position = _program_reading(manifest, old)
        program["reads"][position] = new

    return change


def _move_read(name: str, like: str) -> Change:
    """Read `name` where `like` lies."""

    def change(manifest: Json) -> None:
        step, program, position = _program_reading(manifest, name)
        step["read_offsets"][position] = step["read_offsets"][program["reads"].index(like)]

    return change


def _write_with_age(manifest: Json) -> None:
    program = next(p for p in manifest["programs"] if p["writes"])
    program["writes"][0] += ".1"


HOSTILE: dict[str, tuple[Change, str]] = {
    "an age beyond 2": (_rename_read("0.attn.2", "0.attn.3"), "reads .*, which is no slot"),
    "an age with a leading zero": (_rename_read("0.attn.1", "0.attn.01"), "is no slot"),
    "an age of 0": (_rename_read("0.attn.1", "0.attn.0"), "is no slot"),
    "the stack of another layer": (_rename_read("3.stack", "2.stack"), "is no slot"),
    "a module behind the last layer": (_rename_read("0.attn", "3.attn"), "is no slot"),
    "the latest value in place of an older one": (_move_read("0.attn.1", "0.attn"), "no longer or never held it"),
    "an older value in place of the latest": (_move_read("0.attn", "0.attn.1"), "no longer or never held it"),
    "a write of an older value": (_write_with_age, "writes .*, which is no slot"),
    "a negative number of forecasts": (put("forecasts", value=-1), "forecasts=-1"),
    "endless forecasts": (put("forecasts", value=1 << 40), "forecasts="),
    "fewer forecasts than the table has": (put("forecasts", value=0), "coefficients"),
    "forecasts that are no number": (put("forecasts", value="1"), "forecasts"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_lies_about_older_values_is_refused(tmp_path: Path, name: str) -> None:
    change, message = HOSTILE[name]
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V3)
    edit_manifest(folder, change)
    with pytest.raises(BundleError, match=message):
        Session.open(folder)


def test_an_older_value_that_was_never_written_is_refused(tmp_path: Path) -> None:
    """The first forecast, moved to a step where there is only one value."""
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V3)

    def change(manifest: Any) -> None:
        manifest["steps"][1] = manifest["steps"][2]

    edit_manifest(folder, change)
    with pytest.raises(BundleError, match=r"steps\[1\] reads slot .* never held it"):
        Session.open(folder)


def test_version_2_has_no_forecasts(tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN)
    edit_manifest(folder, put("forecasts", value=0))
    with pytest.raises(BundleError, match=r"\$: unknown key 'forecasts'"):
        Session.open(folder)

"""run --preview: one picture a step, in a folder of its own; prompts that were cut are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_TEXT, add_previews, copy_golden, read_manifest

from .conftest import Soda


def test_every_step_leaves_a_picture(soda: Soda, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tokenizers")
    bundle = add_previews(copy_golden(tmp_path / "bundle", GOLDEN_V5_TEXT), 1.0, 0.0)
    count = read_manifest(bundle)["sampler"]["steps"]
    for _ in range(2):  # again over an earlier run's
        code, out, _ = soda("run", bundle, "--prompt", "a red circle " * 9, "--preview", "steps", "--json")
        assert code == 0
        assert "it loses 'red circle" in caplog.text
        steps = sorted(path.name for path in Path("steps").iterdir())
        assert steps == [f"step-{step:04d}.png" for step in range(count)]
        (cut,) = json.loads(out)["truncated"]
        assert (cut["field"], cut["sample"], cut["max_tokens"]) == ("prompt", 0, 8)
    Path("steps/notes.txt").touch()
    code, _, err = soda("run", bundle, "--prompt", "a red circle", "--preview", "steps")
    assert code == 2
    assert "holds more than previews" in err


def test_latents_where_the_bundle_makes_no_pictures_and_refusals(soda: Soda, tmp_path: Path) -> None:
    code, _, err = soda("run", GOLDEN_V5, "--labels", "1", "--preview", "steps")
    assert code == 2
    assert "build it again" in err
    assert not Path("steps").exists()
    bundle = add_previews(copy_golden(tmp_path / "bundle", GOLDEN_V5), 1.0, 0.0)
    code, _, err = soda("run", bundle, "--labels", "1", "--preview", bundle / "steps")
    assert code == 2
    assert "inside a bundle" in err

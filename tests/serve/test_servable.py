"""Bundles that cannot be served are refused at start, in one line that says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from soda_runtime import Bundle, BundleError
from soda_runtime.serve.servable import judge_bundle

from ..runtime.bundles import GOLDEN_V5, GOLDEN_V5_CHUNKS, GOLDEN_V5_INPAINT, GOLDEN_V5_POLICY, GOLDEN_V5_TEXT


def with_manifest(folder: Path, **changes: Any) -> Bundle:
    """A bundle with other contents of its manifest."""
    opened = Bundle.open(folder, backend="null")
    manifest = replace(opened.manifest, **changes)
    return cast(Bundle, SimpleNamespace(folder=folder, manifest=manifest, policy=opened.policy))


def test_classes_and_prompts_can_be_served() -> None:
    labels, text = (judge_bundle(Bundle.open(each, backend="null")) for each in (GOLDEN_V5_POLICY, GOLDEN_V5_TEXT))
    assert ([*labels.size_names], labels.texts, labels.has_policy) == (["8x8"], (), True)
    assert labels.classes > 0
    assert ([*text.size_names], text.channels, text.classes, text.texts) == (["16x16"], 3, 0, ("prompt",))


@pytest.mark.parametrize(
    ("folder", "changes", "why"),
    [
        (GOLDEN_V5_CHUNKS, {}, "it makes video"),
        (GOLDEN_V5_INPAINT, {}, "it takes a picture, mask"),
        (GOLDEN_V5_TEXT, {"finish": ()}, "it makes latents, having no decoder"),
        (GOLDEN_V5_TEXT, {"prepare": (), "tokenizers": ()}, "build it with its text encoder"),
    ],
)
def test_what_cannot_be_served_is_said(folder: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(BundleError, match="cannot be served") as caught:
        judge_bundle(with_manifest(folder, **changes))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pictures_of_four_channels_are_refused() -> None:
    model = Bundle.open(GOLDEN_V5, backend="null").manifest.model
    with pytest.raises(BundleError, match="4 channels"):
        judge_bundle(with_manifest(GOLDEN_V5, model=replace(model, latent_shape=(4, 8, 8))))

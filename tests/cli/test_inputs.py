"""--input: pictures and numbers by the names of a bundle's ports, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from soda_runtime import Bundle, Session
from soda_runtime.checks import open_manifest

from soda_export.cli.inputs import parse_inputs, read_latents
from soda_export.errors import UsageError
from tests.cpp.ports_toy import PortsToy
from tests.runtime.bundles import GOLDEN_V5_INPAINT


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With a hint [1, 2, 2] and a number called speed."""
    return Bundle.open(PortsToy().write(tmp_path_factory.mktemp("toy") / "toy"), backend="null")


def test_pictures_and_numbers_become_a_request(bundle: Bundle, tmp_path: Path) -> None:
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "edges.png")
    np.save(tmp_path / "edges.npy", pixels[None] / np.float32(255))
    for file in ("edges.png", "edges.npy"):
        found = parse_inputs([f"hint={tmp_path / file}", "speed=1.5"], bundle.manifest)
        np.testing.assert_allclose(found["hint"], [[[[0, 1], [0.2, 0.4]]]], atol=1e-7)
        assert found["speed"] == 1.5
    others = {"text": np.zeros((1, 4, 3)), "pooled": np.zeros((1, 2)), "hint_mask": np.ones((1, 2), np.int64)}
    session: Session = bundle.session()
    session.start(inputs={**found, **others, "style": 0}, negative_inputs=others)


def test_a_mask_of_the_images_size_comes_down_to_that_of_the_latents(tmp_path: Path) -> None:
    """By nearest pixels, as torch's interpolation in diffusers' inpainting pipelines."""
    manifest = open_manifest(GOLDEN_V5_INPAINT)
    (port,) = (port for port in manifest.ports if port.name == "mask")
    _, height, width = port.shape
    pixels = np.random.default_rng(0).integers(0, 256, (4 * height, 4 * width)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    found = parse_inputs([f"mask={tmp_path / 'mask.png'}"], manifest)["mask"]
    expected = torch.nn.functional.interpolate(torch.from_numpy(pixels[None, None] / np.float32(255)), (height, width))
    np.testing.assert_array_equal(found, expected)
    Image.fromarray(pixels[:-1, :-1]).save(tmp_path / "mask.png")
    with pytest.raises(UsageError, match="this bundle takes"):
        parse_inputs([f"mask={tmp_path / 'mask.png'}"], manifest)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["speed"], "--input speed: write NAME=VALUE; this bundle takes hint, speed"),
        (["style=1"], "no such number or picture; this bundle takes hint, speed"),
        (["speed=1", "speed=2"], "--input speed=2: given twice"),
        (["speed=fast"], "'fast' is no number"),
        (["hint=none.png"], "--input hint=none.png: cannot be read as a picture"),
        (["hint=wide.npy"], r"is \[1, 2, 3\], this bundle takes \[1, 2, 2\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "wide.npy", np.zeros((1, 2, 3), np.float32))
    with pytest.raises(UsageError, match=message) as refused:
        parse_inputs(given, bundle.manifest)
    assert "\n" not in str(refused.value)


def test_latents_of_one_sample_or_several_are_read(tmp_path: Path) -> None:
    for given in ((2, 3, 3), (1, 2, 3, 3), (4, 2, 3, 3)):
        np.save(tmp_path / "latents.npy", np.ones(given, np.float32))
        assert read_latents(tmp_path / "latents.npy", (2, 3, 3)).shape == (*(1,) * (4 - len(given)), *given)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (1, 1, 2, 3, 3), (4, 3, 3)])
def test_latents_of_another_shape_are_refused_in_one_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "latents.npy", np.ones(shape, np.float32))
    with pytest.raises(UsageError, match=r"--start-latents .*takes \[2, 3, 3\], or one for each") as refused:
        read_latents(tmp_path / "latents.npy", (2, 3, 3))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
def test_files_of_other_kinds_are_refused_in_one_line(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "latents.npy"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read as \.npy"):
        read_latents(path, (2, 3, 3))
    with pytest.raises(UsageError, match=r"cannot be read as a picture or \.npy"):
        parse_inputs([f"hint={path}"], bundle.manifest)

"""The scripts in examples/ do what they say."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import ModuleType
from urllib.error import HTTPError

import numpy as np
import pytest
from PIL import Image
from soda_runtime import Noise, Session

from soda_export.workbench.pipeline import Built
from tests.runtime.bundles import GOLDEN_V5_SIZES

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_player_of_forty_lines_gives_the_runtimes_bits(tiny_bundle: Built) -> None:
    labels = np.array([1, 0, 2])
    with Session.open(tiny_bundle.out) as session:
        shape = session.bundle.manifest.model.latent_shape
        noise = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
        expected = session.generate(labels=labels.tolist(), noise=Noise(noise))
    np.testing.assert_array_equal(load("player").play(tiny_bundle.out, labels, noise), expected)


def test_the_player_is_a_command(tiny_bundle: Built) -> None:
    command = [sys.executable, EXAMPLES / "player.py", tiny_bundle.out, "3", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(2, ")


def test_a_service_of_ones_own_answers_with_the_sessions_picture() -> None:
    server = load("service").make_server(str(GOLDEN_V5_SIZES), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}/"
    try:
        with urllib.request.urlopen(f"{place}?prompt=a+red+circle&seed=7", timeout=60) as answer:
            made = np.asarray(Image.open(io.BytesIO(answer.read())))
        with Session.open(GOLDEN_V5_SIZES) as session:
            session.generate(prompt="a red circle", seed=7)
            expected = (session.images()[0] * 255).round().astype(np.uint8)
        np.testing.assert_array_equal(made, expected)
        for wrong in ("?seed=7", "?prompt=a&sed=7", "?prompt=a&seed=-1", f"?prompt=a&seed={2**64}"):
            with pytest.raises(HTTPError, match="400"):
                urllib.request.urlopen(place + wrong, timeout=60)
    finally:
        server.shutdown()
        server.server_close()

"""The scripts in examples/ do what they say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from soda_runtime import Noise, Session

from soda_export.workbench.pipeline import Built

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

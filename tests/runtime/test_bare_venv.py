"""The runtime needs numpy and ONNX Runtime, nothing else: shown in a virtual environment that has nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .bundles import EXPECTED, GOLDEN

RUNTIME = Path(__file__).parents[2] / "runtime" / "python"
NEEDED = ("numpy", "onnxruntime")
ABSENT = ("torch", "diffusers", "onnx", "onnx_ir", "msgspec", "safetensors", "soda_export")

PLAY = """
import importlib.util, sys
import numpy as np
import soda_runtime

bundle, expected, *absent = sys.argv[1:]
found = [name for name in absent if importlib.util.find_spec(name)]
assert not found, f"{found} can be imported here"
golden = np.load(expected)
latents = soda_runtime.Session.open(bundle).generate(golden["labels"].tolist(), seed=int(golden["seed"]))
assert not set(absent) & set(sys.modules)
print(np.abs(latents - golden["latents"]).max())
"""


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """The interpreter of a new environment with the runtime on its path, and what the runtime needs."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in NEEDED]
    install = [sys.executable, "-m", "pip", "--python", str(environment), "install", "--quiet", "--no-compile", *wanted]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {' '.join(wanted)}: {done.stderr.strip().splitlines()[-1:]}")
    python = environment / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-I", "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    (Path(packages) / "soda_runtime.pth").write_text(f"{RUNTIME}\n")
    return python


@pytest.mark.skipif(os.name != "posix", reason="the interpreter lies elsewhere")
def test_the_golden_bundle_plays_with_numpy_and_onnxruntime_alone(bare_python: Path, tmp_path: Path) -> None:
    command = [str(bare_python), "-I", "-W", "error", "-c", PLAY, str(GOLDEN), str(EXPECTED), *ABSENT]
    played = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert played.returncode == 0, played.stderr
    assert float(played.stdout) <= 1e-3

"""The runtime needs numpy and ONNX Runtime, nothing else: shown in a virtual environment that has nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Embeds, Session

from .bundles import GOLDEN, GOLDEN_TEXT

RUNTIME = Path(__file__).parents[2] / "runtime" / "python"
NEEDED = ("numpy", "onnxruntime")
ABSENT = (
    "torch", "diffusers", "onnx", "onnx_ir", "msgspec", "safetensors", "soda_export", "tokenizers", "transformers"
)  # fmt: skip

PLAY = """
import importlib.util, sys
import numpy as np
import soda_runtime

labels, prompts, *absent = sys.argv[1:]
found = [name for name in absent if importlib.util.find_spec(name)]
assert not found, f"{found} can be imported here"
golden = np.load(labels + ".npz")
latents = soda_runtime.Session.open(labels).generate(golden["labels"].tolist(), seed=int(golden["seed"]))
print(np.abs(latents - golden["latents"]).max())

session = soda_runtime.Session.open(prompts)
values, mask = np.ones((2, 8, 16), np.float32), np.ones((2, 8), np.int64)
latents = session.generate(embeds=soda_runtime.Embeds(values, mask, -values[:1], mask[:1]), seed=3)
images = session.images()
assert latents.shape == (2, 4, 8, 8) and np.isfinite(latents).all()
assert images.shape == (2, 16, 16, 3) and np.isfinite(images).all()
try:
    session.generate(prompt="a red circle")
except soda_runtime.EngineError as error:
    assert "pip install soda-runtime[text]" in str(error)
else:
    raise AssertionError("a prompt without a tokenizer")
assert not set(absent) & set(sys.modules)
print(float(latents.astype(float).sum()), float(images.astype(float).sum()))
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
def test_labels_and_embeddings_play_with_numpy_and_onnxruntime_alone(bare_python: Path, tmp_path: Path) -> None:
    command = [str(bare_python), "-I", "-W", "error", "-c", PLAY, str(GOLDEN), str(GOLDEN_TEXT), *ABSENT]
    played = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert played.returncode == 0, played.stderr
    error, *sums = map(float, played.stdout.split())
    assert error <= 1e-3
    session, (values, mask) = Session.open(GOLDEN_TEXT), (np.ones((2, 8, 16), np.float32), np.ones((2, 8), np.int64))
    latents = session.generate(embeds=Embeds(values, mask, -values[:1], mask[:1]), seed=3)
    assert sums == pytest.approx([latents.astype(float).sum(), session.images().astype(float).sum()], rel=1e-3, abs=0.1)

"""Play every golden bundle on ONNX Runtime and OpenVINO, and build `digits` and play it: with whatever is installed.

    python -I scripts/floors_check.py tests/golden

Run in a folder that may be written to. Prints the versions that are installed; the exit code is 1 where a check fails.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from soda_runtime import Session

_BACKENDS = ("ort", "openvino")
_MOST = 1e-3  # of the largest latent
_RESULTS = ("latents", "images", "video")
_NAMED = (
    "numpy", "onnxruntime", "openvino", "tokenizers", "sentencepiece", "torch", "diffusers", "transformers",
    "huggingface-hub", "safetensors", "onnx", "onnx-ir", "onnxscript", "msgspec", "cyclopts", "rich", "matplotlib",
    "pillow", "scikit-learn",
)  # fmt: skip
_COMMANDS = (
    "build --model digits --budget 17 --planner uniform",
    "verify engines/digits-b17-ort --programs",
    "run engines/digits-b17-ort --labels 0,1,2,3 --out digits.png",
    "bench engines/digits-b17-ort --rounds 1 --batch 1",
    "report engines/digits-b17-ort --samples 1 --out digits.html",
    "inspect tones",
    "inspect flux-dev",
    "build --model digits --budget 17 --planner uniform --backend openvino",
    "run engines/digits-b17-openvino --labels 0,1 --out digits.npy",
    "build --model shapes --budget 8 --planner uniform",
    'run engines/shapes-b8-ort --prompt "a red circle" --out shapes.png',
    "doctor",
)


def main() -> None:
    failed = 0
    print("  ".join(f"{name} {importlib.metadata.version(name)}" for name in _NAMED))
    for folder in sorted(path for path in Path(sys.argv[1]).resolve().iterdir() if path.is_dir()):
        for backend in _BACKENDS:
            said = _played(folder, backend)
            failed += said != "ok"
            print(f"{folder.name} on {backend}: {said}", flush=True)
    for command in _COMMANDS:
        words = [sys.executable, "-I", "-m", "soda_export", *shlex.split(command)]
        done = subprocess.run(words, capture_output=True, text=True)
        failed += done.returncode != 0
        last = (done.stderr.strip().splitlines() or [""])[-1]
        print(f"soda-export {command}: {'ok' if done.returncode == 0 else last}", flush=True)
    sys.exit(failed > 0)


def _played(folder: Path, backend: str) -> str:
    """`ok`, or what is wrong with the latents and the decoded result of the stored request."""
    with np.load(folder.with_name(f"{folder.name}.npz")) as stored:
        request: dict[str, Any] = {}
        for name in stored.files:
            half, _, port = name.partition(".")
            if port:
                request.setdefault(half, {})[port] = stored[name]
            elif name not in _RESULTS:
                request[name] = stored[name].tolist()
        expected = {name: stored[name] for name in stored.files if name in _RESULTS}
    try:
        with Session.open(folder, backend=backend, threads=1) as session:
            found = {"latents": session.generate(**request)}
            for name in expected.keys() - {"latents"}:
                found[name] = session.result()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for name, value in expected.items():
        distance = float(np.abs(found[name] - value).max()) / max(1.0, float(np.abs(value).max()))
        if not distance <= _MOST:
            return f"{name} differ by {distance:.2g}"
    return "ok"


if __name__ == "__main__":
    main()

"""Golden bundles made over into bundles of TensorRT engines, for the stand-ins of the library and of CUDA."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from soda_runtime.engine_index import FORMAT, INDEX_NAME, VERSION, EngineEntry, EngineIndex, index_text

from .bundles import copy_golden, edit_manifest, fix_hashes
from .fake_tensorrt import make_plan

TARGETS = ("sm120", "sm89")


def make_nvidia_bundle(
    folder: Path, golden: Path, backend: str = "trt_rtx", library_version: str = "1.7.1.116",
    targets: tuple[str, ...] = TARGETS,
) -> Path:  # fmt: skip
    """A copy of a golden bundle whose engines are plans of the stand-in."""
    copy_golden(folder, golden)
    entries = {}
    for path in sorted(folder.glob("*.onnx")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        path.write_bytes(make_plan(golden / path.name, content, list(targets)))
        entries[path.name] = EngineEntry(content, "weights.safetensors", 0)
    index = EngineIndex(
        FORMAT, VERSION, backend, library_version, targets, "baked", 4, "golden", "fp32", entries
    )
    (folder / INDEX_NAME).write_text(index_text(index))

    def change(manifest: dict[str, Any]) -> None:
        manifest["backend"] = backend
        manifest["files"][INDEX_NAME] = {}

    edit_manifest(folder, change)
    fix_hashes(folder)
    return folder


def edit_index(folder: Path, **changes: object) -> None:
    """Change keys of engines.json, and the manifest with it."""
    path = folder / INDEX_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    fix_hashes(folder)

"""Print, as JSON, what opening and playing a bundle adds to a process. Run as `python -m soda_export.memory_probe`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from soda_runtime import Bundle, Session
from soda_runtime.request import example_request


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def probe(path: str, batch: int, device: str, threads: int) -> dict[str, int]:
    """See soda_export.bench.Memory. Host memory alone; zeroes where the system has no /proc."""
    import onnxruntime  # noqa: F401  (its own memory is not the bundle's)

    has_proc = Path("/proc/self/status").exists()
    before = _status_bytes("VmRSS") if has_proc else 0
    bundle = Bundle.open(path, device=device, threads=threads)
    session, request = bundle.session(), example_request(bundle, batch)
    if hasattr(bundle.backend, "cuda"):
        return _probe_device(bundle, session, request, batch)
    session.start(**request)
    opened = _status_bytes("VmRSS") if has_proc else 0
    session.generate(**request)
    peak = _status_bytes("VmHWM") if has_proc else 0
    manifest = session.bundle.manifest
    arena = manifest.arena.bytes * batch
    buffers = sum(memory.nbytes for memory in session.playback.memories())
    return {
        "weights_once": sum(manifest.files[name].bytes for name in manifest.weights),
        "weights_resident": max(0, opened - before),
        "arena": arena,
        "activations": max(0, peak - opened - buffers),
    }


def _probe_device(bundle: Bundle, session: Session, request: dict[str, Any], batch: int) -> dict[str, int]:
    """The same of device memory, as the driver counts it."""
    cuda: Any = bundle.backend.cuda  # type: ignore[attr-defined]

    def free_bytes() -> int:
        return int(cuda.call("cudaMemGetInfo"))

    before = free_bytes()
    session.start(**request)
    opened = before - free_bytes()
    session.run_steps()
    session.latents()
    buffers = sum(memory.nbytes for memory in session.playback.memories())
    shared = getattr(bundle.backend, "activations", None)
    activations = shared.nbytes if shared is not None else max(0, before - free_bytes() - opened)
    weights = opened - buffers - (activations if shared is not None else 0)
    manifest = bundle.manifest
    return {
        "weights_once": sum(manifest.files[name].bytes for name in manifest.weights),
        "weights_resident": max(0, weights), "arena": manifest.arena.bytes * batch, "activations": activations,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))

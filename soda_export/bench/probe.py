"""What opening and playing a bundle costs a fresh process: memory and time. Run as `python -m soda_export.bench.probe`.

Prints JSON. Memory is the device's where the engines run on one, else the host's; zeroes where the system has no /proc.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from soda_runtime import Bundle
from soda_runtime.backends import DeviceBackend, open_backend
from soda_runtime.request import example_request

from ..errors import EngineError
from ..machine import process_bytes
from .result import BenchOptions, Memory, Opening


def measure_opening(path: Path, options: BenchOptions) -> tuple[Opening, Memory]:
    """Play the bundle in two fresh processes, accelerated and not. Raises EngineError."""
    fast, whole = (_spawn(path, options, accelerated) for accelerated in (True, False))
    opening = Opening(fast["first_step"], fast["first_latents"], whole["first_step"], whole["first_latents"])
    return opening, Memory(**fast["memory"])


def _spawn(path: Path, options: BenchOptions, accelerated: bool) -> dict[str, Any]:
    given = json.dumps([str(path), msgspec.to_builtins(options), accelerated])
    command = [sys.executable, "-m", "soda_export.bench.probe", given]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{path}: the measurement of opening it failed: {last_line}")
    measured: dict[str, Any] = json.loads(result.stdout)
    return measured


def probe(path: str, options: BenchOptions, accelerated: bool) -> dict[str, Any]:
    """Seconds to the first step and to the first latents; see Memory for the rest."""
    first = Bundle.open(path, backend="null").manifest  # imports and hashes are not what is measured
    open_backend(options.backend or first.backend, options.device, options.threads, options.weights or "")
    before = process_bytes("VmRSS"), process_bytes("RssAnon")
    started = time.perf_counter()
    bundle = Bundle.open(
        path, backend=options.backend, device=options.device, threads=options.threads, weights=options.weights or ""
    ).at(options.pixels)
    session, request = bundle.session(), example_request(bundle, options.batch)
    backend = bundle.backend
    free = backend.free_bytes() if isinstance(backend, DeviceBackend) else 0
    session.start(**request, accelerated=accelerated)
    # on a device every engine is open now, and none has allocated for a run
    opened_free = backend.free_bytes() if isinstance(backend, DeviceBackend) else 0
    session.step(0)
    session.wait()
    first_step = time.perf_counter() - started
    session.playback.wait()
    opened_anonymous, opened = process_bytes("RssAnon"), process_bytes("VmRSS")
    session.run_steps()
    session.latents()
    first_latents = time.perf_counter() - started
    buffers = sum(memory.nbytes for memory in session.playback.memories())
    if isinstance(backend, DeviceBackend):
        shared, played_free = backend.activation_bytes, backend.free_bytes()
        private = max(0, free - opened_free - buffers - shared)
        activations, mapped, peak = shared or max(0, opened_free - played_free), 0, free - played_free
    else:
        private, mapped = max(0, opened_anonymous - before[1] - buffers), _mapped_bytes(bundle)
        activations, peak = max(0, process_bytes("VmHWM") - opened), max(0, process_bytes("VmHWM") - before[0])
    manifest = bundle.manifest
    memory = Memory(
        sum(manifest.files[name].bytes for name in manifest.weights), private, mapped, private + mapped,
        manifest.arena.bytes * options.batch, activations, peak,
    )  # fmt: skip
    return {"first_step": first_step, "first_latents": first_latents, "memory": msgspec.structs.asdict(memory)}


def _mapped_bytes(bundle: Bundle) -> int:
    """Resident bytes of the weights files, pages that several mappings share counted once for each page."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        return 0
    resident: dict[str, int] = {}
    name = ""
    for line in maps.read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = Path(words[-1]).name if len(words) > 5 else ""
        elif words[0] == "Rss:" and name in bundle.manifest.weights:
            resident[name] = resident.get(name, 0) + int(words[1]) * 1024
    return sum(min(nbytes, bundle.manifest.files[name].bytes) for name, nbytes in resident.items())


if __name__ == "__main__":
    place, given, accelerated = json.loads(sys.argv[1])
    print(json.dumps(probe(place, BenchOptions(**given), accelerated)))

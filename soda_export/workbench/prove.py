"""Prove a bundle folder: every hash, the dispatch of every step, and that what its engines compute is finite."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

import numpy as np
from soda_runtime.bundle import Bundle
from soda_runtime.checks import verify_hashes
from soda_runtime.manifest import Manifest
from soda_runtime.request import example_request
from soda_runtime.session import Session
from soda_runtime.sizes import Size

from ..compile import GRAPH_BACKENDS, why_not_played
from ..machine import memory_bytes

log = logging.getLogger(__name__)


def prove_bundle(folder: Path) -> Manifest:
    """Check every hash, open the folder as a user would, and play its dispatch at every size on the null backend."""
    manifest = verify_hashes(folder)
    bundle = Bundle(folder, manifest, "null", device="cpu", threads=0)
    session = bundle.session()
    for size in bundle.sizes or (None,):
        session.generate(**example_request(bundle.at(size), 1), size=size, policy="frozen")
        _finish(session, 3)  # the third takes what is carried from the first one's buffers
        if bundle.policy is not None:
            session.generate(**example_request(bundle.at(size), 2), size=size, policy="adaptive")
    return manifest


def play_bundle(folder: Path, manifest: Manifest, device: str = "auto") -> None:
    """Play a request of every size on the bundle's own backend, as many steps as have every program of them, and the
    decoder; of a policy, each action once.

    Raises EngineError for a NaN or an infinity, and where an engine does not run. Where this machine cannot run the
    backend, or has too little memory, a line says so.
    """
    reason = why_not_played(manifest.backend, manifest.precision) or _why_too_big(manifest, device)
    if reason:
        log.warning("bundle: not played, %s", reason)
        return
    weights = "shared" if manifest.backend == "ort" else ""  # no copy of the weights for each engine
    with Bundle(folder, manifest, manifest.backend, device, 0, weights) as bundle, bundle.session() as session:
        for size in bundle.sizes or (None,):
            sized = bundle.at(size)
            _play_programs(session, sized, size)
            if sized.policy is not None:
                _play_actions(session, sized, size, len(sized.policy.policy.actions))


def _why_too_big(manifest: Manifest, device: str) -> str:
    """Why engines that run on the processor do not fit into memory; "" where they do, or run elsewhere."""
    memory = memory_bytes()
    if manifest.backend not in GRAPH_BACKENDS or device not in ("auto", "cpu") or not memory:
        return ""
    needed = needed_bytes(manifest)
    if needed <= memory:
        return ""
    return f"its engines take about {needed / 1e9:.0f} GB of memory, and this machine has {memory / 1e9:.0f} GB"


def needed_bytes(manifest: Manifest) -> int:
    """What a bundle takes to be played on the processor, at least.

    ONNX Runtime plays it here with one copy of the weights; OpenVINO repacks for each step program those that it uses,
    about as many as its share of the FLOPs.
    """
    sizes = {name: manifest.files[name].bytes for name in manifest.weights}
    needed = manifest.arena.bytes + sum(sizes.values())
    if manifest.backend == "openvino":
        needed -= sum(sizes[name] for name in {program.weights for program in manifest.programs})
        most = max(1, *(program.flops for program in manifest.programs))
        needed += sum(sizes[program.weights] * program.flops // most for program in manifest.programs)
    return needed


def _play_programs(session: Session, sized: Bundle, size: Size | None) -> None:
    """As many steps as have every program of them, and the decoder."""
    left = {step.program for step in sized.manifest.steps}
    session.start(**example_request(sized, 1), size=size, policy="frozen")
    for index, step in enumerate(sized.manifest.steps):
        if not left:
            break
        session.step(index)
        left.discard(step.program)
        session.latents()  # refuses what is not finite
    _finish(session, 2)


def _finish(session: Session, chunks: int) -> None:
    """Run the decoder; of a video so many chunks, of which two take each of its programs."""
    if session.num_chunks:
        for _ in islice(session.chunks(), chunks):
            pass
    elif session.bundle.manifest.finish:
        session.result()


def _play_actions(session: Session, sized: Bundle, size: Size | None, actions: int) -> None:
    """Every action after the first, with a computed step before each."""
    steps = sized.manifest.sampler.steps
    decisions = np.zeros(steps, np.int64)
    last = min(2 * actions - 1, steps)
    decisions[1:last:2] = np.arange(1, actions)[: len(range(1, last, 2))]
    session.start(**example_request(sized, 1), size=size, decisions=decisions)
    for index in range(last):
        session.step(index)
        session.latents()

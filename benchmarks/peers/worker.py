"""A process that opens systems and plays requests, one JSON message a line: `python -m peers.worker CASE_FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import msgspec
import numpy as np

from soda_export.machine import forget_peak, process_bytes

from .case import Case
from .player import PeerError, Player, open_player
from .systems import System

_MEMORY_STEPS = 5
"""Enough for every cache to be filled: the first steps are computed by all of them."""


class Worker:
    """The systems that this process has opened."""

    def __init__(self, place: Path) -> None:
        self._case = Case.load(place)
        self._players: dict[str, Player] = {}
        self._shared: dict[str, Any] = {}

    def open(self, system: System) -> dict[str, Any]:
        """Open and warm up; what was learned while warming up."""
        started = time.perf_counter()
        player = open_player(self._case, system, self._shared)
        player.warm()
        self._players[system.key] = player
        return {
            "open_s": time.perf_counter() - started, "flops_ratio": player.flops_ratio, "computed": player.computed
        }  # fmt: skip

    def play(self, system: System, save: str) -> dict[str, Any]:
        """Every request once. save: where the latents go, or nowhere."""
        player, seconds, latents = self._players[system.key], [], []
        for request in range(self._case.requests):
            started = time.perf_counter()
            latents.append(player.play(request))
            seconds.append(time.perf_counter() - started)
        if save:
            np.save(save, np.stack(latents))
        return {"seconds": seconds}

    def memory(self, system: System) -> dict[str, Any]:
        """Peak resident bytes while playing, loading and compiling left out: they are done before."""
        player = open_player(self._case, system, self._shared)
        steps = min(_MEMORY_STEPS, self._case.sampler.steps)
        player.play(0, steps)
        forget_peak()
        player.play(0, steps)
        return {"peak_bytes": process_bytes("VmHWM")}


def _answer(worker: Worker, message: dict[str, Any]) -> dict[str, Any]:
    system = msgspec.convert(message["system"], System)
    try:
        if message["op"] == "open":
            return worker.open(system)
        if message["op"] == "memory":
            return worker.memory(system)
        return worker.play(system, message["save"])
    except PeerError as error:
        return {"error": str(error)}
    except Exception as error:  # whatever a peer's library does is a row, not the end
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def main() -> None:
    """Serve until the input ends. Libraries print to the standard output, so the answers have a copy of it."""
    answers: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(Path(sys.argv[1]))
    for line in sys.stdin:
        answers.write(json.dumps(_answer(worker, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

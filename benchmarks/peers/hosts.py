"""Worker processes: one for each host, started when first needed, stopped where memory gets short."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from .player import PeerError
from .systems import System

_FOLDER = Path(__file__).resolve().parent.parent


@dataclass
class _Host:
    process: subprocess.Popen[str]
    opened: set[str] = field(default_factory=set)
    used: float = 0.0


class Hosts:
    """Processes by the name of their host. limit_s: longest that one answer may take. free_bytes: of memory that stay
    free, so that others than the host in use are stopped before it opens something; they open it again in their turn.
    """

    def __init__(self, place: Path, threads: int, limit_s: float, free_bytes: float) -> None:
        self._place, self._limit_s, self._free_bytes = place, limit_s, free_bytes
        self._hosts: dict[str, _Host] = {}
        count = str(threads)
        self._environment = {
            **os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count,
            "TORCHINDUCTOR_CACHE_DIR": str(place.parent / "inductor"), "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_FOLDER), os.environ.get("PYTHONPATH", "")])),
        }  # fmt: skip
        self._log = (place / "workers.log").open("a")

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._hosts):
            self._stop(name)
        self._log.close()

    def play(self, system: System, save: Path | None) -> tuple[list[float], dict[str, Any]]:
        """Seconds of every request, and what opening the system said where it was opened for this. Raises PeerError."""
        host, opened = self._host(system.host), {}
        if system.key not in host.opened:
            self._make_room(system.host)
            opened = self._ask(system.host, {"op": "open", "system": msgspec.to_builtins(system)})
            host.opened.add(system.key)
        message = {"op": "play", "system": msgspec.to_builtins(system), "save": str(save or "")}
        return self._ask(system.host, message)["seconds"], opened

    def memory(self, system: System) -> int:
        """Peak resident bytes of a process that plays this system alone. Raises PeerError."""
        name = f"memory of {system.key}"
        self._make_room(name)
        self._host(name)
        try:
            answer = self._ask(name, {"op": "memory", "system": msgspec.to_builtins(system)})
        finally:
            self._stop(name)
        return int(answer["peak_bytes"])

    def stop_all(self) -> None:
        """End every process: what comes next is alone."""
        for name in list(self._hosts):
            self._stop(name)

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            process = subprocess.Popen(
                [sys.executable, "-m", "peers.worker", str(self._place)], text=True, env=self._environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
            )  # fmt: skip
            self._hosts[name] = _Host(process)
        self._hosts[name].used = time.monotonic()
        return self._hosts[name]

    def _ask(self, name: str, message: dict[str, Any]) -> dict[str, Any]:
        process = self._hosts[name].process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], self._limit_s)
            line = process.stdout.readline() if ready else ""
        except BrokenPipeError:
            ready, line = [process.stdout], ""
        if not line:
            self._stop(name)
            took = "its process ended" if ready else f"took more than {self._limit_s:g} s"
            raise PeerError(f"{message['op']}: {took}; see {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _make_room(self, keep: str) -> None:
        """Stop the hosts that were used longest ago until enough memory is free; compiled ones last."""
        while _available_bytes() < self._free_bytes:
            others = [name for name in self._hosts if name != keep]
            if not others:
                return
            self._stop(min(others, key=lambda name: (name.startswith("compile"), self._hosts[name].used)))

    def _stop(self, name: str) -> None:
        process = self._hosts.pop(name).process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # compilers that it started, too
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _available_bytes() -> float:
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return float("inf")

"""Options of serving. The one home of each; command lines read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import RequestError

MOST_BATCH, MOST_QUEUE, MOST_SECONDS = 256, 100_000, 86_400.0
_PORTS = 65_535


@dataclass(frozen=True)
class ServeOptions:
    """How a bundle is served."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every address of this machine."""
    port: int = 8000
    """Port to listen on; 0 takes a free one, which the first line says."""
    batch: int = 4
    """Most images made at once; waiting requests that agree on everything but prompt, class and seed are made
    together."""
    wait_ms: float = 0.0
    """How long a request may wait for others to be made together with it, where nothing else is being made."""
    queue: int = 32
    """Most requests that wait; one more is answered with 429."""
    drain_seconds: float = 25.0
    """After SIGTERM or SIGINT, how long requests that were accepted may still take."""
    backend: str = ""
    """Open an ort bundle with openvino, or the other way round. [default: the one it was built for]"""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto is the backend's own."""
    threads: int = 0
    """Threads of the engine library; 0 lets it choose."""
    lora: tuple[str, ...] = ()
    """LoRA that pictures are made with, FILE or FILE:STRENGTH, several if repeated; requests may name others, or none.
    [default strength: 1]"""
    lora_folder: str = ""
    """Folder of .safetensors files: LoRA that requests may name, by the file's name without its ending."""
    weights: Literal["prepacked", "shared"] | None = None
    """prepacked: a copy an engine, or shared: one for all engines, slower on the CPU. [default: what is faster]"""


def check_options(options: ServeOptions) -> None:
    """Raises RequestError for what is out of range."""
    ranges: tuple[tuple[str, float, float, float], ...] = (
        ("--port", options.port, 0, _PORTS), ("--batch", options.batch, 1, MOST_BATCH),
        ("--wait-ms", options.wait_ms, 0, 1000 * MOST_SECONDS), ("--queue", options.queue, 1, MOST_QUEUE),
        ("--drain-seconds", options.drain_seconds, 0, MOST_SECONDS),
    )  # fmt: skip
    for name, value, least, most in ranges:
        if not (math.isfinite(value) and least <= value <= most):
            raise RequestError(f"{name} {value:g}: must be within {least:g} .. {most:g}")

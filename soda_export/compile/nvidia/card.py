"""What is known of a built engine, kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from .report import Region

ENGINE_NAME, CARD_NAME = "engine.plan", "engine.json"


class BuiltCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine. content: hash of the graph and the weights that it uses. ports: name -> dtype and sizes, -1 for a
    symbolic axis. weights_file: that the graph points to, "": none. attention: regions that are attention kernels."""

    library: str
    library_version: str
    targets: tuple[str, ...]
    weights: Literal["baked", "stripped", "inputs"]
    weights_file: str
    max_batch: int
    content: str
    bytes: int
    activation_bytes: int
    weights_bytes: int
    attention: int
    regions: tuple[Region, ...]
    build_seconds: float
    ports: dict[str, tuple[str | int, ...]]


def read_card(path: Path) -> BuiltCard:
    """Read a card that build_engine left."""
    return msgspec.json.decode(path.read_bytes(), type=BuiltCard)

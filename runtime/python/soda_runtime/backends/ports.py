"""Compare what an opened engine takes and gives with the manifest's signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import EngineError
from ..signature import Port


def check_ports(
    path: Path, kind: str, found: Mapping[str, tuple[str, Sequence[int | str | None]]], expected: Mapping[str, Port]
) -> None:
    """Raises EngineError where they differ.

    kind: input or output. found: dtype and shape by name; an axis of any size is not an int.
    """
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())[0]
        raise EngineError(f"{path}: {kind} {odd!r} is not in both the engine and the manifest; rebuild the bundle")
    for name, port in expected.items():
        dtype, shape = found[name]
        matches = len(shape) == len(port.shape) and all(
            isinstance(wanted, str) or wanted == given for wanted, given in zip(port.shape, shape, strict=True)
        )
        if not matches or dtype != port.dtype:
            raise EngineError(
                f"{path}: {kind} {name!r} is {dtype} {list(shape)}, the manifest says {port.dtype} {list(port.shape)}; "
                "rebuild the bundle"
            )

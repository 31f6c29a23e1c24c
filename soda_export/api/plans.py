"""Which size of a bundle each --plan is for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..models.request import ModelRequest


def assign_plans(given: Sequence[Path], requests: Sequence[ModelRequest]) -> list[Path | None]:
    """Each size's plan; None where that of the first size is carried over, or made.

    given: FILE, for every size or, of several, one for each in their order; or HxW=FILE for a size, besides one FILE
    for all others. Raises UsageError for what does not come out even.
    """
    sizes = [request.size[0] if request.size else "" for request in requests]
    named, plain = dict[str, Path](), list[Path]()
    for path in given:
        found = None if path.exists() else re.fullmatch(r"([1-9]\d*x[1-9]\d*)=(.+)", str(path))
        if found is None:
            plain.append(path)
            continue
        if found[1] not in sizes:
            known = ", ".join(filter(None, sizes)) or "none"
            raise UsageError(f"--plan {path}: {found[1]} is no --size; there are {known}")
        if found[1] in named:
            raise UsageError(f"--plan {path}: {found[1]} has a plan already; give one for each size")
        named[found[1]] = Path(found[2])
    if len(plain) > 1:
        if named or len(plain) != len(sizes):
            raise UsageError(
                f"--plan: {len(given)} plans for {len(sizes)} sizes; give one for all, one for each, or HxW=FILE for "
                "those that have their own"
            )
        return list(plain)
    rest = plain[0] if plain else None
    missing = [size for size in sizes if size not in named]
    if named and missing and rest is None:
        raise UsageError(f"--plan: none for {', '.join(missing)}; give one more without a size, for all others")
    first = named.get(sizes[0], rest)
    return [first, *(named.get(size, None if rest is first else rest) for size in sizes[1:])]

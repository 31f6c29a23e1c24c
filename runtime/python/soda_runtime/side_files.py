"""JSON files beside a manifest, each with a format and a version of its own: one way to read them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from .errors import BundleError, SodaError
from .files import REBUILD
from .strict_json import StrictJsonError, decode, parse_json, require_printable

T = TypeVar("T")


def read_side_file(
    path: Path, kind: type[T], form: str, version: int, most_bytes: int, *, refusal: type[SodaError] = BundleError,
    advice: str = REBUILD,
) -> T:  # fmt: skip
    """The file as a dataclass. form, version: what its own keys must say. Raises `refusal` with the advice, OSError."""
    try:
        if path.stat().st_size > most_bytes:
            raise StrictJsonError(f"{path.stat().st_size} bytes, at most {most_bytes} are read")
        value = parse_json(path.read_bytes())
        if not isinstance(value, dict) or (value.get("format"), value.get("version")) != (form, version):
            raise refusal(f"{path}: not a {form} file of version {version}; update soda-runtime or rebuild")
        require_printable(value)
        return decode(kind, value)
    except StrictJsonError as error:
        raise refusal(f"{path}: {error}; {advice}") from None

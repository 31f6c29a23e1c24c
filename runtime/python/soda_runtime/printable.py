"""Text that may be printed: what comes out of a bundle must not steer a terminal."""

from __future__ import annotations

import re

_REFUSED = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def is_printable(text: str) -> bool:
    """Whether text has no control characters, breaks of lines, changes of direction or bytes that are no UTF-8."""
    return not _REFUSED.search(text)


def printable(text: str) -> str:
    """Text with `?` in the place of such characters, and a space in that of those below U+0020."""
    return _REFUSED.sub(lambda found: " " if found[0] < " " else "?", text)

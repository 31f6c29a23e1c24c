"""What a benchmark found: on the screen, and in a file where one is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_record(record: Any, out: Path | None, default: Callable[[Any], Any] | None = None) -> None:
    """Print a record as JSON, and write it to `out` if that is given. default: as json.dumps takes it."""
    text = json.dumps(record, indent=1, default=default)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")

"""`python -m soda_runtime.serve BUNDLE`: `soda-export serve` for machines that have the runtime alone."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from ..errors import SodaError


def main(words: Sequence[str] | None = None) -> int:
    """words: default those of the process. Exit codes: 2 for what the user can mend, 128 + N after signal N."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # process 1 of a container has no default
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep
    try:
        from .command_line import make_app
    except ImportError as error:
        return _told(f"this needs {error.name}: pip install 'soda-runtime[serve]'")
    from cyclopts import CycloptsError

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("soda_runtime").setLevel(logging.INFO)
    try:
        make_app()(sys.argv[1:] if words is None else words, exit_on_error=False, print_error=False)
    except (SodaError, CycloptsError) as error:
        return _told(" ".join(str(error).split()))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _told(what: str) -> int:
    print(f"soda_runtime.serve: {what}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

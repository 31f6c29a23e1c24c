"""What a call takes of this process: CPU seconds, and resident memory at its peak."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypedDict, TypeVar

_P, _T = ParamSpec("_P"), TypeVar("_T")
_SECONDS, _TIMES = 1.0, 5  # until which, and how often at most, a call is repeated


class Cost(TypedDict):
    """cpu_s: of all threads. peak_bytes: resident, above what was resident at the beginning."""

    cpu_s: float
    peak_bytes: int


class Costs:
    """found: costs of the stages measured so far, by name."""

    def __init__(self) -> None:
        self.found: dict[str, Cost] = {}

    def once(self, name: str, call: Callable[_P, _T], *args: _P.args, **given: _P.kwargs) -> _T:
        """Call and measure."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not resident
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        before, started = _status("VmRSS"), time.process_time()
        result = call(*args, **given)
        self.found[name] = Cost(cpu_s=time.process_time() - started, peak_bytes=max(0, _status("VmHWM") - before))
        return result

    def least(self, name: str, call: Callable[_P, _T], *args: _P.args, **given: _P.kwargs) -> _T:
        """The same for a call that may be repeated: the least time of several, while they are short; the first peak."""
        result = self.once(name, call, *args, **given)
        first = self.found[name]
        spent, least = first["cpu_s"], first["cpu_s"]
        for _ in range(_TIMES - 1):
            if spent > _SECONDS:
                break
            result = self.once(name, call, *args, **given)
            least = min(least, self.found[name]["cpu_s"])
            spent += self.found[name]["cpu_s"]
        self.found[name] = Cost(cpu_s=least, peak_bytes=first["peak_bytes"])
        return result


def _status(field: str) -> int:
    """Bytes that /proc/self/status says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")

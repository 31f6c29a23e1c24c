"""What a call takes of this process: CPU seconds, and resident memory at its peak."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import ParamSpec, TypedDict, TypeVar

from soda_export.machine import forget_peak, process_bytes

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
        forget_peak()
        before, started = process_bytes("VmRSS"), time.process_time()
        result = call(*args, **given)
        self.found[name] = Cost(cpu_s=time.process_time() - started, peak_bytes=max(0, process_bytes("VmHWM") - before))
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

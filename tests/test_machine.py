"""What soda_export asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FILL = """
import resource, sys, torch
from soda_export.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(16):  # the heap grows
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of eight activations of 64 MB, each freed before the next."""
    ended = subprocess.run([sys.executable, "-c", FILL, how], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_activations_are_used_again() -> None:
    assert faults("keep") < 0.02 * faults("leave")


PEAK = """
import numpy as np
from soda_export.machine import forget_peak, process_bytes
before = process_bytes("VmHWM")
np.ones(64 << 20, np.uint8)
peak = process_bytes("VmHWM")
forget_peak()
print(before, peak, process_bytes("VmHWM"), process_bytes("VmNone"))
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="of Linux with glibc")
def test_a_peak_is_seen_and_forgotten() -> None:
    ended = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, peak, after, unknown = map(int, ended.stdout.split())
    assert peak - before >= 60 << 20
    assert peak - after >= 60 << 20
    assert unknown == 0

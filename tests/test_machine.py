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

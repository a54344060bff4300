"""Freed memory stays in the process while it is wanted, and goes back afterwards."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

MEASURE = """
import resource, torch
from mtl.model.heap import keeping_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

torch.set_num_threads(1)
faults()
with keeping_freed():
    faults()  # some blocks more than one are taken before they are used again
    kept, held = faults(), resident()
print(kept, faults(), held, resident())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="the C library is not GNU's: nothing is changed there",
)
def test_a_large_block_is_cleared_by_the_system_once():
    found = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True).stdout
    kept, given_back, held, left = map(int, found.split())
    assert kept < given_back / 100
    assert left < held

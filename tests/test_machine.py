import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from unmix.machine import keep_freed_memory

if {kept}:
    keep_freed_memory()
for round in range(12):
    if round == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(50_000_000, np.uint8) for _ in range(3)]  # above 32 MB, which glibc always gives back by itself
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
HELD = """
import gc
from unmix.machine import held, keep_freed_memory, resident

keep_freed_memory()
gc.disable()
blocks = [bytes(range(256)) * 256 for _ in range(3000)]  # 64 KB each
blocks.append(blocks)  # a cycle: only the garbage collector frees it
del blocks
print(resident() - held())
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library decides for itself")


@glibc
def test_freed_memory_is_used_again_and_not_mapped_anew():
    def faults(kept: bool) -> int:
        code = FAULTS.format(kept=kept)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert faults(kept=True) < 100
    assert faults(kept=False) > 500  # huge pages, of which there are 24 to a block, count once


@glibc
def test_what_is_held_leaves_out_what_was_freed():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150e6  # of 197 MB

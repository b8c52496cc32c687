"""What is freed goes back to the system where that is asked for, and stays where it is not."""

import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
HELD = """
import re, sys
from pathlib import Path
import numpy as np
from cleanweb import malloc
getattr(malloc, sys.argv[1])()
held = lambda: int(re.search(r"RssAnon:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before, first = held(), np.ones(2_000_000)
del first  # unasked, glibc would keep what is as large as this from now on
for _ in range(3):
    some = [np.ones(1_000_000) for _ in range(8)]
    between = np.ones(1000)  # whatever lies above what is freed
    del some
print(held() - before)
"""


def held_afterwards(asked: str) -> float:
    """MB that a process still holds after having held 64."""
    ran = subprocess.run([sys.executable, "-c", HELD, asked], check=True, capture_output=True, text=True)
    return float(ran.stdout)


@glibc
def test_large_blocks_go_back_to_the_system_or_stay():
    assert held_afterwards("return_freed") < 8
    assert held_afterwards("keep_freed") > 50


def test_nothing_is_asked_of_another_system(monkeypatch: pytest.MonkeyPatch):
    from cleanweb import malloc

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", pytest.fail)
    malloc.keep_freed()
    malloc.return_freed()

"""What glibc's malloc does with blocks that are freed. Elsewhere (musl, macOS, Windows) nothing is asked for."""

import contextlib
import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4  # glibc malloc.h
_LARGE = 6 * 2**20  # bytes: more than is worked on at once (`labelnoise.py`), less than a number for every image


def keep_freed() -> None:
    """Ask for freed blocks to be kept: training frees and takes the same tens of megabytes every step, and fresh
    pages cost more than the arithmetic in them (cnn7, batch 128, two AVX2 cores: the step takes half the time)."""
    _ask({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20})


def return_freed() -> None:
    """Ask for large blocks to go back to the system whenever they are freed, and for all that is free to go now.
    Unasked, glibc keeps every block of a size that was freed before, up to 32 MB: numbers of a million images."""
    _ask({_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: _LARGE, _M_TRIM_THRESHOLD: 2 * _LARGE, _M_TOP_PAD: 128 * 2**10}, True)


def _ask(options: dict[int, int], trim: bool = False) -> None:
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            libc.mallopt(option, value)
        if trim:
            libc.malloc_trim(0)

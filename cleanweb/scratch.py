"""Large arrays that need not stay in memory: each lies in a temporary file, of which the system keeps in memory what
there is room for. Small ones are ordinary, and so are all where the disk has no room for them.

The files lie where Python's `tempfile` puts them (TMPDIR), have no name, and are gone with their arrays.
"""

import os
import shutil
import tempfile
import zipfile
from contextlib import suppress
from typing import IO, Any

import numpy as np

LEAST = 2**22  # bytes that are worth a file
_AT_ONCE = 2**20  # bytes


def zeros(shape: int | tuple[int, ...], dtype: Any = float) -> np.ndarray:
    """An array of zeros; it can be written."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if n_bytes >= LEAST:
        with suppress(OSError), tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # no room: an error now, not the end of the process later
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
    return np.zeros(shape, dtype)


def room_bytes() -> int:
    """What the disk has room for."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def copied(array: np.ndarray) -> np.ndarray:
    """The same numbers in an array of its own."""
    found = zeros(array.shape, array.dtype)
    found[...] = array
    return found


def load(stream: IO[bytes]) -> dict[str, np.ndarray]:
    """The arrays that `np.savez` wrote. Raises ValueError where they hold objects, and whatever zipfile and NumPy raise
    where they are damaged."""
    with zipfile.ZipFile(stream) as stored:
        return {name.removesuffix(".npy"): _read(stored, name) for name in stored.namelist()}


def _read(stored: zipfile.ZipFile, name: str) -> np.ndarray:
    with stored.open(name) as member:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[np.lib.format.read_magic(member)](member)
        if dtype.hasobject:
            raise ValueError(f"{name} holds objects")
        flat = zeros(int(np.prod(shape, dtype=np.int64)), dtype)
        place, n_read = flat.view(np.uint8), 0
        while chunk := member.read(_AT_ONCE):  # to its end: there its checksum is compared
            place[n_read : n_read + len(chunk)] = np.frombuffer(chunk, np.uint8)
            n_read += len(chunk)
        if n_read < len(place):
            raise ValueError(f"{name} breaks off")
    return flat.reshape(shape, order="F" if fortran else "C")

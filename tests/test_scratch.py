"""Large arrays lie in files that nobody sees, and are arrays like others; what is stored is read, or refused."""

import errno
import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from cleanweb import scratch

LARGE = scratch.LEAST // 8 + 1


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("shape", [3, (2, 0), (), LARGE, (LARGE, 2)])
def test_they_are_zeros_that_can_be_written(shape: int | tuple[int, ...], place: Path) -> None:
    array = scratch.zeros(shape, np.int64)
    assert type(array) is np.ndarray
    assert array.dtype == np.int64
    assert array.shape == np.zeros(shape).shape
    assert not array.any()
    array += 7
    assert (array == 7).all()
    assert not list(place.iterdir())  # no name


@pytest.mark.skipif(sys.platform != "linux", reason="the books are Linux's")
def test_large_ones_are_no_memory_of_the_process() -> None:
    def anonymous() -> int:
        found = re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
        assert found
        return int(found[1]) * 1024

    before = anonymous()
    array = scratch.zeros(2**25, np.uint8)
    array.fill(1)
    assert anonymous() - before < 2**24
    copy = scratch.copied(array)
    copy[0] = 9
    assert (array[0], copy[1]) == (1, 1)
    assert anonymous() - before < 2**24


def test_a_disk_without_room_is_no_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    array = scratch.zeros(LARGE, float)
    array += 1
    assert array.sum() == LARGE
    assert not list(place.iterdir())


ARRAYS = {
    "large": np.arange(LARGE, dtype=np.float64),
    "words": np.array(["é", "", "long " * 9]),
    "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "none": np.zeros((0, 4), np.float32),
    "one": np.array("rule"),
    "yes": np.array([True, False]),
}


def stored(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("prefix", [0, 16])
def test_what_numpy_stored_is_read(prefix: int) -> None:
    found = scratch.load(io.BytesIO(bytes(prefix) + stored(ARRAYS)))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("at", [100, -LARGE, LARGE])
def test_what_is_damaged_is_refused(at: int) -> None:
    content = bytearray(stored(ARRAYS))
    content[at] ^= 1
    with pytest.raises(Exception):  # noqa: B017, PT011 - zipfile and numpy raise whatever their parsers raise
        scratch.load(io.BytesIO(content))
    with pytest.raises(Exception):  # noqa: B017, PT011
        scratch.load(io.BytesIO(content[:-LARGE]))


def test_no_object_is_made_of_what_is_stored() -> None:
    with pytest.raises(ValueError, match="objects"):
        scratch.load(io.BytesIO(stored({"x": np.array([{}], dtype=object)})))

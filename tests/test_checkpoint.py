"""A checkpoint that is damaged is never believed; the one before it is, and is said."""

from pathlib import Path

import numpy as np
import pytest

from cleanweb import checkpoint


def keep(file: Path, content: bytes) -> None:
    checkpoint.write(file, lambda stream: stream.write(content))


def test_the_last_is_read(tmp_path: Path):
    file = tmp_path / "file"
    assert checkpoint.read(file) is None
    for content in (b"first", b"", b"third"):
        keep(file, content)
        assert checkpoint.read(file) == content
    assert {path.name for path in tmp_path.iterdir()} == {"file", "file.before"}


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b + b"x", lambda b: b"x" + b[1:]])
def test_a_damaged_one_is_left_aside_with_a_note(damage, tmp_path: Path, caplog):
    file = tmp_path / "file"
    keep(file, b"first")
    keep(file, b"second")
    file.write_bytes(damage(file.read_bytes()))
    assert checkpoint.read(file) == b"first"
    assert "file is damaged" in caplog.text
    before = tmp_path / "file.before"
    before.write_bytes(damage(before.read_bytes()))
    assert checkpoint.read(file) is None


def test_a_kill_between_its_two_renames_leaves_the_one_before(tmp_path: Path):
    file = tmp_path / "file"
    keep(file, b"first")
    file.rename(tmp_path / "file.before")
    assert checkpoint.read(file) == b"first"


def test_arrays_are_made_once(tmp_path: Path):
    made = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"x": np.arange(3), "y": np.zeros((2, 0), np.float32)}

    for _ in range(2):
        arrays = checkpoint.once(tmp_path / "arrays.npz", make)
        assert arrays["x"].tolist() == [0, 1, 2]
        assert arrays["y"].shape == (2, 0)
        assert arrays["y"].dtype == np.float32
    assert made == [1]

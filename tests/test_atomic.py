"""Files are complete or absent; whoever is killed while writing leaves what was there, and a draft that is removed."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cleanweb import atomic
from cleanweb.errors import MachineError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refuse(number: int):
    def refusing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refusing


def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path):
    file = tmp_path / "file"
    for content in (b"old", b"new"):
        atomic.write_bytes(file, content[:1], memoryview(content)[1:])
        assert file.read_bytes() == content
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_leaves_the_old_one(step: str, number: int, tmp_path: Path, monkeypatch):
    file = tmp_path / "file"
    atomic.write_text(file, "old")
    monkeypatch.setattr(os, step, refuse(number))
    with pytest.raises(MachineError, match=r"Cannot write .*file: .*\. .*What was there is as it was") as caught:
        atomic.write_text(file, "new")
    assert caught.value.exit_code == 5
    monkeypatch.undo()
    assert file.read_text() == "old"
    assert names(tmp_path) == {"file"}


def test_an_exception_leaves_the_old_one(tmp_path: Path):
    atomic.write_text(tmp_path / "file", "old")

    def interrupted() -> None:
        with atomic.writing(tmp_path / "file") as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == {"file"}


def test_a_folder_that_has_vanished_is_said_and_not_made_again(tmp_path: Path):
    with pytest.raises(MachineError, match="folder has vanished"):
        atomic.write_text(tmp_path / "gone" / "file", "new")
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_is_said_and_the_old_one_stays(small_disk: Path):
    """No injected error: a file system of 1 MB."""
    atomic.write_bytes(small_disk / "file", b"old")
    with pytest.raises(MachineError, match=r"No space left.*Free some space"):
        atomic.write_bytes(small_disk / "file", bytes(2 << 20))
    assert (small_disk / "file").read_bytes() == b"old"
    assert names(small_disk) == {"file"}


def test_what_is_written_is_flushed_before_and_after_it_is_named(tmp_path: Path, monkeypatch):
    steps, fsync, replace = [], os.fsync, os.replace

    def flush(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("named"), replace(*names)))
    atomic.write_text(tmp_path / "file", "text")
    assert steps == ["file", "named", "folder"] or sys.platform != "linux"


KILLED = """
import os, signal, sys
from pathlib import Path
from cleanweb import atomic
with atomic.writing(Path(sys.argv[1])) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_writer_leaves_the_old_one_and_its_draft_is_removed(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("old")
    subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert file.read_text() == "old"
    assert len(names(tmp_path)) == 2
    with atomic.writing(tmp_path / "other") as mine:
        mine.write_text("not finished yet")
        atomic.remove_drafts(tmp_path)
        assert names(tmp_path) == {"file", mine.name}  # who lives keeps his

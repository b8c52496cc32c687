"""One process at a time: the second is told of the first; a dead process, or its number reused, locks nothing."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanweb import runlock
from cleanweb.errors import MachineError, RunError
from cleanweb.runlock import only_one

HOLD = """
import sys, time
from pathlib import Path
from cleanweb.runlock import only_one
with only_one(Path(sys.argv[1]), "fit"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process, which works in tmp_path."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_refused_and_told_of_the_first(other: subprocess.Popen, tmp_path: Path):
    with (
        pytest.raises(RunError, match=rf"fit, process {other.pid} on \S+, since 20") as caught,
        only_one(tmp_path, "fit"),
    ):
        pass
    assert caught.value.exit_code == 6
    assert socket.gethostname() in str(caught.value)


def test_a_killed_process_locks_nothing(other: subprocess.Popen, tmp_path: Path):
    other.kill()
    other.wait()
    assert (tmp_path / runlock.NAME).exists()
    with only_one(tmp_path, "fit"):
        assert json.loads((tmp_path / runlock.NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / runlock.NAME).exists()


@pytest.mark.parametrize("pid", [1, pytest.param(os.getpid(), id="its own"), 2**22 - 1])
def test_what_the_file_says_locks_nothing(pid: int, tmp_path: Path):
    """The process with that number is another one, or none."""
    (tmp_path / runlock.NAME).write_text(json.dumps({"pid": pid, "host": "here", "doing": "fit", "since": "2026"}))
    with only_one(tmp_path, "fit"):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_first_that_has_not_said_its_name_is_refused_all_the_same(text: str, tmp_path: Path):
    with only_one(tmp_path, "fit"):
        (tmp_path / runlock.NAME).write_text(text)
        with pytest.raises(RunError, match="Another process works on"), only_one(tmp_path, "retag"):
            pass


def test_of_many_that_come_at_once_one_at_a_time_gets_in(tmp_path: Path):
    code = """
import sys, time
from pathlib import Path
from cleanweb.errors import RunError
from cleanweb.runlock import only_one
folder, end = Path(sys.argv[1]), time.monotonic() + 2
while time.monotonic() < end:
    try:
        with only_one(folder, "fit"):
            mine = folder / "inside"
            mine.touch(exist_ok=False)
            mine.unlink()
    except RunError:
        pass
"""
    crowd = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[1] for process in crowd] == [b""] * 4


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError, match=r"run\.lock"), only_one(tmp_path, "fit"):
        pass


def test_it_is_free_again_at_once(tmp_path: Path):
    began = time.monotonic()
    for _ in range(20):
        with only_one(tmp_path, "fit"):
            pass
    assert time.monotonic() - began < 5

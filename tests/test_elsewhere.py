"""What only Linux has is never counted on: the names of Windows and macOS are played here by taking Linux's away."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cleanweb import doctor, machine, workers


def test_without_affinity_all_cores_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.cores() == 7
    assert doctor.check_threads().found == "7 threads"


def crash_at_two(number: int) -> object:
    def work(item: int) -> int:
        if item == 2:
            os._exit(3)
        return item * 10

    return work


def test_workers_without_the_signals_of_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash was told through signal.SIGKILL, which Windows has not."""
    monkeypatch.setattr(workers, "signal", SimpleNamespace(SIGINT=signal.SIGINT))
    found = dict(workers.run(crash_at_two, enumerate(range(4)), 1))
    assert {key: answer for key, answer in found.items() if key != 2} == {0: 0, 1: 10, 3: 30}
    assert found[2] == workers.Failed("the decoder ended (exit code 3)")


def test_the_bench_needs_no_resource_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanweb.bench import trial

    assert trial._peak_memory_mb() is None or trial._peak_memory_mb() > 0
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows: importing it raises
    assert trial._peak_memory_mb() is None


def test_no_module_of_one_system_is_imported_when_a_file_is() -> None:
    from tests.test_architecture import FILES, TREES, at_module_level, imported

    of_one_system = {"resource", "fcntl", "pwd", "grp", "termios", "pty", "msvcrt", "winreg"}
    for name in FILES:
        found = {dotted.split(".")[0] for dotted in imported(name, at_module_level(TREES[name]))}
        assert not found & of_one_system, name


@pytest.mark.skipif(sys.platform == "win32", reason="names that are no text are of Linux")
def test_names_that_are_no_text_do_not_end_a_command(run: Path, crawl: Path, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        strange.write_bytes((crawl / "blue" / "00.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes only text")
    words = [sys.executable, "-m", "cleanweb", "predict", str(strange), "--run", str(run), "--json"]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] is not None


def test_a_terminal_of_few_letters_gets_what_it_can_show() -> None:
    words = [sys.executable, "-m", "cleanweb", "sql", "SELECT 1", "--run", "naïve → 猫"]
    done = subprocess.run(words, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 6
    assert b"na\xefve \\u2192 \\u732b" in done.stderr

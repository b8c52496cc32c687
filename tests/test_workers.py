"""The pool: a bad item costs itself alone, and nothing outlives the parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cleanweb import workers
from cleanweb.errors import MachineError
from cleanweb.workers import Failed


def start(number: int):
    """Items are words to act on; anything else is doubled."""

    def act(item):
        match item:
            case "raise":
                raise ValueError("a bad item")
            case "exit":
                os._exit(3)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "sleep":
                time.sleep(60)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "eat":
                return len(bytearray(1 << 30))
            case "number":
                return number
        return item * 2

    return act


def broken_start(number: int):
    raise MachineError("cannot start")


@pytest.mark.parametrize("n_workers", [0, 2])
def test_every_item_is_answered_once_and_a_raised_error_is_an_answer(n_workers):
    items = [(key, "raise" if key == 5 else key) for key in range(300)]
    answers = list(workers.run(start, items, n_workers))
    assert sorted(key for key, _ in answers) == list(range(300))
    answers = dict(answers)
    assert answers.pop(5) == Failed("ValueError: a bad item")
    assert all(answer == 2 * key for key, answer in answers.items())


def test_a_crash_or_a_hang_costs_one_item_and_says_which():
    poison = {7: "segfault", 20: "sleep", 33: "exit"}
    items = [(key, poison.get(key, key)) for key in range(60)]
    answers = dict(workers.run(start, items, 2, deadline_s=1.5))
    assert len(answers) == 60
    assert answers.pop(7) == Failed("the decoder crashed (signal 11)")
    assert answers.pop(20) == Failed("took longer than 1.5 s")
    assert answers.pop(33) == Failed("the decoder ended (exit code 3)")
    assert all(answer == 2 * key for key, answer in answers.items())


def test_a_process_that_is_killed_for_its_memory_costs_one_item():
    answers = dict(workers.run(start, [(0, 1), (1, "killed"), (2, 3)], 1))
    assert answers == {0: 2, 1: Failed("the decoder was killed (signal 9), perhaps for its memory"), 2: 6}


@pytest.mark.skipif(sys.platform != "linux", reason="no system but Linux limits what a process may write to")
def test_an_item_that_eats_the_memory_is_refused_it():
    items = [(0, 1), (1, "eat"), (2, "number")]
    assert dict(workers.run(start, items, 1, memory_bytes=1 << 29)) == {0: 2, 1: Failed("MemoryError: "), 2: 0}
    assert dict(workers.run(start, items, 1, memory_bytes=1 << 31))[1] == 1 << 30


@pytest.mark.parametrize("n_workers", [0, 1, 2, 1000])
def test_every_process_gets_a_share_of_the_memory(n_workers, monkeypatch):
    texts = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    6291456 kB\n"}

    def read(file):
        if file not in texts:
            raise FileNotFoundError
        return texts[file]

    monkeypatch.setattr(workers, "_read", read)
    assert workers.memory_share(n_workers) == {0: 4 << 30, 1: 4 << 30, 2: 3 << 30, 1000: 1 << 30}[n_workers]
    group = "/sys/fs/cgroup/memory."
    texts |= {f"{group}max": "max\n", f"{group}current": "5\n", f"{group}stat": "anon 7\n"}
    assert workers.memory_share(2) == 3 << 30
    texts |= {f"{group}max": str(5 << 30), f"{group}current": str(1 << 30)}
    assert workers.memory_share(2) == 2 << 30
    texts |= {f"{group}current": str(4 << 30), f"{group}stat": f"anon 7\ninactive_file {3 << 30}\nactive_file 9\n"}
    assert workers.memory_share(2) == 2 << 30  # files that were read and may be forgotten count as used
    texts.clear()
    assert workers.memory_share(n_workers) == 4 << 30


def test_a_replaced_process_gets_a_new_number():
    answers = dict(workers.run(start, [(0, "number"), (1, "exit"), (2, "number")], 1))
    assert (answers[0], answers[2]) == (0, 1)


def test_the_stream_is_read_as_it_is_worked_off_and_leaving_ends_the_processes():
    read = []

    def endless():
        while True:
            read.append(1)
            yield len(read), b"x" * (1 << 20)

    stream = workers.run(start, endless(), 2)
    answers = [next(stream) for _ in range(20)]
    stream.close()
    assert len(answers) == 20
    assert len(read) < 60


def test_processes_that_do_not_start_are_an_error_in_words(capfd):
    with pytest.raises(MachineError, match="--workers 0"):
        list(workers.run(broken_start, [(0, 1)], 1))
    capfd.readouterr()


def test_nothing_to_do_starts_nothing():
    assert list(workers.run(broken_start, [], 2)) == []


SCRIPT = """
import os, signal, time
from cleanweb import workers

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored

def start(number):
    def act(item):
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(60)
    return act

if __name__ == "__main__":
    list(workers.run(start, [(0, 0), (1, 1)], 2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans(tmp_path, how):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as parent:
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(how)
        parent.wait(60)
        errors = parent.stderr.read().decode()
    assert errors.count("Traceback") == (1 if how == signal.SIGINT else 0)  # the parent's own
    end = time.monotonic() + 60
    while any(map(_alive, children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_alive, children))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("said", ["", "MemTotal: 100 kB\n"])
def test_a_system_that_does_not_tell_what_memory_is_free_leaves_a_worker_the_most(said: str, monkeypatch):
    """Some sandboxes' /proc/meminfo has no such line."""

    def read(file: str) -> str:
        if file == "/proc/meminfo":
            return said
        raise FileNotFoundError(file)

    monkeypatch.setattr(workers, "_read", read)
    assert workers.memory_share(1) == workers.MOST_BYTES

"""A small pool of supervised processes.

Decoders written in C can crash, hang or eat the memory. Here such an item costs itself alone: its process is replaced,
it is answered with `Failed`, and the other items go on. Items are handed out in small bunches, at most one bunch per
process, so that a crawl of any size takes little memory. Answers come back some at a time, for each message takes a
core from a process at work; which item that is, a process counts in memory that the parent sees.
"""

import contextlib
import ctypes
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cleanweb.errors import MachineError

Keyed = tuple[int, Any]  # an item, or its answer, under the number it came with
Start = Callable[[int], Callable[[Any], Any]]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
BUNCH_S = 0.1  # a bunch of items should take this long: long beside a message, short beside the whole
BUNCH_ITEMS = 64
BUNCH_BYTES = 4 << 20
MESSAGE_S = 0.05  # of answers goes into a message: what is done again where a process dies
LEAST_BYTES, MOST_BYTES = 1 << 30, 4 << 30  # of memory for one process


_to_parent: "_Answers | None" = None  # in a process of the pool


@dataclass(frozen=True, slots=True)
class Told:
    """What a function has to say before its answer."""

    message: Any


def tell(message: Any) -> None:
    """From a function at work in a process of the pool to whoever runs the pool, where it comes as `Told`."""
    assert _to_parent is not None, "there is nobody to tell"
    _to_parent.send(Told(message))


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer to an item that could not be answered."""

    words: str


def run(
    start: Start,
    items: Iterable[Keyed],
    workers: int,
    deadline_s: float = 60.0,
    memory_bytes: int | None = None,
    who: str = "the decoder",
) -> Generator[Keyed, None, None]:
    """Answer every (key, item) with (key, function(item)), in any order, on `workers` processes; 0: in this process.

    `start(number)` is called once in each process, with a number never given before, and returns the function; it must
    be picklable. An item whose function raises, whose process dies or that takes longer than `deadline_s` seconds is
    answered with `Failed` (in this process only the first of the three can be caught). A process that asks for more
    than `memory_bytes` beyond what it began with gets a MemoryError, where the system can limit it (Linux). Leaving
    the iterator, by Ctrl-C too, ends all processes. `who`: what is at work there, in words. Raises MachineError where
    processes do not even start.
    """
    if workers == 0:
        function = start(0)
        for key, item in items:
            yield key, _attempt(function, item)
        return
    queue, numbers, pool = _Queue(items), count(), list[_Worker]()
    try:
        while True:
            queue.refill()
            while queue.waiting and len(pool) < workers:
                pool.append(_Worker(start, next(numbers), memory_bytes, who))
            for worker in pool:
                if worker.ready and not worker.handed:
                    worker.give(queue)
            if not queue.waiting and not any(worker.handed for worker in pool):
                return
            wait([worker.pipe for worker in pool], timeout=min(1.0, deadline_s / 4))
            for worker in pool:
                yield from worker.answers(queue, deadline_s)
            pool = [worker for worker in pool if not worker.gone]
    finally:
        for worker in pool:
            worker.end()


class _Queue:
    """The items still to be handed out: those of broken-off bunches first, then the stream's."""

    def __init__(self, items: Iterable[Keyed]):
        self.items, self.waiting, self.size = iter(items), deque[Keyed](), 1

    def refill(self) -> None:
        """Look one item ahead: `waiting` is empty only where nothing is left."""
        if not self.waiting:
            self.waiting.extend(item for _, item in zip(range(1), self.items, strict=False))

    def bunch(self) -> list[Keyed]:
        taken, n_bytes = list[Keyed](), 0
        while len(taken) < self.size and n_bytes < BUNCH_BYTES:
            self.refill()
            if not self.waiting:
                break
            taken.append(self.waiting.popleft())
            n_bytes += len(taken[-1][1]) if isinstance(taken[-1][1], bytes) else 0
        return taken

    def learn(self, n: int, seconds: float) -> None:
        """A bunch of n items took so long: size the next ones by it."""
        self.size = max(1, min(BUNCH_ITEMS, 2 * n, round(n * BUNCH_S / max(seconds, 1e-6))))


class _Worker:
    def __init__(self, start: Start, number: int, memory_bytes: int | None, who: str):
        self.who = who
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.begun = context.RawValue("q")  # items that it has begun; it writes, we read
        args = (far_end, self.begun, start, number, memory_bytes)
        self.process = context.Process(target=_serve, args=args, daemon=True)
        self.handed: deque[Keyed] = deque()  # out and not answered
        self.answered = self.seen_begun = 0
        self.ready = self.gone = False
        self.given = 0
        self.given_at = self.heard_at = time.monotonic()
        with _sigint_blocked():  # the child inherits this: Ctrl-C is for the parent alone, from the first instruction
            self.process.start()
        far_end.close()  # so that the pipe ends when the child does

    def give(self, queue: _Queue) -> None:
        bunch = queue.bunch()
        self.handed.extend(bunch)
        self.given, self.given_at = len(bunch), time.monotonic()
        self.heard_at = self.given_at
        try:
            self.pipe.send([item for _, item in bunch])
        except OSError:  # died while it had nothing to do: no item is to blame
            queue.waiting.extendleft(reversed(self.handed))
            self.handed.clear()

    def answers(self, queue: _Queue, deadline_s: float) -> Iterator[Keyed]:
        """What has come from this process since the last look, its end included."""
        try:
            while self.pipe.poll():
                message = self.pipe.recv()
                self.ready, self.heard_at = True, time.monotonic()
                for answer in message:
                    if isinstance(answer, Told):
                        yield self.handed[0][0], answer
                        continue
                    key, _ = self.handed.popleft()
                    self.answered += 1
                    if not self.handed:
                        queue.learn(self.given, self.heard_at - self.given_at)
                    yield key, answer
        except (EOFError, OSError):
            yield from self._bury(queue, self._cause())
        else:
            if self.begun.value != self.seen_begun:
                self.seen_begun, self.heard_at = self.begun.value, time.monotonic()
            if self.handed and time.monotonic() - self.heard_at > deadline_s:
                yield from self._bury(queue, f"took longer than {deadline_s:g} s")

    def _cause(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        if not self.ready:
            raise MachineError(
                f"A worker process ended before it began (exit code {code}). Use --workers 0 to work in one process; "
                "in a script of your own, put the call under: if __name__ == '__main__':"
            )
        if code == -9:  # SIGKILL; Windows has no name for it
            return f"{self.who} was killed (signal 9), perhaps for its memory"
        return f"{self.who} crashed (signal {-code})" if code and code < 0 else f"{self.who} ended (exit code {code})"

    def _bury(self, queue: _Queue, words: str) -> Iterator[Keyed]:
        """End it: the item it was at is to blame; those before it, of which no word has come, are done again."""
        self.end()
        if self.handed:
            at = max(0, self.begun.value - self.answered - 1)
            key, _ = self.handed[at]
            del self.handed[at]
            queue.waiting.extendleft(reversed(self.handed))
            self.handed.clear()
            yield key, Failed(words)

    def end(self) -> None:
        if not self.gone:
            self.gone = True
            self.process.kill()
            self.process.join()
            self.process.close()
            self.pipe.close()


def _attempt(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}")


class _Answers:
    """What a process has to say."""

    def __init__(self, pipe: Connection):
        self.pipe, self.kept, self.sent_at = pipe, list[Any](), time.monotonic()

    def add(self, answer: Any) -> None:
        self.kept.append(answer)
        if time.monotonic() - self.sent_at > MESSAGE_S:
            self.send()

    def send(self, *more: Any) -> None:
        """What is kept, and more."""
        if self.kept or more:
            self.pipe.send([*self.kept, *more])
        self.kept, self.sent_at = [], time.monotonic()


def _serve(pipe: Connection, begun: Any, start: Start, number: int, memory_bytes: int | None) -> None:
    """The life of a process: bunches in, answers out, until the pipe closes."""
    if sys.platform == "linux":  # a decoder that holds Python's lock keeps the thread below from running
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _to_parent  # noqa: PLW0603 - one pipe in the life of the process
    _to_parent = answers = _Answers(pipe)
    function = start(number)
    if memory_bytes is not None:
        _limit_memory(memory_bytes)
    try:
        pipe.send([])  # ready
        while True:
            for item in pipe.recv():
                begun.value += 1
                answers.add(_attempt(function, item))
            answers.send()
    except (EOFError, OSError):
        return


def _end_with_parent() -> None:
    """A parent that is killed cannot end its children, and one inside a decoder would not notice its end."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"
    wait([parent.sentinel])
    os._exit(1)


def memory_share(workers: int) -> int:
    """What each of so many processes may take, in bytes: together at most what the machine has free, and no more than
    the largest picture needs."""
    free = free_memory()
    return MOST_BYTES if free is None else max(LEAST_BYTES, min(MOST_BYTES, free // max(workers, 1)))


def free_memory() -> int | None:
    """What the machine, or the container, has free or would give up for us, in bytes; None where it does not tell."""
    free = []
    with contextlib.suppress(OSError):  # not Linux
        free += [int(kb) * 1024 for kb in re.findall(r"^MemAvailable: *(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)]
    with contextlib.suppress(OSError, ValueError):  # in no container, or in one without a limit
        limit, used, told = (_read(f"/sys/fs/cgroup/memory.{what}") for what in ("max", "current", "stat"))
        kept_files = sum(map(int, re.findall(r"^inactive_file (\d+)", told, re.MULTILINE)))  # they count as used
        free.append(max(0, int(limit) - int(used) + kept_files))
    return min(free, default=None)


def _limit_memory(more_bytes: int) -> None:
    """No more than that beyond what this process holds already: an allocation fails, and the machine goes on."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # no such limits, or no such words, here
        import resource

        [held_kb] = re.findall(r"^VmData:\s*(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
        held = int(held_kb) * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = held + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _read(file: str) -> str:
    return Path(file).read_text(encoding="ascii")


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """No SIGINT for this thread and for processes started by it; one that comes meanwhile is delivered afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

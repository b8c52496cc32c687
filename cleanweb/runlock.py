"""One process at a time writes into a run folder: a lock of the operating system, which ends with its process.

`run.lock` lies in the folder while somebody works there and says who. Its being there means nothing (a killed process
leaves it), its being locked does: a process that has died, or another one with its number, holds no lock.
"""

import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from cleanweb.atomic import refused
from cleanweb.errors import RunError

NAME = "run.lock"
_TAKEN = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
_LOCKLESS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_BEYOND_TEXT = 1 << 20  # Windows keeps others from reading the locked bytes

log = logging.getLogger(__name__)


@contextmanager
def only_one(folder: Path, doing: str) -> Iterator[None]:
    """Work in `folder`, which exists, alone. doing: the command, for whoever is refused meanwhile.

    Raises RunError naming the process that works there, MachineError where the folder cannot be written to.
    """
    file = folder / NAME
    try:
        handle = _taken(file)
    except OSError as error:
        raise refused(file, error) from error
    try:
        who = {"pid": os.getpid(), "host": socket.gethostname(), "doing": doing, "since": f"{datetime.now(UTC):%F %T}"}
        with suppress(OSError):  # a full disk: the lock holds, the words are missing
            os.truncate(handle, 0)
            os.write(handle, json.dumps(who).encode())
        yield
    finally:
        _released(handle, file)


def _taken(file: Path) -> int:
    """The lock, as an open file; RunError where another process has it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in _LOCKLESS:
                log.warning("%s: this file system keeps no locks; see that nobody else works there.", file.parent)
                return handle
            os.close(handle)
            if error.errno not in _TAKEN:
                raise
            raise RunError(f"Another process works on {file.parent}: {_who(file)}. Wait until it has ended, or give "
                           "another --out.") from error  # fmt: skip
        if _is(handle, file):
            return handle
        os.close(handle)  # whoever had it removed it between our opening and our locking


def _released(handle: int, file: Path) -> None:
    if sys.platform != "win32":
        with suppress(OSError):
            file.unlink()  # while it is locked: whoever waits for it sees that it is gone
        os.close(handle)
    else:  # nothing is removed there that is open
        os.close(handle)
        with suppress(OSError):
            file.unlink()


def _is(handle: int, file: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _who(file: Path) -> str:
    """Who works there, in words."""
    try:
        who = json.loads(file.read_text(encoding="utf-8"))
        return f"{who['doing']}, process {who['pid']} on {who['host']}, since {who['since']} UTC"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its name is not written in {file} yet"


def _lock(handle: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        os.lseek(handle, _BEYOND_TEXT, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)

"""Files that are complete or absent: written under another name, flushed to the disk, then renamed.

Whoever is killed while writing leaves what was there as it was, and a draft beside it that the next one removes.
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cleanweb.errors import MachineError

_DRAFT = ".cleanweb-"  # .cleanweb-<pid>-<random>: what unfinished files are called
_A_DAY_S = 86_400
_ADVICE = {
    errno.ENOSPC: "Free some space there, or give another place.",
    errno.EDQUOT: "Free some space there, or give another place.",
    errno.EROFS: "Give a place that can be written to.",
    errno.EACCES: "Give a place that can be written to.",
    errno.EPERM: "Give a place that can be written to.",
    errno.ENOENT: "Its folder has vanished: is a disk no longer mounted?",
    errno.EIO: "The disk may be broken.",
}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(file: Path) -> Iterator[Path]:
    """A free path beside `file`, to write to. It becomes `file`, whatever is there, if all goes well, and vanishes if
    not. Raises MachineError where the disk refuses; the folder must be there."""
    draft = draft_of(file)
    with told(file):
        try:
            yield draft
            replace(draft, file)
        finally:
            remove(draft)


def write_bytes(file: Path, *parts: bytes | memoryview) -> None:
    """The file, made of these parts. Raises as `writing` does."""
    with writing(file) as draft, draft.open("xb") as stream:
        stream.writelines(parts)


def make_folder(folder: Path) -> None:
    """With those above it. Raises MachineError where the disk refuses."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_text(file: Path, text: str) -> None:
    write_bytes(file, text.encode())


def draft_of(file: Path) -> Path:
    """A name beside `file` that nobody has; it tells whose it is, for `remove_drafts`."""
    return file.with_name(f"{_DRAFT}{os.getpid()}-{secrets.token_hex(6)}")


def replace(draft: Path, file: Path) -> None:
    """Let the complete `draft` take the place of `file`, flushed to the disk before and after. Raises OSError."""
    sync(draft)
    os.replace(draft, file)  # noqa: PTH105 - one name for the tests to break
    sync(file.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """A file, a link or a whole folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drafts(folder: Path) -> list[Path]:
    """What anyone has left unfinished in a folder, or is about to finish."""
    return sorted(folder.glob(f"{_DRAFT}*"))


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes of this machine have left unfinished in a folder."""
    for draft in drafts(folder):
        with suppress(OSError):
            if not _lives(draft):
                remove(draft)


def _lives(draft: Path) -> bool:
    """Whether who began it may end it yet."""
    if os.name != "posix":  # there is no asking there: on Windows this very question would be a Ctrl-C
        return time.time() - draft.stat().st_mtime < _A_DAY_S
    pid = draft.name.removeprefix(_DRAFT).split("-")[0]
    return pid.isdigit() and _runs(int(pid))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@contextmanager
def told(place: Path, to: str = "write") -> Iterator[None]:
    """Say in words where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise refused(place, error, to) from error


def refused(place: Path, error: OSError, to: str = "write") -> MachineError:
    """What to say where the disk has refused."""
    words = f"Cannot {to} {place}: {error.strerror or error}."
    return MachineError(
        " ".join(filter(None, [words, _ADVICE.get(error.errno or 0, ""), "What was there is as it was."]))
    )

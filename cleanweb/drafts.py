"""Files and folders that are complete or absent, and that never take the place of anything."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cleanweb import atomic
from cleanweb.errors import UsageError


@contextmanager
def draft(out: Path, folder: bool = False) -> Iterator[Path]:
    """A path beside `out`, to build a file at, or an empty folder. It becomes `out` if all goes well, else it vanishes.

    An empty folder that stands where a folder shall be is used. Raises UsageError where anything else stands there,
    MachineError where the disk refuses.
    """
    out = out.absolute()
    refuse_existing(out, folder)
    unfinished = atomic.draft_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic.remove_drafts(out.parent)
        unfinished.mkdir(0o777 if folder else 0o700)  # fails where anything stands, a planted link too
        try:
            built = unfinished if folder else unfinished / "export"
            yield built
            _flush(built)
            _move(built, out)
            atomic.sync(out.parent)
        finally:
            atomic.remove(unfinished)
    except OSError as error:
        raise atomic.refused(out, error) from error


def refuse_existing(out: Path, folder: bool) -> None:
    """Raises UsageError where anything stands at `out` but an empty folder where a folder shall be."""
    usable = folder and out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if (out.exists() or out.is_symlink()) and not usable:
        raise UsageError(f"{out} exists, and an export never overwrites; choose another --out or remove it")


def _flush(path: Path) -> None:
    if path.is_file():
        atomic.sync(path)
    elif hasattr(os, "sync"):  # once for all of a folder's images: a flush each takes many times as long
        os.sync()


def _move(unfinished: Path, out: Path) -> None:
    """Rename, but never onto anything: `out` may have come into being since we looked."""
    if unfinished.is_dir():
        if out.is_dir():
            out.rmdir()  # the empty folder; fails on any other
        unfinished.rename(out)  # no folder is ever renamed onto a file, nor onto a folder that holds something
        return
    try:
        out.hardlink_to(unfinished)  # unlike a rename, fails where `out` exists
    except FileExistsError:
        refuse_existing(out, folder=False)
    except OSError:  # a file system without hard links
        refuse_existing(out, folder=False)
        unfinished.rename(out)

"""What we hand over: the shelf of writers.

A writer is a module, named once in `WRITERS`, with

    SUFFIX                               what its files end in, "" for a folder
    write(rows, out, link, read_bytes)   writes rows of the manifest's images to `out`, returns how many it wrote

where `link` is one of `LINKS` and `read_bytes(file, row)` gives the bytes of an image (row: its row in the Parquet file
that embeds it, else None). Writers that hand over no images have no use for either. An export is complete or absent,
and never overwrites: a writer builds it in the `draft` of `out`.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TextIO

from cleanweb import atomic
from cleanweb.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

WRITERS: dict[str, str] = {
    "csv": "cleanweb.writers.csv",
    "parquet": "cleanweb.writers.parquet",
    "imagefolder": "cleanweb.writers.imagefolder",
}

LINKS = ("copy", "hardlink", "symlink")  # how images get into an exported folder

ReadBytes = Callable[[str, int | None], bytes]

# The columns of an exported table, and what they are called in the manifest.
COLUMNS = {
    "path": "path",
    "label": "final_label",
    "verdict": "verdict",
    "given_label": "given_label",
    "confidence": "confidence",
    "sample_id": "sample_id",
    "file": "file",
}


def load(name: str) -> ModuleType:
    """The writer of that name; UsageError for one that is not there."""
    if name not in WRITERS:
        raise UsageError(f"unknown export format {name!r}; choose from {', '.join(WRITERS)}")
    return import_module(WRITERS[name])


def write(format: str, rows: "pd.DataFrame", out: Path, link: str, read_bytes: ReadBytes) -> int:
    """Write rows of the manifest's images as `format`; returns how many were written.

    Raises UsageError for an unknown format or link, and where `out` exists; MachineError where the disk refuses.
    """
    writer = load(format)
    if link not in LINKS:
        raise UsageError(f"unknown link {link!r}; choose from {', '.join(LINKS)}")
    return writer.write(rows, out, link, read_bytes)


def table(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Rows of the manifest's images as a table of labels, with `COLUMNS`."""
    return rows[list(COLUMNS.values())].set_axis(list(COLUMNS), axis=1)


def values(column: "pd.Series") -> list:
    """The column's values, None where there is none (pandas knows None, NaN, NaT and NA)."""
    return [None if gone else value for value, gone in zip(column, column.isna(), strict=True)]


def to_csv(frame: "pd.DataFrame", stream: TextIO) -> None:
    """Write a table as CSV: a comma, a line feed, quotes where a cell needs them, an empty cell for no value.

    The csv module leaves a carriage return unquoted before Python 3.13, and pandas then reads it as the end of a line.
    A cell that a spreadsheet would take for a formula is left as it is: labels must survive the journey.
    """
    stream.write(",".join(map(_cell, frame.columns)) + "\n")
    for row in zip(*(values(frame[name]) for name in frame.columns), strict=True):
        stream.write(",".join(map(_cell, row)) + "\n")


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text


@contextmanager
def draft(out: Path, folder: bool = False) -> Iterator[Path]:
    """A free path beside `out`, to build a file (or folder) at. It becomes `out` if all goes well, and vanishes if not.

    An empty folder that stands where a folder shall be is used. Raises UsageError where anything else stands there,
    MachineError where the disk refuses.
    """
    out = out.absolute()
    _refuse_existing(out, folder)
    unfinished = atomic.draft_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic.remove_drafts(out.parent)
        try:
            yield unfinished
            _flush(unfinished)
            _move(unfinished, out)
            atomic.sync(out.parent)
        finally:
            atomic.remove(unfinished)
    except OSError as error:
        raise atomic.refused(out, error) from error


def _refuse_existing(out: Path, folder: bool) -> None:
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
        _refuse_existing(out, folder=False)
    except OSError:  # a file system without hard links
        _refuse_existing(out, folder=False)
        unfinished.rename(out)

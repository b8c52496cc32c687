"""A table of paths and labels (CSV, TSV, JSON lines, JSON, Parquet), alone or with the folder its paths lie in; and
Parquet that embeds the images, a file or a folder of them.

Every row is a sample; every file of the folder that no row names is one too.
"""

import os
import unicodedata
from functools import cache, lru_cache
from pathlib import Path

from cleanweb.columns import no_column_options
from cleanweb.errors import CrawlError, UsageError
from cleanweb.labelrows import Row, is_table, rows
from cleanweb.readers import (
    SAME_LABEL_AGAIN,
    SIDECARS,
    Crawl,
    Namings,
    border,
    only,
    outside,
    printable,
    walk,
    within,
)
from cleanweb.records import Sample, Status


def sniff(source: Path, labels: Path | None) -> bool:
    """A table, a folder with a table, or a folder of Parquet files and nothing else that could be images."""
    if labels is not None:
        return True
    return bool(_parquets(source, border(source, False))) if source.is_dir() else source.is_file() and is_table(source)


def read(
    source: Path, labels: Path | None, path_column: str | None, label_column: str | None, allow_outside: bool = False
) -> Crawl:
    """See `cleanweb.readers.read`. A table alone may name images anywhere by absolute paths: it says where they are."""
    if labels and not source.is_dir():
        raise UsageError(f"{source} is a table already: give it alone, or a folder of images together with --labels.")
    root = source if source.is_dir() else source.parent
    edge = border(root, allow_outside)
    tables = [labels or source] if labels or source.is_file() else _parquets(source, edge)
    if labels and not (labels.is_file() and is_table(labels)):
        raise UsageError(f"{labels} is no table: --labels takes a CSV, TSV, JSON lines or Parquet file.")
    samples: list[Sample] = []
    namings = Namings()
    named: set[str] | None = set() if labels else None
    for table in tables:
        if table != source and not labels and outside(os.fspath(table), edge):
            raise CrawlError(f"{table} is a link that leads out of {root}. If that is yours, give --allow-outside.")
        finder = _Finder(root, table.parent, edge, absolute=source.is_file())
        with_images = labels is None  # beside a folder, a table's own copies of the images are not wanted
        for row in rows(table, path_column, label_column, with_images):
            if row.embedded is None:
                samples.append(_listed(row, finder, namings, named))
            else:
                samples.append(_embedded(row, table, root, namings))
    notes: list[str] = []
    if len(tables) > 1:
        notes.append(f"read {len(tables)} Parquet files: {', '.join(table.name for table in tables)}")
    if labels:
        samples += _unlisted(root, labels, named or set(), notes, edge)
    return Crawl(root, samples, notes)


def _parquets(folder: Path, edge: str | None = None) -> list[Path]:
    """The Parquet files of a folder that holds no other data: the layout of Hugging Face datasets."""
    return [Path(file) for file in only(folder, ".parquet", edge)]


def listed(table: Path, root: Path) -> list[Sample]:
    """The rows of a table, its paths relative to `root` where the files lie there; no file is looked into."""
    finder, namings = _Finder(root, table.parent), Namings()
    with no_column_options():
        return [_listed(row, finder, namings) for row in rows(table, None, None, False)]


# --- rows → samples -------------------------------------------------------------------------------------------------


def _listed(row: Row, finder: "_Finder", namings: Namings, named: set[str] | None = None) -> Sample:
    """The row as a sample; its file is added to those that were `named`."""
    file = finder.find(row.path)
    path = finder.relative(file) if file else printable(row.path)
    first = namings.labels.get(path)
    real = finder.beyond(file, row.path) if file else None
    if file and named is not None:
        named.add(file)
    if not file:
        status, note = Status.MISSING, finder.nowhere if row.path.strip() else "the row names no file"
    elif real:
        file, status, note = "", Status.OUTSIDE, f"leads to {printable(real)}"
    elif row.label is None:
        status, note = Status.UNLABELED, row.why
    elif first is None:
        namings.labels[path] = row.label
        status, note = Status.OK, ""
    elif first == row.label:
        status, note = Status.REPEATED, SAME_LABEL_AGAIN
    else:
        status, note = Status.CONFLICTING, f"the table names this path again; it was labeled {first!r} before"
    return Sample(namings.sample_id(path), path, file or "", None, row.label, status, note)


def _embedded(row: Row, table: Path, root: Path, namings: Namings) -> Sample:
    path = printable(row.path) or f"{table.relative_to(root).as_posix()}/{row.embedded}"
    status, note = (Status.OK, "") if row.label is not None else (Status.UNLABELED, row.why)
    return Sample(namings.sample_id(path), path, os.fspath(table), row.embedded, row.label, status, note)


def _unlisted(root: Path, table: Path, named: set[str], notes: list[str], edge: str | None) -> list[Sample]:
    samples = []
    for file in walk(root, notes, edge):
        if file in named or Path(file) == table or Path(file).suffix.lower() in SIDECARS:
            continue
        path = printable(Path(file).relative_to(root).as_posix())
        status, note = Status.UNLISTED, "no row of the table names this file"
        if outside(file, edge):
            file, status, note = "", Status.OUTSIDE, f"is a link to {printable(os.path.realpath(file))}"
        samples.append(Sample(path, path, file, None, None, status, note))
    return samples


class _Finder:
    """Which file a path of a table means: relative to the crawl folder, else to the table's; or absolute."""

    def __init__(self, root: Path, beside: Path, edge: str | None = None, absolute: bool = False):
        """edge: see `readers.border`. absolute: files named by an absolute path may lie anywhere."""
        self.root, self.edge, self.absolute = os.fspath(root), edge, absolute
        self.bases = list(dict.fromkeys((self.root, os.fspath(beside))))
        self.nowhere = f"no such file in {' or '.join(self.bases)}"
        self.real = cache(os.path.realpath)

    def find(self, text: str) -> str | None:
        """The file, absolute; None where there is none."""
        if not text.strip():
            return None
        spellings = dict.fromkeys((text, text.strip(), text.replace("\\", "/")))
        for respell in (lambda file: file, _as_on_disk):
            for spelling in spellings:
                for base in self.bases:
                    file = respell(os.path.normpath(os.path.join(base, spelling)))  # noqa: PTH118
                    if file and os.path.isfile(file):  # noqa: PTH113
                        return self._inside(file)
        return None

    def _inside(self, file: str) -> str:
        """The file by its path through the crawl folder, if it lies there: that may be written in other ways."""
        if not file.startswith(self.root + os.sep):
            folder, name = os.path.split(file)
            real, root = self.real(folder), self.real(self.root)
            if real == root or real.startswith(root + os.sep):
                return os.path.normpath(os.path.join(self.root, os.path.relpath(real, root), name))  # noqa: PTH118
        return file

    def beyond(self, file: str, written: str) -> str | None:
        """Where the file really is, if that is outside the crawl folder and may not be."""
        if self.edge is None or (self.absolute and os.path.isabs(written.strip())):  # noqa: PTH117
            return None
        folder, name = os.path.split(file)
        link = os.path.islink(file)  # noqa: PTH114
        real = os.path.realpath(file) if link else os.path.join(self.real(folder), name)  # noqa: PTH118
        return None if within(real, self.edge) else real

    def relative(self, file: str) -> str:
        inside = file.startswith(self.root + os.sep)
        return printable(file[len(self.root) + 1 :] if inside else file).replace(os.sep, "/")


def _as_on_disk(file: str) -> str | None:
    """The existing spelling of a path whose accents are composed in another way (é may be one letter or two)."""
    if file.isascii():
        return None
    folder, name = os.path.split(file)
    if folder == file:
        return file
    there = folder if os.path.isdir(folder) else _as_on_disk(folder)  # noqa: PTH112
    real = there and _names(there).get(unicodedata.normalize("NFC", name))
    return os.path.join(there, real) if there and real else None  # noqa: PTH118


@lru_cache(maxsize=256)
def _names(folder: str) -> dict[str, str]:
    return {unicodedata.normalize("NFC", name): name for name in os.listdir(folder)}  # noqa: PTH208

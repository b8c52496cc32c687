"""A table of paths and labels (CSV, TSV, JSON lines, JSON, Parquet), alone or with the folder its paths lie in; and
Parquet that embeds the images, a file or a folder of them.

Every row is a sample; every file of the folder that no row names is one too.
"""

import os
from collections.abc import Iterator

from cleanweb.columns import no_column_options
from cleanweb.errors import CrawlError, UsageError
from cleanweb.finder import FarFinder, Finder, finder
from cleanweb.labelrows import Row, is_table, rows
from cleanweb.packed import Samples
from cleanweb.readers import (
    SAME_LABEL_AGAIN,
    SIDECARS,
    Crawl,
    Namings,
    Place,
    border,
    only,
    outside,
    printable,
    walk,
)
from cleanweb.records import Sample, Status
from cleanweb.remote import below, place


def sniff(source: Place, labels: Place | None) -> bool:
    """A table, a folder with a table, or a folder of Parquet files and nothing else that could be images."""
    if labels is not None:
        return True
    return bool(_parquets(source, border(source, False))) if source.is_dir() else source.is_file() and is_table(source)


def read(
    source: Place, labels: Place | None, path_column: str | None, label_column: str | None, allow_outside: bool = False
) -> Crawl:
    """See `cleanweb.readers.read`. A table alone may name images anywhere by absolute paths: it says where they are."""
    if labels and not source.is_dir():
        raise UsageError(f"{source} is a table already: give it alone, or a folder of images together with --labels.")
    root = source if source.is_dir() else source.parent
    edge = border(root, allow_outside)
    tables = [labels or source] if labels or not source.is_dir() else _parquets(source, edge)
    if labels and not (labels.is_file() and is_table(labels)):
        raise UsageError(f"{labels} is no table: --labels takes a CSV, TSV, JSON lines or Parquet file.")
    samples, namings = Samples(), Namings()
    named: set[str] | None = set() if labels else None
    for table in tables:
        if table != source and not labels and outside(os.fspath(table), edge):
            raise CrawlError(f"{table} is a link that leads out of {root}. If that is yours, give --allow-outside.")
        paths = finder(root, table.parent, allow_outside, absolute=not source.is_dir())
        with_images = labels is None  # beside a folder, a table's own copies of the images are not wanted
        for row in rows(table, path_column, label_column, with_images):
            if row.embedded is None:
                samples.append(_listed(row, paths, namings, named))
            else:
                samples.append(_embedded(row, table, root, namings))
    notes: list[str] = []
    if len(tables) > 1:
        notes.append(f"read {len(tables)} Parquet files: {', '.join(table.name for table in tables)}")
    if labels:
        samples.extend(_unlisted(root, labels, named or set(), notes, edge, namings))
    return Crawl(root, samples, notes)


def _parquets(folder: Place, edge: str | None = None) -> list[Place]:
    """The Parquet files of a folder that holds no other data: the layout of Hugging Face datasets."""
    return [place(file) for file in only(folder, ".parquet", edge)]


def listed(table: Place, root: Place) -> list[Sample]:
    """The rows of a table, its paths relative to `root` where the files lie there; no file is looked into."""
    paths, namings = finder(root, table.parent, allow_outside=True), Namings()
    with no_column_options():
        return [_listed(row, paths, namings) for row in rows(table, None, None, False)]


# --- rows → samples -------------------------------------------------------------------------------------------------


def _listed(row: Row, paths: Finder | FarFinder, namings: Namings, named: set[str] | None = None) -> Sample:
    """The row as a sample; its file is added to those that were `named`."""
    file = paths.find(row.path)
    path = paths.relative(file) if file else printable(row.path)
    first = namings.labels.get(path)
    real = paths.beyond(file, row.path) if file else None
    if file and named is not None:
        named.add(file)
    if not file:
        status, note = Status.MISSING, paths.nowhere if row.path.strip() else "the row names no file"
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


def _embedded(row: Row, table: Place, root: Place, namings: Namings) -> Sample:
    path = printable(row.path) or f"{table.relative_to(root).as_posix()}/{row.embedded}"
    status, note = (Status.OK, "") if row.label is not None else (Status.UNLABELED, row.why)
    return Sample(namings.sample_id(path), path, os.fspath(table), row.embedded, row.label, status, note)


def _unlisted(
    root: Place, table: Place, named: set[str], notes: list[str], edge: str | None, namings: Namings
) -> Iterator[Sample]:
    for file in walk(root, notes, edge):
        lies = place(file)
        if file in named or lies == table or lies.suffix.lower() in SIDECARS:
            continue
        path = printable(below(file, os.fspath(root)))
        status, note = Status.UNLISTED, "no row of the table names this file"
        if outside(file, edge):
            file, status, note = "", Status.OUTSIDE, f"is a link to {printable(os.path.realpath(file))}"
        yield Sample(namings.of_file(path), path, file, None, None, status, note)

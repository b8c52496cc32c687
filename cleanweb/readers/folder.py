"""A folder with one sub-folder per class: the sub-folder's name is the label of all files below it, however deep.

Every file is a sample, whatever its extension: crawls hold images named .php. Files beside the class folders are
samples without a label, except tables and texts, which are told in the notes.
"""

import os
from pathlib import Path

from cleanweb.errors import CrawlError, UsageError
from cleanweb.readers import SIDECARS, Crawl, border, count, hidden, outside, printable, walk
from cleanweb.records import Sample, Status

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def sniff(source: Path, labels: Path | None) -> bool:
    """Any folder that comes without a table."""
    return labels is None and source.is_dir()


def read(
    source: Path, labels: Path | None, path_column: str | None, label_column: str | None, allow_outside: bool = False
) -> Crawl:
    """See `cleanweb.readers.read`. Raises CrawlError where there are no class folders."""
    if path_column or label_column:
        raise UsageError(f"{source} is a folder: --path-column and --label-column need a table, given with --labels.")
    names = sorted(name for name in os.listdir(source) if not hidden(name))  # noqa: PTH208 (names, not paths)
    classes = [name for name in names if (source / name).is_dir()]
    beside = [name for name in names if name not in classes]
    tables = [name for name in beside if Path(name).suffix.lower() in SIDECARS]
    _check(source, classes, tables)

    notes: list[str] = []
    edge = border(source, allow_outside)
    samples = [_sample(source, source / name, None, edge) for name in beside if name not in tables]
    for name in classes:
        folder = source / name
        files = [os.fspath(folder)] if outside(os.fspath(folder), edge) else walk(folder, notes, edge)
        samples += [_sample(source, Path(file), printable(name), edge) for file in files]
        if not files:
            notes.append(f"the class folder {printable(name)} is empty")
    if tables:
        words = count(len(tables), "table or text lies", "tables or texts lie")
        notes.append(f"{words} beside the class folders and was not read (--labels reads one): {', '.join(tables)}")
    return Crawl(source, samples, notes)


def _check(source: Path, classes: list[str], tables: list[str]) -> None:
    if not classes:
        hint = f"Did you mean --labels {source / tables[0]}?" if tables else "Name a table of labels with --labels."
        raise CrawlError(f"{source} has no sub-folders: looked for one per class. {hint}")
    if {name.lower() for name in classes} <= SPLITS and _holds_folders(source / classes[0]):
        raise CrawlError(
            f"The sub-folders of {source} are splits ({', '.join(classes)}), not classes. Give one of them: "
            f"{source / classes[0]}"
        )


def _holds_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.iterdir() if not hidden(entry.name))


def _sample(root: Path, file: Path, label: str | None, edge: str | None) -> Sample:
    path, place = printable(file.relative_to(root).as_posix()), os.fspath(file)
    status, note = (Status.OK, "") if label is not None else (Status.UNLABELED, "lies in no class folder")
    if outside(place, edge):
        place, status, note = "", Status.OUTSIDE, f"is a link to {printable(os.path.realpath(file))}"
    elif not file.exists():
        status, note = Status.MISSING, "a link to a file that does not exist"
    return Sample(path, path, place, None, label, status, note)

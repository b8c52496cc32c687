"""A folder with one sub-folder per class: the sub-folder's name is the label of all files below it, however deep.

Every file is a sample, whatever its extension: crawls hold images named .php. Files beside the class folders are
samples without a label, except tables and texts, which are told in the notes.
"""

import os
from pathlib import Path, PurePosixPath

from cleanweb.errors import CrawlError, UsageError
from cleanweb.packed import Samples
from cleanweb.readers import SIDECARS, Crawl, Namings, Place, border, count, hidden, outside, printable, walk
from cleanweb.records import Sample, Status
from cleanweb.remote import Remote, below

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def sniff(source: Place, labels: Place | None) -> bool:
    """Any folder that comes without a table."""
    return labels is None and source.is_dir()


def read(
    source: Place, labels: Place | None, path_column: str | None, label_column: str | None, allow_outside: bool = False
) -> Crawl:
    """See `cleanweb.readers.read`. Raises CrawlError where there are no class folders."""
    if path_column or label_column:
        raise UsageError(f"{source} is a folder: --path-column and --label-column need a table, given with --labels.")
    if isinstance(source, Remote):
        return _elsewhere(source)
    names = sorted(name for name in os.listdir(source) if not hidden(name))  # noqa: PTH208 (names, not paths)
    classes = [name for name in names if (source / name).is_dir()]
    beside = [name for name in names if name not in classes]
    tables = [name for name in beside if Path(name).suffix.lower() in SIDECARS]
    _check(source, classes, tables)

    notes: list[str] = []
    edge = border(source, allow_outside)
    namings = Namings()
    samples = Samples(_sample(source, source / name, None, edge, namings) for name in beside if name not in tables)
    for name in classes:
        folder = source / name
        files = [os.fspath(folder)] if outside(os.fspath(folder), edge) else walk(folder, notes, edge)
        samples.extend(_sample(source, Path(file), printable(name), edge, namings) for file in files)
        if not files:
            notes.append(f"the class folder {printable(name)} is empty")
    return Crawl(source, samples, notes + _not_read(tables))


def _elsewhere(source: Remote) -> Crawl:
    """A folder of an object store: a list of addresses, without links."""
    files = walk(source, [])
    names = {file: PurePosixPath(below(file, source.url)) for file in files}
    tables = [str(name) for name in names.values() if len(name.parts) == 1 and name.suffix.lower() in SIDECARS]
    classes = sorted({name.parts[0] for name in names.values() if len(name.parts) > 1})
    _refuse_flat(source, classes, tables)
    if {name.lower() for name in classes} <= SPLITS and any(len(name.parts) > 2 for name in names.values()):
        raise CrawlError(f"The sub-folders of {source} are splits ({', '.join(classes)}), not classes. Give one of "
                         f"them: {source / classes[0]}")  # fmt: skip
    samples = Samples()
    for file, name in names.items():
        if str(name) not in tables:
            label = printable(name.parts[0]) if len(name.parts) > 1 else None
            state = (Status.OK, "") if label is not None else (Status.UNLABELED, "lies in no class folder")
            samples.append(Sample(printable(str(name)), printable(str(name)), file, None, label, *state))
    return Crawl(source, samples, _not_read(tables))


def _not_read(tables: list[str]) -> list[str]:
    if not tables:
        return []
    words = count(len(tables), "table or text lies", "tables or texts lie")
    return [f"{words} beside the class folders and was not read (--labels reads one): {', '.join(tables)}"]


def _refuse_flat(source: Place, classes: list[str], tables: list[str]) -> None:
    if not classes:
        hint = f"Did you mean --labels {source / tables[0]}?" if tables else "Name a table of labels with --labels."
        raise CrawlError(f"{source} has no sub-folders: looked for one per class. {hint}")


def _check(source: Path, classes: list[str], tables: list[str]) -> None:
    _refuse_flat(source, classes, tables)
    if {name.lower() for name in classes} <= SPLITS and _holds_folders(source / classes[0]):
        raise CrawlError(
            f"The sub-folders of {source} are splits ({', '.join(classes)}), not classes. Give one of them: "
            f"{source / classes[0]}"
        )


def _holds_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.iterdir() if not hidden(entry.name))


def _sample(root: Path, file: Path, label: str | None, edge: str | None, namings: Namings) -> Sample:
    path, place = printable(file.relative_to(root).as_posix()), os.fspath(file)
    status, note = (Status.OK, "") if label is not None else (Status.UNLABELED, "lies in no class folder")
    if outside(place, edge):
        place, status, note = "", Status.OUTSIDE, f"is a link to {printable(os.path.realpath(file))}"
    elif not file.exists():
        status, note = Status.MISSING, "a link to a file that does not exist"
    return Sample(namings.of_file(path), path, place, None, label, status, note)

"""Where the crawl comes from: every reader turns a source into the same list of samples.

A reader is a module with `sniff(source, labels) -> bool`: is this mine? and `read(source, labels, path_column,
label_column) -> Crawl`. The first in `READERS` that says yes reads. Nothing is opened but tables, nothing is written;
a million samples take about 0.5 GB of memory.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from cleanweb.errors import CrawlError, UsageError
from cleanweb.records import Sample, Status

READERS = {"table": "cleanweb.readers.table", "folder": "cleanweb.readers.folder"}

LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"}  # what operating systems leave behind
SIDECARS = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".md"}  # lie beside images, are none


@dataclass(frozen=True)
class Crawl:
    """What a reader found."""

    root: Path  # the crawl folder, absolute: `Sample.path` is relative to it
    samples: list[Sample]
    notes: list[str]  # what a person should know, a line each


def read(
    source: Path, labels: Path | None = None, path_column: str | None = None, label_column: str | None = None
) -> Crawl:
    """Read a folder with one sub-folder per class, a folder and a table, a table, or Parquet with embedded images.

    Raises UsageError where the command must say more (which column?) and CrawlError where nothing can be learned from
    what is there: no images, no labels, fewer than two classes, a broken table.
    """
    source = absolute(source)
    labels = None if labels is None else absolute(labels)
    for what, path in (("source", source), ("table", labels)):
        if path is not None and not path.exists():
            raise CrawlError(f"Nothing found at {path}: looked for the {what} there. Check the spelling.")
    if labels is not None and not source.is_dir():
        raise UsageError(f"{source} is a table already: give it alone, or a folder of images together with --labels.")
    for module in map(import_module, READERS.values()):
        if module.sniff(source, labels):
            crawl = module.read(source, labels, path_column, label_column)
            _check(crawl, labels or source)
            return replace(crawl, notes=_counts(crawl.samples) + crawl.notes + _spellings(crawl.samples))
    raise CrawlError(
        f"{source} is neither a folder nor a table (CSV, TSV, JSON lines, Parquet). Unpack archives first and give "
        "the folder."
    )


def contents(samples: list[Sample]) -> Iterator[tuple[int, Path | bytes]]:
    """The index of every sample that can be opened, with its file, or its bytes where Parquet embeds them.

    Not of missing ones, nor of repeated and conflicting rows: their first row stands for them. Single files come in
    order, then the Parquet files one after the other, streamed: memory holds some rows at a time.
    """
    embedded: dict[str, dict[int, int]] = defaultdict(dict)
    for index, sample in enumerate(samples):
        if sample.status in (Status.MISSING, Status.REPEATED, Status.CONFLICTING):
            continue
        if sample.row is None:
            yield index, Path(sample.file)
        else:
            embedded[sample.file][sample.row] = index
    for file, index_of in embedded.items():
        for row, content in embedded_images(file):
            if row in index_of:
                yield index_of[row], content


def embedded_images(file: str) -> Iterator[tuple[int, bytes]]:
    """Every row number of a Parquet file and the image it embeds, in order, streamed: 20,000 images of 20 kB in 0.5 s.

    Raises CrawlError where the file cannot be read.
    """
    yield from import_module(READERS["table"]).stream(file)


def read_bytes(file: str, row: int | None) -> bytes:
    """One image's bytes: the whole `file`, or what that row of a Parquet file embeds (0.02 s where its row groups hold
    2,000 images of 20 kB; all of them are read for one). Raises OSError or CrawlError."""
    return Path(file).read_bytes() if row is None else import_module(READERS["table"]).embedded(file, row)


# --- what several readers need --------------------------------------------------------------------------------------


def absolute(path: Path) -> Path:
    """With ~ expanded and without . and .., but symbolic links as they are."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 (Path.absolute keeps "..")


def walk(folder: Path, notes: list[str]) -> list[str]:
    """All files below a folder, absolute and sorted; not hidden ones nor litter. Links are followed, each folder once.

    Links to nothing are listed. A folder that cannot be read is told in `notes`.
    """
    found, folders, seen = [], [os.fspath(folder)], set()
    while folders:
        here = folders.pop()
        try:
            identity = os.stat(here)  # noqa: PTH116 (strings: a crawl has millions of files)
            if (identity.st_dev, identity.st_ino) in seen:
                continue
            seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(here) as entries:
                for entry in entries:
                    if hidden(entry.name):
                        continue
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif entry.is_file() or entry.is_symlink():
                        found.append(entry.path)
        except OSError as error:
            notes.append(f"the folder {printable(here)} cannot be read: {error.strerror}")
    return sorted(found)


def hidden(name: str) -> bool:
    """Is this a file or folder that people do not mean when they say "all files"?"""
    return name.startswith(".") or name.lower() in LITTER


def printable(text: str) -> str:
    """File names need not be text: what is not UTF-8 is written as an escape, so that it can be stored anywhere."""
    return text.encode("utf-8", "backslashreplace").decode()


def count(n: int, singular: str, plural: str) -> str:
    """3, "row names", "rows name" → "3 rows name"."""
    return f"{n:,} {singular if n == 1 else plural}"


# --- which column ---------------------------------------------------------------------------------------------------

# Names by rank: the first rank that any column answers to decides, and two columns that answer to it are too many.
# A name is compared in lower case and in words: imagePath, image-path and "Image Path" are image_path.
_NAMES = {
    "path": (
        {"path"},
        {"file", "filename", "file_name", "filepath", "file_path", "image", "images", "image_path", "imagepath",
         "image_file", "image_filename", "image_file_name", "image_name", "imagename", "img", "img_path", "imgpath",
         "img_file", "img_filename", "img_name", "relative_path", "rel_path"},
    ),
    "label": (
        {"label"},
        {"labels", "class", "category", "target", "class_name", "classname", "label_name", "category_name",
         "class_label", "given_label", "species", "tag", "y"},
    ),
}  # fmt: skip
# The last rank: a name that holds one of the first words and none of the second (image_width is no path).
_WORDS_IN = {
    "path": ({"path", "file", "filename", "filepath", "image", "img"}, {"label", "class", "category", "target", "id",
             "width", "height", "size", "url", "hash", "md5", "sha256", "format", "type", "split"}),
    "label": ({"label", "class", "category", "target"}, {"path", "file", "filename", "image", "img"}),
}  # fmt: skip


def choose(columns: list[str], what: str, given: str | None, table: Path) -> str:
    """The column of the "path" or the "label": the one given, else guessed by name. Raises UsageError otherwise."""
    ending = f"The columns are: {', '.join(map(repr, columns))}. Name the right one with --{what}-column."
    if given is not None:
        named = [name for name in columns if name == given] or [c for c in columns if c.lower() == given.lower()]
        if len(named) == 1:
            return named[0]
        raise UsageError(f"{table} has {'several columns' if named else 'no column'} {given!r}. {ending}")
    wanted, unwanted = _WORDS_IN[what]
    words = {name: set(name.split("_")) for name in map(_snake, columns)}
    loose = {name for name in words if words[name] & wanted and not words[name] & unwanted}
    for names in (*_NAMES[what], loose):
        found = [column for column in columns if _snake(column) in names]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{table} has several columns that could be the {what}: {', '.join(found)}. {ending}")
    raise UsageError(f"{table} has no column that is called like a {what}. {ending}")


def _snake(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower()).strip("_")


# --- the reader's summary -------------------------------------------------------------------------------------------

_WORDS = {
    Status.UNLABELED: ("image has no label", "images have no label"),
    Status.UNLISTED: (
        "file of the folder is named by no row of the table",
        "files of the folder are named by no row of the table",
    ),
    Status.REPEATED: ("row repeats an earlier one", "rows repeat an earlier one"),
    Status.CONFLICTING: (
        "row gives another label to a path named before",
        "rows give another label to a path named before",
    ),
    Status.MISSING: ("row names a file that does not exist", "rows name a file that does not exist"),
}


def _counts(samples: list[Sample]) -> list[str]:
    found = Counter(sample.status for sample in samples)
    return [count(found[status], *words) for status, words in _WORDS.items() if found[status]]


def _spellings(samples: list[Sample]) -> list[str]:
    """Classes that differ only in capitals or spaces are probably one."""
    alike: dict[str, set[str]] = defaultdict(set)
    for label in {sample.given_label for sample in samples if sample.given_label is not None}:
        alike["".join(label.split()).casefold()].add(label)
    return [f"labels that differ only in spelling: {_listed(same)}" for same in alike.values() if len(same) > 1]


def _check(crawl: Crawl, source: Path) -> None:
    usable = [sample for sample in crawl.samples if sample.status == Status.OK]
    missing = next((sample for sample in crawl.samples if sample.status == Status.MISSING), None)
    if not usable and missing:
        web = " They are web addresses: download the images first." if "://" in missing.path else ""
        raise CrawlError(
            f"None of the files that {source} names exists. The first is {missing.path!r}; looked in {crawl.root}"
            f"{'' if source.parent == crawl.root or source == crawl.root else f' and {source.parent}'}.{web}"
        )
    classes = {sample.given_label for sample in usable}
    if len(classes) < 2:
        found = f"only the class {_listed(classes)}" if classes else "no labeled image"
        raise CrawlError(
            f"{source} holds {found} ({count(len(crawl.samples), 'sample', 'samples')} in all); at least two classes "
            "are needed. Give a folder with one sub-folder per class, or a table of paths and labels with --labels."
        )


def _listed(labels: set[str]) -> str:
    return ", ".join(repr(label) for label in sorted(labels))

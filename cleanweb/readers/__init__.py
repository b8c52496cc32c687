"""Where the crawl comes from: every reader turns a source into the same list of samples.

A reader is a module with `sniff(source, labels) -> bool`: is this mine? and `read(source, labels, path_column,
label_column, allow_outside) -> Crawl`. The first in `READERS` that says yes reads. Nothing is opened but tables,
nothing is written; a million samples take about 0.5 GB of memory.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from cleanweb import remote
from cleanweb.errors import CrawlError
from cleanweb.opening import is_tar
from cleanweb.packed import Samples
from cleanweb.records import Sample, Status
from cleanweb.remote import Place as Place
from cleanweb.remote import Remote

READERS = {
    "img2dataset": "cleanweb.readers.img2dataset",
    "webdataset": "cleanweb.readers.webdataset",
    "table": "cleanweb.readers.table",
    "folder": "cleanweb.readers.folder",
}

SAME_LABEL_AGAIN = "the table names this path again, with the same label"
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"}  # what operating systems leave behind
SIDECARS = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".md"}  # lie beside images, are none
_BESIDE = {*SIDECARS, ".py", ".yaml", ".yml"}  # and beside Parquet and tar files that hold them


@dataclass(frozen=True)
class Crawl:
    """What a reader found."""

    root: Place  # the crawl folder, absolute: `Sample.path` is relative to it
    samples: Samples
    notes: list[str]  # what a person should know, a line each


def read(
    source: Place,
    labels: Place | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    allow_outside: bool = False,
    merge_labels: bool = False,
) -> Crawl:
    """Read a folder with one sub-folder per class, a folder and a table, a table, or Parquet with embedded images.

    Images outside the crawl folder, to which a path or a link leads, are Status.OUTSIDE and not opened, unless
    `allow_outside`. Labels that differ only in capitals or spaces are told, or are one where `merge_labels`. Raises
    UsageError where the command must say more (which column?) and CrawlError where nothing can be learned from what is
    there: no images, no labels, fewer than two classes, a broken table.
    """
    source = absolute(source)
    labels = None if labels is None else absolute(labels)
    remote.listing.cache_clear()
    try:
        crawl = _first_read(source, labels, path_column, label_column, allow_outside)
    except OSError as error:
        if isinstance(source, Remote) or isinstance(labels, Remote):
            raise CrawlError(f"{error}. Are the address and the credentials right?") from None
        raise
    spellings = _spellings(crawl.samples)
    told = [] if merge_labels else _told(spellings)
    crawl = _merged(crawl, spellings) if merge_labels and spellings else crawl
    _check(crawl, labels or source)
    return replace(crawl, notes=_counts(crawl.samples) + crawl.notes + told)


def refuse_missing(source: Place, labels: Place | None) -> None:
    """Raises CrawlError where one of them is not there."""
    for what, path in (("source", source), ("table", labels)):
        if path is not None and not path.exists() and not _means_tars(path):
            raise CrawlError(f"Nothing found at {absolute(path)}: looked for the {what} there. Check the spelling.")


def _first_read(source: Place, labels: Place | None, *how: Any) -> Crawl:
    """What the first reader gives whose source it is."""
    refuse_missing(source, labels)
    for module in map(import_module, READERS.values()):
        if module.sniff(source, labels):
            found: Crawl = module.read(source, labels, *how)
            return found
    raise CrawlError(
        f"{source} is neither a folder, nor a table (CSV, TSV, JSON lines, Parquet), nor a tar of images. Unpack other "
        "archives first and give the folder."
    )


def _means_tars(path: Place) -> bool:
    """A pattern, as images-{000..017}.tar."""
    return is_tar(path.name) and re.search(r"[{*?\[]", os.fspath(path)) is not None


# --- what several readers need --------------------------------------------------------------------------------------


def absolute(path: Place) -> Place:
    """With ~ expanded and without . and .., but symbolic links as they are."""
    if isinstance(path, Remote):
        return path
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 (Path.absolute keeps "..")


def walk(folder: Place, notes: list[str], border: str | None = None) -> list[str]:
    """All files below a folder, absolute and sorted; not hidden ones nor litter. Links are followed, each folder once.

    Links to nothing are listed, and those that lead across the border (see `outside`), which are not followed. A folder
    that cannot be read is told in `notes`.
    """
    return sorted(_files(folder, notes, border))


def only(folder: Place, ending: str, border: str | None = None) -> list[str]:
    """The files below a folder that have this ending, sorted, where it holds nothing else that could be images; else
    none."""
    found = []
    for file in _files(folder, [], border):
        suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122 (strings: a crawl has millions of files)
        if suffix == ending:
            found.append(file)
        elif suffix not in _BESIDE:
            return []
    return sorted(found)


def _files(folder: Place, notes: list[str], border: str | None) -> Iterator[str]:
    if isinstance(folder, Remote):
        names = remote.listing(folder.url)
        yield from (name for name in names if not any(map(hidden, name[len(folder.url) + 1 :].split("/"))))
        return
    folders, seen = [os.fspath(folder)], set()
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
                    if entry.is_symlink() and outside(entry.path, border):
                        yield entry.path
                    elif is_folder(entry):
                        folders.append(entry.path)
                    else:
                        yield entry.path
        except OSError as error:
            notes.append(f"the folder {printable(here)} cannot be read: {error.strerror}")


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Or a link to one; not one that leads in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def border(root: Place, allow_outside: bool) -> str | None:
    """The real path of the folder that images must lie in; None where they may lie anywhere, or there are no links."""
    return None if allow_outside or isinstance(root, Remote) else os.path.realpath(root)


def outside(file: str, border: str | None) -> bool:
    """Does a path inside the crawl folder really lead out of it, being a link? To nothing, too."""
    return border is not None and os.path.islink(file) and not within(os.path.realpath(file), border)  # noqa: PTH114


def within(real: str, border: str) -> bool:
    """Both real paths: is the one the other, or below it?"""
    return real == border or real.startswith(border.rstrip(os.sep) + os.sep)


def hidden(name: str) -> bool:
    """Is this a file or folder that people do not mean when they say "all files"?"""
    return name.startswith(".") or name.lower() in LITTER


def printable(text: str) -> str:
    """File names need not be text: what is not UTF-8 is written as an escape, so that it can be stored anywhere."""
    return text.encode("utf-8", "backslashreplace").decode()


def count(n: int, singular: str, plural: str) -> str:
    """3, "row names", "rows name" → "3 rows name"."""
    return f"{n:,} {singular if n == 1 else plural}"


class Namings:
    """How often each path was named so far, and the label it was first given."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.labels: dict[str, str] = {}

    def sample_id(self, path: str) -> str:
        self.times[path] += 1
        while self.times[path] > 1 and self.times[f"{path}#{self.times[path]}"]:  # a file may be called "a.jpg#2"
            self.times[path] += 1
        sample_id = path if self.times[path] == 1 else f"{path}#{self.times[path]}"
        if sample_id != path:
            self.times[sample_id] += 1
        return sample_id

    def of_file(self, path: str) -> str:
        """The same of a file that is walked upon, once: its path, unless that is a row's number or an escape, too."""
        return self.sample_id(path) if path in self.times or "\\udc" in path else path


# --- the reader's summary -------------------------------------------------------------------------------------------

_MOST = 20  # lines of one kind before the rest is counted
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
    Status.ERROR: ("shard cannot be read, or not to its end", "shards cannot be read, or not to their ends"),
    Status.NOT_DOWNLOADED: ("image could not be downloaded", "images could not be downloaded"),
    Status.OUTSIDE: (
        "image lies outside the crawl folder and was not opened (--allow-outside opens it)",
        "images lie outside the crawl folder and were not opened (--allow-outside opens them)",
    ),
}


def _counts(samples: Samples) -> list[str]:
    found = {status: int(samples.is_in(status).sum()) for status in _WORDS}
    return [count(found[status], *words) for status, words in _WORDS.items() if found[status]]


def _spellings(samples: Samples) -> list[set[str]]:
    """Labels that differ only in capitals or spaces: they are probably one class."""
    alike: dict[str, set[str]] = defaultdict(set)
    for label in samples.labels()[0]:
        alike["".join(unicodedata.normalize("NFC", label).split()).casefold()].add(label)
    return [same for _, same in sorted(alike.items()) if len(same) > 1]


def _told(spellings: list[set[str]]) -> list[str]:
    more = len(spellings) - _MOST
    lines = [f"labels that differ only in spelling: {_listed(same)} (--merge-labels makes them one)"
             for same in spellings[:_MOST]]  # fmt: skip
    return lines + [f"… and {more:,} more such labels"] * (more > 0)


def _merged(crawl: Crawl, spellings: list[set[str]]) -> Crawl:
    """Of every such label the most frequent spelling; a row that gave the same path another spelling now repeats it."""
    often = Counter(sample.given_label for sample in crawl.samples)
    label_of: dict[str | None, str] = {}
    for same in spellings:
        label_of |= dict.fromkeys(same, min(same, key=lambda label: (-often[label], label)))
    first: dict[str, str | None] = {}
    samples = Samples()
    for sample in crawl.samples:
        sample = replace(sample, given_label=label_of.get(sample.given_label, sample.given_label))
        if sample.status == Status.OK:
            first[sample.path] = sample.given_label
        elif sample.status == Status.CONFLICTING and sample.given_label == first.get(sample.path):
            sample = replace(sample, status=Status.REPEATED, note=SAME_LABEL_AGAIN)
        samples.append(sample)
    told = [f"labels merged into {label_of[next(iter(same))]!r}: {_listed(same)}" for same in spellings]
    return replace(crawl, samples=samples, notes=crawl.notes + told)


def _check(crawl: Crawl, source: Place) -> None:
    classes = {str(label) for label in crawl.samples.labels(Status.OK)[0]}
    missing, beyond = (_first(crawl.samples, status) for status in (Status.MISSING, Status.OUTSIDE))
    if not classes and beyond:
        raise CrawlError(
            f"No image lies in the crawl folder {crawl.root}. The first outside it is {beyond.path!r}, which "
            f"{beyond.note}. If these are yours, give --allow-outside."
        )
    if not classes and missing:
        web = " They are web addresses: download the images first." if "://" in missing.path else ""
        web = " Leave file:// away: paths are expected." if missing.path.startswith("file://") else web
        raise CrawlError(
            f"None of the files that {source} names exists. The first is {missing.path!r}; looked in {crawl.root}"
            f"{'' if source.parent == crawl.root or source == crawl.root else f' and {source.parent}'}.{web}"
        )
    if len(classes) < 2:
        found = f"only the class {_listed(classes)}" if classes else "no labeled image"
        raise CrawlError(
            f"{source} holds {found} ({count(len(crawl.samples), 'sample', 'samples')} in all); at least two classes "
            "are needed. Give a folder with one sub-folder per class, or a table of paths and labels with --labels."
        )


def _first(samples: Samples, status: Status) -> Sample | None:
    found = np.flatnonzero(samples.is_in(status))
    return samples[int(found[0])] if len(found) else None


def _listed(labels: set[str]) -> str:
    """Quoted, and not endless: labels may be of any length."""
    return ", ".join(repr(label if len(label) <= 100 else f"{label[:99]}…") for label in sorted(labels))

"""What img2dataset wrote: numbered shards, each with a Parquet file of what became of every address.

    00000.parquet    key, url, status, error_message, sha256, the caption, columns that were asked for; and the images
                     themselves (column jpg) where the output format was parquet
    00000.tar        the images where it was webdataset
    00000/           the images where it was files

Every row is a sample, also of what could not be downloaded, with the reason. The label is the column that is called
like one (`--label-column` names another), else the caption; or a table gives it to keys or addresses (`--labels`).
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cleanweb import keyedlabels, remote, shards
from cleanweb.columns import choose
from cleanweb.errors import CrawlError, UsageError
from cleanweb.labelrows import Labels
from cleanweb.opening import opened
from cleanweb.packed import Samples
from cleanweb.parquetfile import Parquet, quoted
from cleanweb.readers import Crawl, Namings, Place, border, hidden, is_folder, outside, printable
from cleanweb.records import Sample, Status
from cleanweb.remote import Remote

T = TypeVar("T")

_NEEDED = {"key", "url", "status"}
_FACTS = ("key", "url", "status", "error_message", "sha256")
_NUMBER = re.compile(r"\d+")


def sniff(source: Place, labels: Place | None) -> bool:
    """A folder with a numbered Parquet file that has the columns of img2dataset, or its statistics beside it."""
    if not source.is_dir():
        return False
    found = [n for n, endings in _numbered(source).items() if ".parquet" in endings]
    return any((source / f"{n}_stats.json").is_file() for n in found) or bool(found and _columns(source, found[0]))


def read(
    source: Place, labels: Place | None, path_column: str | None, label_column: str | None, allow_outside: bool = False
) -> Crawl:
    """See `cleanweb.readers.read`."""
    if path_column and not labels:
        raise UsageError(f"{source} was written by img2dataset: --path-column needs a table, given with --labels.")
    found = _Found(source, border(source, allow_outside), allow_outside, None if labels else label_column)
    for number, endings in sorted(_numbered(source).items()):
        found.add(number, endings)
    notes = [] if labels else [f"the labels are the column {name!r}" for name in sorted(found.label_columns)]
    samples = found.samples
    if labels:
        samples = keyedlabels.labelled(samples, found.names(), labels, (path_column, label_column), found.namings)
    return Crawl(source, samples, notes)


@dataclass
class _Found:
    """The samples of the shards read so far."""

    root: Place
    edge: str | None
    allow_outside: bool
    label_column: str | None  # asked for
    samples: Samples = field(default_factory=Samples)
    keys: list[str] = field(default_factory=list)  # of each sample
    namings: Namings = field(default_factory=Namings)
    labels: Labels = field(default_factory=lambda: Labels("the shards"))
    label_columns: set[str] = field(default_factory=set)  # those that were taken

    def add(self, number: str, endings: set[str]) -> None:
        """Add the samples of one shard: what its Parquet file names, and what else lies there."""
        parquet = self.root / f"{number}.parquet"
        for file in (self.root / f"{number}{ending}" for ending in endings):
            if outside(os.fspath(file), self.edge):
                raise CrawlError(f"{file} is a link out of {self.root}. If that is yours, give --allow-outside.")
        if ".tar" in endings:
            images: _Images = _Tar(self, number)
        else:
            images = _Folder(self, number) if "" in endings else _Images(self, number)
        told = f"{parquet.name} is not there, which says what the shard holds"
        try:
            if ".parquet" in endings:
                told = ""
                for row in self._rows(parquet):
                    self._put(images.sample(row), row["key"])
        except CrawlError as error:
            told = str(error)
        for sample in images.rest(unlisted=not told):
            self._put(sample, "")
        if told:
            self._put(shards.broken(shards.Tar(parquet.name, ""), told, self.namings), "")

    def names(self) -> Iterator[list[str]]:
        """By what a table may mean each sample."""
        for sample, key in zip(self.samples, self.keys, strict=True):
            yield [name for name in (key, sample.url, sample.path) if name]

    def _put(self, sample: Sample, key: str) -> None:
        self.samples.append(sample)
        self.keys.append(key)

    def _rows(self, parquet: Place) -> Iterator[dict[str, Any]]:
        """Its rows: `_FACTS`, "label" with the reason why there is none, and "row" where it embeds the image."""
        with Parquet(os.fspath(parquet)) as table:
            if missing := _NEEDED - set(table.columns):
                raise CrawlError(f"{parquet} has no column {', '.join(sorted(missing))}: img2dataset did not write it.")
            label = self._label_column(list(table.columns), parquet)
            embeds = f"{table.image_bytes()} IS NOT NULL" if table.embeds() else "false"
            facts = [f"left({name}::VARCHAR, 8000)" if name in table.columns else "NULL" for name in _FACTS]
            result = table.query(f"SELECT file_row_number, {embeds}, {quoted(label)}, {', '.join(facts)} FROM")
            while rows := table.fetch(result, 2048):
                for number, embedded, given, *values in rows:
                    said = {name: printable(value or "") for name, value in zip(_FACTS, values, strict=True)}
                    row = self.labels.row(said["key"], given)
                    yield said | {"label": row.label, "why": row.why, "row": number if embedded else None}

    def _label_column(self, columns: list[str], parquet: Place) -> str:
        try:
            name = choose(columns, "label", self.label_column, parquet)
        except UsageError:
            if self.label_column or "caption" not in columns:
                raise
            name = "caption"
        self.label_columns.add(name)
        return name


class _Images:
    """Where a shard keeps its images: in the Parquet file itself."""

    def __init__(self, found: _Found, number: str):
        self.found, self.name = found, f"{number}.parquet"

    def sample(self, row: dict[str, Any]) -> Sample:
        """The sample of a row of the Parquet file."""
        if row["status"] != "success":
            note = ": ".join(filter(None, (row["status"].replace("_", " "), row["error_message"])))
            return self._closed(row, Status.NOT_DOWNLOADED, note)
        return self._judged(self.there(row), row)

    def there(self, row: dict[str, Any]) -> Sample:
        """The image of a row that was downloaded."""
        if row["row"] is None:
            return self._closed(row, Status.MISSING, "the row embeds no image")
        path, file = f"{self.name}/{row['key']}", os.fspath(self.found.root / self.name)
        return Sample(self.found.namings.sample_id(path), path, file, row["row"], None)

    def rest(self, unlisted: bool) -> Iterator[Sample]:
        """What lies there and no row names; and what could not be read."""
        yield from ()

    def _judged(self, sample: Sample, row: dict[str, Any]) -> Sample:
        unlabeled = sample.status in (Status.OK, Status.UNLABELED)
        status, note = (Status.OK, "") if row["label"] is not None else (Status.UNLABELED, row["why"])
        sample = replace(sample, given_label=row["label"], url=row["url"], sha256=row["sha256"])
        return replace(sample, status=status, note=note) if unlabeled else sample

    def _closed(self, row: dict[str, Any], status: Status, note: str) -> Sample:
        path = f"{self.name}/{row['key']}"
        return Sample(self.found.namings.sample_id(path), path, "", None, row["label"], status, note, row["url"],
                      row["sha256"])  # fmt: skip


class _Tar(_Images):
    """In a tar."""

    def __init__(self, found: _Found, number: str):
        self.found, self.name = found, f"{number}.tar"
        self.tar = shards.Tar(self.name, os.fspath(found.root / self.name), found.allow_outside)
        self.choice = shards.LabelChoice(found.label_column)
        try:
            with opened(self.tar.file) as stream:
                self.shard = shards.open_shard(*stream, self.choice)
        except OSError as error:
            self.shard = shards.Shard(broken=f"the shard cannot be read: {error.strerror or error}")
        self.pictures, self.further = _by_stem((picture.stem, picture) for picture in self.shard.pictures)

    def there(self, row: dict[str, Any]) -> Sample:
        picture = self.pictures.pop(row["key"], None)
        if picture is None:
            return self._closed(
                row, Status.MISSING, f"{self.name} does not hold it: {self.shard.broken or 'no such file'}"
            )
        return shards.sample(self.tar, self.shard, picture, self.choice.row(self.shard, picture), self.found.namings)

    def rest(self, unlisted: bool) -> Iterator[Sample]:
        for picture in (*self.pictures.values(), *self.further):
            row = self.choice.row(self.shard, picture)
            sample = shards.sample(self.tar, self.shard, picture, row, self.found.namings)
            yield _unlisted(sample) if unlisted else sample
        if self.shard.broken:
            yield shards.broken(self.tar, self.shard.broken, self.found.namings)


class _Folder(_Images):
    """In a folder of files."""

    def __init__(self, found: _Found, number: str):
        self.found, self.name = found, number
        names = sorted(name for name in _names(found.root / number) if not hidden(name))
        self.files, self.further = _by_stem(
            (stem, name)
            for name in names
            for stem, _, ending in [name.rpartition(".")]
            if ending.lower() in shards.IMAGES
        )

    def there(self, row: dict[str, Any]) -> Sample:
        name = self.files.pop(row["key"], None)
        return self._closed(row, Status.MISSING, "no such file") if name is None else self._file(name)

    def rest(self, unlisted: bool) -> Iterator[Sample]:
        yield from (_unlisted(self._file(name)) for name in (*self.files.values(), *self.further))

    def _file(self, name: str) -> Sample:
        path, file = printable(f"{self.name}/{name}"), os.fspath(self.found.root / self.name / name)
        if outside(file, self.found.edge):
            return Sample(self.found.namings.sample_id(path), path, "", None, None, Status.OUTSIDE,
                          f"is a link to {printable(os.path.realpath(file))}")  # fmt: skip
        return Sample(self.found.namings.sample_id(path), path, file, None, None)


def _by_stem(images: Iterable[tuple[str, T]]) -> tuple[dict[str, T], list[T]]:
    """The first image of every stem, which a row may name, and the further ones."""
    first: dict[str, T] = {}
    return first, [image for stem, image in images if first.setdefault(stem, image) is not image]


def _unlisted(sample: Sample) -> Sample:
    if sample.status not in (Status.OK, Status.UNLABELED):
        return sample
    return replace(sample, given_label=None, status=Status.UNLISTED, note="no row of the shard names this image")


def _numbered(folder: Place) -> dict[str, set[str]]:
    """number → what there is of that shard: ".parquet", ".tar", and "" for a folder."""
    found: dict[str, set[str]] = {}
    for name, holds in _names(folder).items():
        number, ending = os.path.splitext(name)  # noqa: PTH122 (names, not paths)
        if _NUMBER.fullmatch(number) and (ending in (".parquet", ".tar") or (not ending and holds)):
            found.setdefault(number, set()).add(ending)
    return found


def _names(folder: Place) -> dict[str, bool]:
    """What lies in a folder, and whether it is a folder."""
    if isinstance(folder, Remote):
        inside = [file[len(folder.url) + 1 :].partition("/") for file in remote.listing(folder.url)]
        return {name: bool(slash) for name, slash, _ in inside}
    with os.scandir(folder) as entries:
        return {entry.name: is_folder(entry) for entry in entries}


def _columns(folder: Place, number: str) -> bool:
    try:
        with Parquet(os.fspath(folder / f"{number}.parquet")) as table:
            return set(table.columns) >= _NEEDED
    except CrawlError:
        return False

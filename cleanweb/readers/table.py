"""A table of paths and labels (CSV, TSV, JSON lines, JSON, Parquet), alone or with the folder its paths lie in; and
Parquet that embeds the images, a file or a folder of them.

Labels are text as written: 007 stays 007. Every row is a sample; every file of the folder that no row names is one too.
Text is read by `texttable.py`, Parquet by DuckDB. What kind of table it is shows its content, not its name.
"""

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Self

import duckdb

from cleanweb import readers, texttable
from cleanweb.errors import CrawlError, UsageError
from cleanweb.readers import SAME_LABEL_AGAIN, SIDECARS, Crawl, border, choose, outside, printable, walk, within
from cleanweb.records import Sample, Status


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the path as written, the label (None where there is none), and the Parquet row that embeds the image."""

    path: str
    label: str | None
    embedded: int | None = None
    why: str = "the row has an empty label"  # where there is none


class _Labels:
    """A column's values as labels. Millions of rows share some labels: each is kept once."""

    LONGEST = 1000  # characters: a page of text in the column of labels is no name of a class

    def __init__(self, table: Path):
        self.table = table
        self.known: dict[str, str] = {}

    def row(self, path: Any, label: Any, embedded: int | None = None) -> Row:
        path, label = as_text(path, self.table) or "", as_text(label, self.table)
        if label is None or not label.strip():
            return Row(path, None, embedded)
        if len(label) > self.LONGEST:
            return Row(path, None, embedded, f"the label is no name: it has more than {self.LONGEST:,} characters")
        label = printable(label)
        return Row(path, self.known.setdefault(label, label), embedded)


def sniff(source: Path, labels: Path | None) -> bool:
    """A table, a folder with a table, or a folder of Parquet files and nothing else that could be images."""
    if labels is not None:
        return True
    return bool(_shards(source, border(source, False))) if source.is_dir() else source.is_file() and _is_table(source)


def read(
    source: Path, labels: Path | None, path_column: str | None, label_column: str | None, allow_outside: bool = False
) -> Crawl:
    """See `cleanweb.readers.read`. A table alone may name images anywhere by absolute paths: it says where they are."""
    root = source if source.is_dir() else source.parent
    edge = border(root, allow_outside)
    tables = [labels or source] if labels or source.is_file() else _shards(source, edge)
    if labels and not (labels.is_file() and _is_table(labels)):
        raise UsageError(f"{labels} is no table: --labels takes a CSV, TSV, JSON lines or Parquet file.")
    samples: list[Sample] = []
    namings = _Namings()
    named: set[str] | None = set() if labels else None
    for table in tables:
        if table != source and not labels and outside(os.fspath(table), edge):
            raise CrawlError(f"{table} is a link that leads out of {root}. If that is yours, give --allow-outside.")
        finder = _Finder(root, table.parent, edge, absolute=source.is_file())
        with_images = labels is None  # beside a folder, a table's own copies of the images are not wanted
        for row in _rows(table, path_column, label_column, with_images):
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


def listed(table: Path, root: Path) -> list[Sample]:
    """The rows of a table, its paths relative to `root` where the files lie there; no file is looked into."""
    finder, namings = _Finder(root, table.parent), _Namings()
    with readers.no_column_options():
        return [_listed(row, finder, namings) for row in _rows(table, None, None, False)]


# --- rows → samples -------------------------------------------------------------------------------------------------


class _Namings:
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


def _listed(row: Row, finder: "_Finder", namings: _Namings, named: set[str] | None = None) -> Sample:
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


def _embedded(row: Row, table: Path, root: Path, namings: _Namings) -> Sample:
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


# --- tables → rows --------------------------------------------------------------------------------------------------


def _is_table(file: Path) -> bool:
    """Anything but archives and images, which people hand over by mistake: a table is text or Parquet."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    parquet_or_utf_16 = head.startswith((b"PAR1", b"\xff\xfe", b"\xfe\xff"))
    archive_or_image = b"\0\0" in head or head.startswith(_NO_TABLES)
    return parquet_or_utf_16 or not archive_or_image


_NO_TABLES = (b"PK", b"\x1f\x8b", b"BZ", b"7z\xbc", b"Rar!", b"\xff\xd8", b"\x89PNG", b"GIF8", b"%PDF")


def _rows(table: Path, path_column: str | None, label_column: str | None, with_images: bool) -> Iterator[Row]:
    with table.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    if parquet:
        yield from _parquet_rows(table, path_column, label_column, with_images)
        return
    columns, records = texttable.read(table)
    path = columns.index(choose(columns, "path", path_column, table))
    label = columns.index(choose(columns, "label", label_column, table))
    labels = _Labels(table)
    for record in records:
        yield labels.row(record[path], record[label])


def as_text(value: Any, table: Path) -> str | None:
    """A value as the text it was written as; None where there is none. 3.0 is 3: nulls turn integers into floats."""
    match value:
        case None | str():
            return value
        case bool():
            return str(value).lower()
        case float() | Decimal():
            return None if math.isnan(value) else str(int(value)) if value == value // 1 else str(value)
        case bytes() | list() | tuple() | dict():
            raise UsageError(f"{table}: a path or a label is {str(value)[:60]!r}, not a text. Choose another column.")
    return str(value)


# --- Parquet --------------------------------------------------------------------------------------------------------


def _shards(folder: Path, edge: str | None = None) -> list[Path]:
    """The Parquet files of a folder that holds no other data: the layout of Hugging Face datasets."""
    others = SIDECARS - {".parquet"} | {".py", ".yaml", ".yml"}
    files = [file for file in map(Path, walk(folder, [], edge)) if file.suffix.lower() not in others]
    return files if all(file.suffix.lower() == ".parquet" for file in files) else []


def stream(file: str) -> Iterator[tuple[int, bytes]]:
    """Every row number of a Parquet file with the image it embeds; none is zero bytes. Memory: some row groups."""
    with _Parquet(file) as parquet:
        result = parquet.query(f"SELECT file_row_number, {parquet.image_bytes()} FROM")
        while rows := parquet.fetch(result, 256):
            for row, content in rows:
                yield row, content or b""


def embedded(file: str, row: int) -> bytes:
    """The image that one row embeds. Raises CrawlError where there is none. Safe to call from several threads.

    To read one row DuckDB reads all the images of its row group; a file that is kept open has the last ones at hand.
    """
    try:
        state = Path(file).stat()
    except OSError as error:
        raise CrawlError(f"{file} cannot be read: {error.strerror}.") from None
    parquet = _kept_open(file, state.st_mtime_ns, state.st_size)
    result = parquet.query(f"SELECT {parquet.image_bytes()} FROM", f"WHERE file_row_number = {int(row)}")
    found = parquet.fetch(result, 1)
    if not found or found[0][0] is None:
        raise CrawlError(f"{file} embeds no image in row {row}.")
    return found[0][0]


@lru_cache(maxsize=2)
def _kept_open(file: str, mtime_ns: int, n_bytes: int) -> "_Parquet":
    """mtime_ns and n_bytes tell a file from another that takes its place."""
    parquet = _Parquet(file)
    parquet.connection.execute("SET memory_limit = '1GB'")  # else the images it holds on to may fill most of the memory
    return parquet.__enter__()


def _parquet_rows(table: Path, path_column: str | None, label_column: str | None, with_images: bool) -> Iterator[Row]:
    with _Parquet(os.fspath(table)) as parquet:
        texts = [name for name, kind in parquet.columns.items() if kind == "text"]
        images = [name for name, kind in parquet.columns.items() if kind not in ("text", "other")]
        given = path_column and choose(list(parquet.columns), "path", path_column, table)
        from_images = given in images if given else bool(images) and (with_images or not texts)
        if given and from_images and given != parquet.image():
            raise UsageError(
                f"{table} embeds several images in a row: {', '.join(images)}. Only {parquet.image()} is read; write "
                f'a file with the other alone: duckdb -c "COPY (SELECT {given}, … FROM …) TO …"'
            )
        path = parquet.image() if from_images else given or choose(texts, "path", None, table)
        label = choose([name for name in parquet.columns if name not in images], "label", label_column, table)
        absent = parquet.absent() if from_images else set()
        written = parquet.image_path() if from_images else _quoted(path)
        given_label = f"left({_quoted(label)}, {_Labels.LONGEST + 1})" if label in texts else _quoted(label)
        parquet.connection.execute("SET memory_limit = '2GB'")  # names and labels: what needs more is a bomb
        result = parquet.query(f"SELECT file_row_number, {written}, {given_label} FROM")
        labels = _Labels(table)
        while rows := parquet.fetch(result, 2048):
            for number, where, given_label in rows:
                yield labels.row(where, given_label, number if from_images and number not in absent else None)


class _Parquet:
    """One open Parquet file, its columns by kind: "struct" and "blob" embed images, then "text" and "other"."""

    def __init__(self, file: str):
        self.file = file
        self.source = f"read_parquet({_literal(file)}, file_row_number = true)"
        self.connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})

    def __enter__(self) -> Self:
        with self._in_words():
            header = self.connection.sql(f"SELECT * EXCLUDE (file_row_number) FROM {self.source} LIMIT 0")
        self.columns = {name: _kind(name, kind) for name, kind in zip(header.columns, header.types, strict=True)}
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def query(self, select: str, where: str = "") -> duckdb.DuckDBPyConnection:
        with self._in_words():
            return self.connection.cursor().execute(f"{select} {self.source} {where}")  # a cursor is one thread's own

    def fetch(self, result: duckdb.DuckDBPyConnection, n: int) -> list[tuple[Any, ...]]:
        """The next n rows or fewer."""
        with self._in_words():
            return result.fetchmany(n)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, RuntimeError, UnicodeError) as error:  # the last two: names that are not UTF-8
            words = str(error).splitlines()[0] if isinstance(error, duckdb.Error) else f"damaged text ({error})"
            raise CrawlError(f"{self.file} cannot be read as Parquet: {words}") from None

    def image(self) -> str:
        """The column that embeds the images: the only one, or that which is best called so."""
        images = [name for name, kind in self.columns.items() if kind in ("struct", "blob")]
        if not images:
            raise CrawlError(f"{self.file} embeds no images: looked for a column with bytes.")
        return images[0] if len(images) == 1 else choose(images, "path", None, Path(self.file))

    def image_bytes(self) -> str:
        return _quoted(self.image()) + (".bytes" if self.columns[self.image()] == "struct" else "")

    def image_path(self) -> str:
        return _quoted(self.image()) + ".path" if self.columns[self.image()] == "struct" else "''"

    def absent(self) -> set[int]:
        """The rows that embed no bytes: the file lies elsewhere. The images are read for it only if need be."""
        leaf = self.image() + (", bytes" if self.columns[self.image()] == "struct" else "")
        nulls = "coalesce(sum(coalesce(stats_null_count, 1)), 1)"
        metadata = f"parquet_metadata({_literal(self.file)}) WHERE path_in_schema = ?"
        with self._in_words():
            if self.connection.execute(f"SELECT {nulls} FROM {metadata}", [leaf]).fetchall() == [(0,)]:
                return set()
        result = self.query("SELECT file_row_number FROM", f"WHERE {self.image_bytes()} IS NULL")
        return {row for rows in iter(lambda: self.fetch(result, 2048), []) for (row,) in rows}


# A column of bare bytes is taken for images only where its name says so: it might be a hash.
_IMAGE_WORDS = {"image", "img", "bytes", "jpg", "jpeg", "png", "webp", "content", "picture", "photo"}


def _kind(name: str, kind: Any) -> str:
    match kind.id:
        case "struct":
            inner = {name: child.id for name, child in kind.children}
            return "struct" if inner.get("bytes") == "blob" and inner.get("path") == "varchar" else "other"
        case "blob" if set(re.findall("[a-z]+", name.lower())) & _IMAGE_WORDS:
            return "blob"
        case "varchar" | "enum":
            return "text"
    return "other"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(file: str) -> str:
    """A file name for SQL. DuckDB takes names for patterns: here they are names."""
    return "'" + re.sub(r"([\[*?])", r"[\1]", file).replace("'", "''") + "'"

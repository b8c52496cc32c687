"""Parquet files as readers need them: which columns hold texts and which images, rows streamed, and one image alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import duckdb

from cleanweb.columns import choose
from cleanweb.errors import CrawlError, UsageError
from cleanweb.remote import bridge, is_address


def stream(file: str) -> Iterator[tuple[int, bytes]]:
    """Every row number of a Parquet file with the image it embeds; none is zero bytes. Memory: some row groups."""
    with Parquet(file) as parquet:
        result = parquet.query(f"SELECT file_row_number, {parquet.image_bytes()} FROM")
        while rows := parquet.fetch(result, 256):
            for row, content in rows:
                yield row, content or b""


def embedded(file: str, row: int) -> bytes:
    """The image that one row embeds. Raises CrawlError where there is none. Safe to call from several threads.

    To read one row DuckDB reads all the images of its row group; a file that is kept open has the last ones at hand.
    """
    if is_address(file):
        with Parquet(file) as parquet:  # nothing that asks the network is kept open
            return _one(parquet, row)
    try:
        state = Path(file).stat()
    except OSError as error:
        raise CrawlError(f"{file} cannot be read: {error.strerror}.") from None
    return _one(_kept_open(file, state.st_mtime_ns, state.st_size), row)


def _one(parquet: "Parquet", row: int) -> bytes:
    result = parquet.query(f"SELECT {parquet.image_bytes()} FROM", f"WHERE file_row_number = {int(row)}")
    found = parquet.fetch(result, 1)
    if not found or found[0][0] is None:
        raise CrawlError(f"{parquet.file} embeds no image in row {row}.")
    return found[0][0]


@lru_cache(maxsize=2)
def _kept_open(file: str, mtime_ns: int, n_bytes: int) -> "Parquet":
    """mtime_ns and n_bytes tell a file from another that takes its place."""
    parquet = Parquet(file)
    parquet.connection.execute("SET memory_limit = '1GB'")  # else the images it holds on to may fill most of the memory
    return parquet.__enter__()


class Parquet:
    """One open Parquet file, its columns by kind: "struct" and "blob" embed images, then "text" and "other"."""

    def __init__(self, file: str):
        self.file = file
        self.source = f"read_parquet({_literal(file)}, file_row_number = true)"
        self.connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        if is_address(file):
            self.connection.register_filesystem(bridge())

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

    def embeds(self) -> bool:
        """Has it a column of images?"""
        return any(kind in ("struct", "blob") for kind in self.columns.values())

    def image(self, asked: str | None = None) -> str:
        """The column that embeds the images: the only one, or that which is best called so.

        Raises CrawlError where there is none, UsageError where several could be it, or another is asked for: an image
        is found again by the number of its row alone.
        """
        images = [name for name, kind in self.columns.items() if kind in ("struct", "blob")]
        if not images:
            raise CrawlError(f"{self.file} embeds no images: looked for a column with bytes.")
        try:
            best = images[0] if len(images) == 1 else choose(images, "path", None, Path(self.file))
        except UsageError:
            best = None
        if best and asked in (None, best):
            return best
        read = f"Only {best} is read" if best else "Which of them to read is not clear"
        raise UsageError(
            f"{self.file} embeds several images in a row: {', '.join(images)}. {read}; write a file with the right one "
            f'alone: duckdb -c "COPY (SELECT {asked or images[0]}, … FROM …) TO …"'
        )

    def image_bytes(self) -> str:
        return quoted(self.image()) + (".bytes" if self.columns[self.image()] == "struct" else "")

    def image_path(self) -> str:
        return quoted(self.image()) + ".path" if self.columns[self.image()] == "struct" else "''"

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


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(file: str) -> str:
    """A file name for SQL. DuckDB takes names for patterns: here they are names."""
    return "'" + re.sub(r"([\[*?])", r"[\1]", file).replace("'", "''") + "'"

"""A table of paths and labels, whatever it is written in → its rows.

Labels are text as written: 007 stays 007. Text is read by `texttable.py`, Parquet by DuckDB. What kind of table it is
shows its content, not its name.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cleanweb import texttable
from cleanweb.columns import choose, choose_both
from cleanweb.errors import UsageError
from cleanweb.parquetfile import Parquet, quoted
from cleanweb.readers import Place, printable


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the path as written, the label (None where there is none), and the Parquet row that embeds the image."""

    path: str
    label: str | None
    embedded: int | None = None
    why: str = "the row has an empty label"  # where there is none


class Labels:
    """A column's values as labels. Millions of rows share some labels: each is kept once."""

    LONGEST = 1000  # characters: a page of text in the column of labels is no name of a class

    def __init__(self, table: Place | str):
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


def is_table(file: Place) -> bool:
    """Anything but archives and images, which people hand over by mistake: a table is text or Parquet."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    parquet_or_utf_16 = head.startswith((b"PAR1", b"\xff\xfe", b"\xfe\xff"))
    archive_or_image = b"\0\0" in head or head.startswith(_NO_TABLES)
    return parquet_or_utf_16 or not archive_or_image


_NO_TABLES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"7z\xbc", b"Rar!", b"\xff\xd8", b"\x89PNG", b"GIF8", b"%PDF")


def rows(table: Place, path_column: str | None, label_column: str | None, with_images: bool) -> Iterator[Row]:
    with table.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    if parquet:
        yield from _parquet_rows(table, path_column, label_column, with_images)
        return
    columns, records = texttable.read(table)
    path, label = map(columns.index, choose_both(columns, path_column, label_column, table))
    labels = Labels(table)
    for record in records:
        yield labels.row(record[path], record[label])


def columns_of(table: Place) -> list[str]:
    """The names of its columns."""
    with table.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    if not parquet:
        return texttable.read(table)[0]
    with Parquet(os.fspath(table)) as opened:
        return list(opened.columns)


def as_text(value: Any, table: Place | str) -> str | None:
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


def _parquet_rows(table: Place, path_column: str | None, label_column: str | None, with_images: bool) -> Iterator[Row]:
    with Parquet(os.fspath(table)) as parquet:
        texts = [name for name, kind in parquet.columns.items() if kind == "text"]
        images = [name for name, kind in parquet.columns.items() if kind not in ("text", "other")]
        given = path_column and choose(list(parquet.columns), "path", path_column, table)
        from_images = given in images if given else bool(images) and (with_images or not texts)
        path = parquet.image(given) if from_images else given or choose(texts, "path", None, table)
        label = choose([name for name in parquet.columns if name not in images], "label", label_column, table)
        absent = parquet.absent() if from_images else set()
        written = parquet.image_path() if from_images else quoted(path)
        given_label = f"left({quoted(label)}, {Labels.LONGEST + 1})" if label in texts else quoted(label)
        parquet.connection.execute("SET memory_limit = '2GB'")  # names and labels: what needs more is a bomb
        result = parquet.query(f"SELECT file_row_number, {written}, {given_label} FROM")
        labels = Labels(table)
        while rows := parquet.fetch(result, 2048):
            for number, where, given_label in rows:
                yield labels.row(where, given_label, number if from_images and number not in absent else None)

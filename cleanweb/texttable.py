"""A table that is text (CSV, TSV, JSON lines, JSON) → its columns and records; what is wrong is told with its line.

CSV is read by Python's csv module in its strict mode. Memory: the whole text, and for JSON all records.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cleanweb.errors import CrawlError


def read(table: Path) -> tuple[list[str], Iterator[list[Any]]]:
    """The names of the columns, and the records in their order. CSV's values are text, JSON's what they are."""
    text = _text(table)
    as_json = text.lstrip()[:1] in ("{", "[")
    return _json(text, table) if as_json else _delimited(text, table)


def _text(table: Path) -> str:
    data = table.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CrawlError(
            f"{table}, line {line}: the byte 0x{data[error.start]:02x} is not UTF-8. Convert the table, for example: "
            f"iconv -f WINDOWS-1252 -t UTF-8 '{table.name}' > '{table.stem}-utf8{table.suffix}'"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CrawlError(f"{table}, line {line}: a NUL byte; the table is damaged, or is not UTF-8 text.")
    if not text.strip():
        raise CrawlError(f"{table} is empty: looked for a first line with the names of the columns.")
    return text


def _delimited(text: str, table: Path) -> tuple[list[str], Iterator[list[str]]]:
    delimiter = _delimiter(text)
    records = _records(text, delimiter, table)
    header = [name.strip() for name in next(records)[1]]

    def checked() -> Iterator[list[str]]:
        for line, record in records:
            if len(record) != len(header):
                raise CrawlError(
                    f"{table}, line {line}: {len(record)} fields, but the first line names {len(header)} columns. "
                    f'Put "quotes" around fields that contain {delimiter!r}.'
                )
            yield record

    return header, checked()


def _records(text: str, delimiter: str, table: Path | None) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line each begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            words = f"a quote is opened and not closed, or stands inside a field ({error})"
            raise CrawlError(f"{table}, line {line}: {words}.") from None
        if record:
            yield line, record


def _delimiter(text: str) -> str:
    """Of tab, comma, semicolon and pipe the one that cuts the first lines into equally many fields, and into most."""

    def cut(delimiter: str) -> tuple[bool, int]:
        widths = []
        try:
            for _, (_, record) in zip(range(50), _records(text, delimiter, None), strict=False):
                widths.append(len(record))
        except CrawlError:
            pass
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    return max("\t,;|", key=cut)


def _json(text: str, table: Path) -> tuple[list[str], Iterator[list[Any]]]:
    """JSON lines, or one array of objects. A row may lack a key: it is null there."""
    number = lambda written: int(float(written)) if float(written).is_integer() else written  # noqa: E731
    decode = json.JSONDecoder(parse_float=number, parse_constant=lambda _: None).decode
    records, line = [], 1
    try:
        if text.lstrip().startswith("["):
            records = list(enumerate(decode(text.strip()), 1))
        else:
            for line, written in enumerate(text.split("\n"), 1):  # not splitlines: JSON may hold other line ends
                if written.strip():
                    records.append((line, decode(written.strip())))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1) + line - 1
        raise CrawlError(f"{table}, line {line}: not JSON ({error}). Each line must hold one whole object.") from None
    for line, record in records:
        if not isinstance(record, dict):
            raise CrawlError(f"{table}, line {line}: {str(record)[:60]!r} is no object with a path and a label.")
    columns = list(dict.fromkeys(key for _, record in records for key in record))
    return columns, ([record.get(column) for column in columns] for _, record in records)

"""A table that is text (CSV, TSV, JSON lines, JSON) → its columns and records; what is wrong is told with its line.

CSV is read by Python's csv module in its strict mode; in cleanweb's own, text that was guarded against spreadsheets is
what it was before. Lines are read as they are worked off, so that a table of any size takes little memory; JSON lines
are read twice, first for the names of their columns. Only a JSON array is held whole.
"""

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from cleanweb.errors import CrawlError
from cleanweb.remote import Remote
from cleanweb.spreadsheet import is_guarded, unguard

LONGEST = (
    4 << 20
)  # characters of a line, and of a CSV field: what is longer is no table, or has a quote that never ends
_HEAD = 1 << 20  # characters from which the kind of table is told


def read(table: Path | Remote) -> tuple[list[str], Iterator[list[Any]]]:
    """The names of the columns, and the records in their order. CSV's values are text, JSON's what they are."""
    head = _head(table)
    match head.lstrip()[:1]:
        case "[":
            return _array(table)
        case "{":
            return _objects(table)
    return _delimited(table, _delimiter(head))


# --- text -----------------------------------------------------------------------------------------------------------


def _encoding(table: Path | Remote) -> str:
    with table.open("rb") as stream:
        return "utf-16" if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _lines(table: Path | Remote) -> Iterator[str]:
    """The lines with their ends, which are \\n, \\r\\n or \\r."""
    number = 0
    try:
        with table.open(encoding=_encoding(table), newline="") as stream:
            while line := stream.readline(LONGEST):
                number += 1
                if "\0" in line:
                    raise CrawlError(f"{table}, line {number}: a NUL byte; the table is damaged, or is not UTF-8 text.")
                if len(line) == LONGEST:
                    raise CrawlError(f"{table}, line {number}: longer than {LONGEST:,} characters. This is no table.")
                yield line
    except UnicodeError as error:
        raise _not_text(table, error) from None


def _not_text(table: Path | Remote, error: UnicodeError) -> CrawlError:
    """In words, with the line; the decoder knows only the place in what it was given last."""
    encoding, line = _encoding(table), 0
    if encoding == "utf-16":
        return CrawlError(f"{table}: begins as UTF-16 and is not ({error}). Convert the table to UTF-8.")
    with table.open("rb") as stream:
        while raw := stream.readline(LONGEST):
            line += 1
            try:
                raw.decode()
            except UnicodeDecodeError as found:
                if len(raw) < LONGEST or found.end < len(raw) - 4:
                    words = f"the byte 0x{raw[found.start]:02x} is not UTF-8. Convert the table, for example: "
                    new = f"'{table.stem}-utf8{table.suffix}'"
                    return CrawlError(f"{table}, line {line}: {words}iconv -f WINDOWS-1252 -t UTF-8 "
                                      f"'{table.name}' > {new}")  # fmt: skip
    return CrawlError(f"{table}: ends inside a letter; the table is cut off.")


def _head(table: Path | Remote) -> str:
    head, length = [], 0
    for line in _lines(table):
        head.append(line)
        length += len(line)
        if length > _HEAD and not line.isspace():
            break
    text = "".join(head)
    if not text.strip():
        raise CrawlError(f"{table} is empty: looked for a first line with the names of the columns.")
    return text


# --- CSV ------------------------------------------------------------------------------------------------------------


def _delimited(table: Path | Remote, delimiter: str) -> tuple[list[str], Iterator[list[str]]]:
    records = _records(_lines(table), delimiter, table)
    header = [name.strip() for name in next(records)[1]]
    guarded = is_guarded(header)

    def checked() -> Iterator[list[str]]:
        for line, record in records:
            if len(record) != len(header):
                raise CrawlError(
                    f"{table}, line {line}: {len(record)} fields, but the first line names {len(header)} columns. "
                    f'Put "quotes" around fields that contain {delimiter!r}.'
                )
            yield [unguard(cell) for cell in record] if guarded else record

    return header, checked()


def _records(lines: Iterable[str], delimiter: str, table: Path | Remote | None) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line each begins on."""
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
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


def _delimiter(head: str) -> str:
    """Of tab, comma, semicolon and pipe the one that cuts the first lines into equally many fields, and into most."""
    lines = head.splitlines(keepends=True)

    def cut(delimiter: str) -> tuple[bool, int]:
        widths = []
        with suppress(CrawlError):
            for _, record in islice(_records(lines, delimiter, None), 50):
                widths.append(len(record))
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    return max("\t,;|", key=cut)


# --- JSON -----------------------------------------------------------------------------------------------------------


def _number(written: str) -> int | str:
    """As written, but 3.0 is 3: nulls turn integers into floats."""
    value = float(written)
    return int(value) if value.is_integer() else written


_decode = json.JSONDecoder(parse_float=_number, parse_constant=lambda _: None).decode


def _objects(table: Path | Remote) -> tuple[list[str], Iterator[list[Any]]]:
    """JSON lines. A row may lack a key: it is null there."""

    def records() -> Iterator[dict[str, Any]]:
        for line, written in enumerate(_json_lines(table), 1):
            if written.strip():
                yield _object(_parsed(written, line, table), line, table)

    columns = list(dict.fromkeys(key for record in records() for key in record))
    return columns, ([record.get(column) for column in columns] for record in records())


def _json_lines(table: Path | Remote) -> Iterator[str]:
    """Only \\n ends a line of JSON."""
    whole = ""
    for line in _lines(table):
        whole += line
        if line.endswith("\n"):
            yield whole
            whole = ""
    yield whole


def _array(table: Path | Remote) -> tuple[list[str], Iterator[list[Any]]]:
    """One array of objects."""
    text = table.read_text(encoding=_encoding(table))
    found = [_object(record, i, table) for i, record in enumerate(_parsed(text, 1, table), 1)]
    columns = list(dict.fromkeys(key for record in found for key in record))
    return columns, ([record.get(column) for column in columns] for record in found)


def _parsed(text: str, line: int, table: Path | Remote) -> Any:
    try:
        return _decode(text.strip())
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        raise CrawlError(f"{table}, line {line}: not JSON ({error}). Each line must hold one whole object.") from None


def _object(record: Any, line: int, table: Path | Remote) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise CrawlError(f"{table}, line {line}: {str(record)[:60]!r} is no object with a path and a label.")
    return record

"""CSV for spreadsheets: text that one would take for a formula is guarded by an apostrophe, as they do it themselves.

Excel, LibreOffice and Google Sheets run a cell that begins with = + - or @ (after a tab or a line end, too): a label or
a file name from the web could call other programs there. In the CSV files of cleanweb such a cell gets a leading
apostrophe, and so does one that looks guarded already. To undo it, take one apostrophe away from a cell that begins
with apostrophes and then one of these characters. Numbers are left alone.
"""

import re
from collections.abc import Iterable
from typing import TextIO

_STARTS = r"=+\-@＝＋－＠\t\r\n"  # OWASP's list; Excel in Japanese takes the wide forms, too
_FORMULA = re.compile(f"'*[{_STARTS}]")
_GUARDED = re.compile(f"'+[{_STARTS}]")
_OURS = ({"sample_id", "verdict"}, {"offered_first", "offered_second"})  # columns of exports and manifests, of audits


def guard(text: str) -> str:
    """The text as a cell that no spreadsheet runs."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguard(cell: str) -> str:
    """The text that `guard` was given."""
    return cell[1:] if _GUARDED.match(cell) else cell


def is_guarded(columns: Iterable[str]) -> bool:
    """Is this a table that cleanweb wrote? In other people's an apostrophe is an apostrophe."""
    return any(set(columns) >= names for names in _OURS)


def guard_sql(column: str) -> str:
    """`guard` as a DuckDB expression."""
    return f"CASE WHEN regexp_matches({column}, '^''*[{_STARTS}]') THEN '''' || {column} ELSE {column} END"


def guarded_sql(query: str, columns: Iterable[str]) -> str:
    """The query, its columns of text guarded."""
    return f"SELECT * REPLACE ({', '.join(f'{guard_sql(name)} AS {name}' for name in columns)}) FROM ({query})"


def write(columns: Iterable[str], rows: Iterable[Iterable[object]], stream: TextIO, guarded: bool = True) -> None:
    """Write a table as CSV: a comma, a line feed, quotes where a cell needs them, an empty cell for no value.

    guarded: for people, who may open it in a spreadsheet; our reader undoes it where `is_guarded` says so.

    Not with the csv module: before Python 3.13 it leaves a carriage return unquoted, and pandas then reads it as the
    end of a line.
    """
    stream.write(",".join(columns) + "\n")
    stream.writelines(",".join(_cell(value, guarded) for value in row) + "\n" for row in rows)


def _cell(value: object, guarded: bool) -> str:
    if not isinstance(value, str):
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    text = guard(value) if guarded else value
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text

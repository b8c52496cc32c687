"""cleanweb sql: ask the manifest."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cleanweb.commands import JsonOption, RunOption
from cleanweb.settings import DEFAULT_RUN
from cleanweb.terminal import choice, echo_json, print_table, table_stream, words_for_errors

if TYPE_CHECKING:
    SqlFormat = str
else:
    SqlFormat = choice("SqlFormat", ("table", "csv", "json"))


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One statement, in quotes.")],
    format: Annotated[
        SqlFormat, typer.Option("--format", "-f", help="How to print the rows; json: an object a line.")
    ] = "table",
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Let the query read and write other files, and load extensions.")
    ] = False,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
) -> None:
    """Ask the manifest in SQL, read-only; the query sees nothing else of the machine.

    Tables: images, classes, transition_matrix, reviews, audits, audit_findings, reliability, epochs, runs. Views:
    clean, relabeled, ood, unusable, trainable, transitions. DESCRIBE images names the columns.

    \b
    Examples:
      cleanweb sql "SELECT verdict, count(*) FROM images GROUP BY 1"
      cleanweb sql "SELECT * FROM transitions" --format csv > transitions.csv
    """
    with words_for_errors():
        from cleanweb import manifest

        columns, rows = manifest.query(run, query, unsafe)
        _PRINTERS["json" if as_json else str(format)](columns, rows)


def _print_csv(columns: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    from cleanweb import spreadsheet

    spreadsheet.write(columns, rows, table_stream(), guarded=False)


def _print_json(columns: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    names = _told_apart(columns)
    for row in rows:
        echo_json(dict(zip(names, map(_in_json, row), strict=True)))


def _told_apart(columns: list[str]) -> list[str]:
    """Each name once, as an object has it: path, path_1."""
    names: list[str] = []
    for name in columns:
        more = (f"{name}_{k}" for k in range(1, len(columns) + 1))
        names.append(name if name not in names else next(other for other in more if other not in {*names, *columns}))
    return names


def _in_json(value: Any) -> Any:
    """JSON has no infinities, and nothing that is no number."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [_in_json(each) for each in value]
        case dict():
            return {key: _in_json(each) for key, each in value.items()}
    return value


_PRINTERS = {"table": print_table, "csv": _print_csv, "json": _print_json}

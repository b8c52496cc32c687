"""pandas frames as the manifest's tables hold them: columns in order, types that mean the same to every pandas and
DuckDB, no text twice in memory. They are written in parts: millions of rows would not fit in two shapes at once, and
a large table need not be a frame at all (`Rows`)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cleanweb.schema import TABLES, quoted

if TYPE_CHECKING:
    import pandas as pd

V = TypeVar("V")


class Rows(Protocol):
    """A table of which some rows at a time are made; a DataFrame is one, too."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> "pd.DataFrame": ...


_PART = 122_880  # rows: DuckDB keeps so many together
_MANY, _FEW = 10_000, 1_000  # of so many rows on a column of so few texts keeps each once


def typed_parts(table: str, rows: Rows, start: int = 0, stop: int | None = None) -> Iterator["pd.DataFrame"]:
    """The rows from start to stop `typed`, so many at a time; one part without a row where there are none."""
    stop = len(rows) if stop is None else min(stop, len(rows))
    for first in range(start, max(start + 1, stop), _PART):
        yield typed(table, rows[first : min(first + _PART, stop)])


def shared_texts(con: Any, query: str) -> "pd.DataFrame":
    """The rows of a query, asked of a DuckDB connection. Where a column holds few different texts, rows share them: a
    million rows would hold ten million texts, of which some hundred differ."""
    coded = [f"CAST({name} AS ENUM ({texts})) AS {name}" for name, texts in _few_texts(con, query).items()]
    frame = con.execute(f"SELECT *{f' REPLACE ({chr(44).join(coded)})' * bool(coded)} FROM ({query})").df()
    kind = con.execute("SELECT '' AS text").df()["text"].dtype  # before pandas 3 object, and None where it is missing
    for name in frame.columns[frame.dtypes == "category"]:
        column = frame[name].astype(kind)
        frame[name] = column.where(column.notna(), None) if kind == "object" else column
    return frame


def _few_texts(con: Any, query: str) -> dict[str, str]:
    """Where there are many rows: the columns of few different texts, and these, as SQL. The rows are looked through
    twice, however many columns there are: they may lie far away."""
    described = con.execute(f"DESCRIBE {query}").fetchall()
    names = [f'"{name}"' for name, kind, *_ in described if kind == "VARCHAR"]
    counted = ", ".join(["count(*)", *(f"approx_count_distinct({name})" for name in names)])
    [(rows, *counts)] = con.execute(f"SELECT {counted} FROM ({query})").fetchall()
    few = [name for name, n in zip(names, counts, strict=True) if 0 < n < _FEW]
    if rows < _MANY or not few:
        return {}
    listed = ", ".join(f"list(DISTINCT {name}) FILTER ({name} IS NOT NULL)" for name in few)
    [texts] = con.execute(f"SELECT {listed} FROM ({query})").fetchall()
    return {name: ", ".join(map(quoted, known)) for name, known in zip(few, texts, strict=True)}


def empty(table: str) -> "pd.DataFrame":
    """The table without a row."""
    import pandas as pd

    return pd.DataFrame({name: [] for name, _, _ in TABLES[table]}, dtype=object)


def exactly(wanted: Iterable[str], given: Mapping[str, V], what: str) -> dict[str, V]:
    """`given` in the order of `wanted`; ValueError unless both have the same keys: a typo must not vanish."""
    missing, extra = [name for name in wanted if name not in given], [name for name in given if name not in wanted]
    if missing or extra:
        raise ValueError(f"manifest: missing {what}s {missing}, unknown {what}s {extra}")
    return {name: given[name] for name in wanted}


def typed(table: str, frame: "pd.DataFrame") -> "pd.DataFrame":
    """The table's columns in order and in types that mean the same to every pandas and DuckDB (text: "string" …)."""
    import pandas as pd

    types = {name: sql_type.split()[0] for name, sql_type, _ in TABLES[table]}
    if not frame.columns.is_unique:
        raise ValueError(f"manifest: table {table} has a column twice")
    columns = {}
    for name, column in exactly(types, {name: frame[name] for name in frame.columns}, f"{table} column").items():
        try:
            columns[name] = _AS[types[name]](column).array
        except (TypeError, ValueError) as error:
            raise ValueError(f"manifest: {table}.{name} is no {types[name]}: {error}") from error
    return pd.DataFrame(columns)


def _text(column: "pd.Series") -> "pd.Series":
    import pandas as pd

    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind not in ("string", "empty", "categorical") and column.notna().any():
        raise TypeError(f"not text but {kind}")
    try:
        text = column.astype("string")  # kept by pyarrow, where it is installed, which refuses lone surrogates
        if text.dtype.storage == "python":
            "".join(text.dropna().to_numpy(object).tolist()).encode()  # and so does this
    except UnicodeEncodeError:
        escaped = (t.encode(errors="backslashreplace").decode() if isinstance(t, str) else None for t in column)
        text = pd.Series(escaped, dtype="string")
    return text


def _utc(column: "pd.Series") -> "pd.Series":
    import pandas as pd

    return pd.to_datetime(column, utc=True).dt.tz_localize(None)


_AS = {
    "VARCHAR": _text,
    "verdict": _text,
    "INTEGER": lambda column: column.astype("Int64"),
    "BIGINT": lambda column: column.astype("Int64"),
    "FLOAT": lambda column: column.astype("Float32"),
    "DOUBLE": lambda column: column.astype("Float64"),
    "BOOLEAN": lambda column: column.astype("boolean"),
    "TIMESTAMP": _utc,
}

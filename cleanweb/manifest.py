"""The manifest: everything the run has found, one row per sample. The only door to DuckDB.

    cleanweb-run/manifest.duckdb     images · classes · epochs · runs, and views on images
    cleanweb-run/manifest.csv        images again, for a spreadsheet
    cleanweb-run/manifest.parquet    images again, for pandas, Spark, polars …

What the tables are, `schema.py` says. The file has DuckDB's storage version 1.0.0, which every DuckDB since 1.0 opens.

Text: newlines, quotes, emoji and NUL are kept as they are. Empty text is stored as NULL wherever NULL is allowed, so
that nothing has one spelling in SQL and in CSV. A lone surrogate (a file name that is not UTF-8) cannot be stored: it
becomes its escape, `\\udcff`.

Takes DataFrames, gives files, rows or a DataFrame. Never keeps a file open, never decides anything. A million rows of
images on 2 cores: 15 s to write (9 s of them the database, 110,000 rows/s), 6 s to read, 1.7 GB of memory, 560 MB on
disk.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from cleanweb.errors import MachineError, RunError, UsageError
from cleanweb.schema import SCHEMA_VERSION, SELECTIONS, TABLES, quoted, statements

if TYPE_CHECKING:
    import pandas as pd

STORAGE_VERSION = "v1.0.0"  # the oldest there is: what DuckDB 2 writes by default, DuckDB 1 cannot open

_FILES = ("manifest.csv", "manifest.parquet", "manifest.duckdb")  # published in this order: the one that counts last
_DRAFT = "manifest.writing"  # what unfinished files are called

# An ENUM is a convenience inside the database; outside it a verdict is text.
_IMAGES = "SELECT * REPLACE (verdict::VARCHAR AS verdict) FROM images"

# A query may look at the manifest and at nothing else: no files, no network, no extensions.
_LOCKED = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "lock_configuration": "true",
}

_FILE_FAULTS = (duckdb.IOException, duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)

# ---------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, tables: Mapping[str, "pd.DataFrame"]) -> None:
    """Write manifest.duckdb, .csv and .parquet into `folder`, in place of any that are there.

    tables: "images", "classes", "epochs" and "runs", each with exactly the columns of `TABLES`, in any order. Rows keep
    their order. Every file is complete under another name before it takes its place, so a write that fails or is
    killed leaves the manifest that was there.

    Raises ValueError where tables do not fit the schema or contradict its rules, UsageError where DuckDB cannot write
    to such a folder, MachineError where the disk refuses.
    """
    frames = {name: _typed(name, frame) for name, frame in _exactly(TABLES, tables, "table").items()}
    folder = folder.resolve()
    if "?" in str(folder):  # DuckDB takes what follows for options, and loses its log file
        raise UsageError(f"cannot write a DuckDB file under {folder}: a ? in the path. Choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_drafts(folder)
        try:
            _draft(folder, frames)
            _publish(folder)
        finally:
            _remove_drafts(folder)
    except (duckdb.ConstraintException, duckdb.ConversionException) as error:
        raise ValueError(f"the manifest would contradict itself: {_brief(error)}") from error
    except (duckdb.Error, OSError) as error:
        raise MachineError(f"cannot write the manifest in {folder}: {_brief(error)}") from error


def _exactly(wanted: Mapping, given: Mapping, what: str) -> dict:
    """`given` in the order of `wanted`; ValueError unless both have the same keys: a typo must not vanish."""
    missing, extra = [name for name in wanted if name not in given], [name for name in given if name not in wanted]
    if missing or extra:
        raise ValueError(f"manifest: missing {what}s {missing}, unknown {what}s {extra}")
    return {name: given[name] for name in wanted}


def _typed(table: str, frame: "pd.DataFrame") -> "pd.DataFrame":
    """The table's columns in order and in types that mean the same to every pandas and DuckDB (text: "string" …)."""
    import pandas as pd

    types = {name: sql_type.split()[0] for name, sql_type, _ in TABLES[table]}
    if not frame.columns.is_unique:
        raise ValueError(f"manifest: table {table} has a column twice")
    columns = {}
    for name, column in _exactly(types, {name: frame[name] for name in frame.columns}, f"{table} column").items():
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
            "".join(text.dropna()).encode()  # and so does this
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


def _draft(folder: Path, frames: dict[str, "pd.DataFrame"]) -> None:
    """All three files, complete and closed, under draft names."""
    draft = str(folder / _DRAFT)
    # What does not fit in memory goes beside the drafts, not into whatever folder the command was started from.
    with duckdb.connect(config={"temp_directory": f"{draft}.spill"}) as con:
        con.execute(f"ATTACH {quoted(draft + '.duckdb')} AS manifest (STORAGE_VERSION '{STORAGE_VERSION}')")
        con.execute("USE manifest")
        con.execute(f"BEGIN; {'; '.join(statements())}; COMMIT")  # each on its own would wait for the disk
        for name, frame in frames.items():
            con.register("frame", frame)
            con.execute(f"INSERT INTO {name} SELECT {', '.join(map(_stored, TABLES[name]))} FROM frame")
            con.unregister("frame")
        _check_duplicates(con)
        con.execute(f"COPY ({_IMAGES}) TO {quoted(draft + '.csv')} (FORMAT csv, HEADER)")
        con.execute(f"COPY ({_IMAGES}) TO {quoted(draft + '.parquet')} (FORMAT parquet, COMPRESSION zstd)")
        con.execute("USE memory")
        con.execute("DETACH manifest")  # writes the log into the file and removes it


def _stored(column: tuple[str, str, str]) -> str:
    name, sql_type, _ = column
    return f"nullif({name}, '')" if sql_type == "VARCHAR" else name


def _check_duplicates(con: duckdb.DuckDBPyConnection) -> None:
    """A kept copy is a row of its own, and no duplicate. (A foreign key would say half of it, and slowly.)"""
    row = con.execute(
        "SELECT a.sample_id, a.duplicate_of FROM images a LEFT JOIN images b ON a.duplicate_of = b.sample_id "
        "WHERE a.duplicate_of IS NOT NULL AND (b.sample_id IS NULL OR b.duplicate_of IS NOT NULL) LIMIT 1"
    ).fetchone()
    if row:
        raise ValueError(f"manifest: {row[0]!r} is a duplicate of {row[1]!r}, which is missing or a duplicate itself")


def _publish(folder: Path) -> None:
    """Let the drafts take their places."""
    drafts = [(folder / file.replace("manifest", _DRAFT), folder / file) for file in _FILES]
    for draft, _ in drafts:
        _sync(draft)
    for log in folder.glob("manifest.duckdb.wal*"):  # somebody else's changes to the old file must not meet the new one
        log.unlink()
    for draft, file in drafts:
        os.replace(draft, file)  # noqa: PTH105 - one name for the tests to break
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_drafts(folder: Path) -> None:
    """Remove what this write, or one that was killed, has left unfinished."""
    for leftover in folder.glob(f"{_DRAFT}.*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


# ---------------------------------------------------------------------------------------------------------- reading


def read(folder: Path, table: str) -> "pd.DataFrame":
    """A whole table, in the order it was written, with the columns of `TABLES`; what `write` takes again.

    Verdicts are text. Raises RunError where there is no manifest, or one of another schema.
    """
    with _opened(folder) as con:
        frame = con.execute(_IMAGES if table == "images" else f"SELECT * FROM {table}").df()
    if list(frame.columns) != [name for name, _, _ in TABLES[table]]:
        raise RunError(
            f"the table {table} of {folder / 'manifest.duckdb'} has not the columns of this version of cleanweb "
            f"(schema {SCHEMA_VERSION}): run cleanweb fit --fresh, or use the version that wrote it"
        )
    return frame


def select(folder: Path, only: Sequence[str], where: str | None = None) -> "pd.DataFrame":
    """Rows of images in any of the `SELECTIONS` named, in the order they were written; each row once.

    where: a further condition in SQL, e.g. "confidence > 0.9 AND width >= 200".
    Raises UsageError for an unknown name or a wrong condition, RunError where there is no manifest.
    """
    unknown = [name for name in only if name not in SELECTIONS]
    if unknown or not only:
        wrong = f"unknown: {', '.join(unknown)}" if unknown else "nothing to select"
        raise UsageError(f"{wrong}; choose from {', '.join(SELECTIONS)}")
    condition = " OR ".join(f"({SELECTIONS[name][0]})" for name in only)
    further = f"AND ({where}\n)" if where else ""  # the line break ends a comment in `where`
    with _opened(folder) as con:
        return con.execute(f"{_IMAGES} WHERE ({condition}) {further} ORDER BY rowid").df()


def frame(folder: Path, sql: str) -> "pd.DataFrame":
    """The rows of one SQL query, as `query` runs it, in DuckDB's types for pandas."""
    with _opened(folder) as con:
        con.execute(sql)
        if not con.description:
            raise UsageError("no SQL query given")
        return con.df()


def query(folder: Path, sql: str) -> tuple[list[str], Iterator[tuple]]:
    """Run one SQL query on the manifest: (column names, rows). It can read the manifest and nothing else.

    The file is open, for reading, until the rows are used up. Raises UsageError, in DuckDB's own words, where the SQL
    is wrong, and RunError where there is no manifest.
    """
    con = _connect(folder)
    try:
        with _faults(folder):
            con.execute(sql)
            names = [column[0] for column in con.description or ()]
        if not names:
            raise UsageError("no SQL query given")
    except Exception:
        con.close()
        raise
    return names, _rows(folder, con)


def _rows(folder: Path, con: duckdb.DuckDBPyConnection) -> Iterator[tuple]:
    with closing(con), _faults(folder):
        while batch := con.fetchmany(10_000):
            yield from batch


@contextmanager
def _opened(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with closing(_connect(folder)) as con, _faults(folder):
        yield con


def _connect(folder: Path) -> duckdb.DuckDBPyConnection:
    """A connection that can only read; RunError in words where there is nothing to read."""
    file = folder / "manifest.duckdb"
    try:
        if not file.exists():
            raise RunError(f"no manifest in {folder}; run cleanweb fit first or give --run")
        con = duckdb.connect(str(file.absolute()), read_only=True, config=_LOCKED)
        tables = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    except (duckdb.Error, OSError) as error:
        locked = f"another program has {file} open for writing; close it and try again"
        broken = f"cannot read {file}; if it is damaged, run cleanweb fit --fresh"
        raise RunError(f"{locked if 'set lock' in str(error) else broken} ({_brief(error)})") from error
    if not tables.issuperset(TABLES):
        con.close()
        raise RunError(f"{file} is a DuckDB file but no manifest: it has no table {min(set(TABLES) - tables)}")
    return con


@contextmanager
def _faults(folder: Path) -> Iterator[None]:
    """DuckDB's errors while reading: the file's (RunError) or the SQL's (UsageError)."""
    try:
        yield
    except _FILE_FAULTS as error:
        file = folder / "manifest.duckdb"
        raise RunError(f"cannot read {file}; if it is damaged, run cleanweb fit --fresh ({_brief(error)})") from error
    except duckdb.Error as error:
        raise UsageError(_brief(error)) from error


def _brief(error: Exception) -> str:
    """What DuckDB says, without the extract of the statement and the stack below it."""
    return " ".join(str(error).split("\n\n")[0].split())

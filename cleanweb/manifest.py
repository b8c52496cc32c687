"""The manifest: everything the run has found, one row per sample. The door to DuckDB.

    cleanweb-run/manifest.duckdb     images · classes · epochs · runs, and views on images
    cleanweb-run/manifest.csv        images again, for a spreadsheet: no text in it runs as a formula (`spreadsheet.py`)
    cleanweb-run/manifest.parquet    images again, for pandas, Spark, polars …

What the tables are, `schema.py` says. The file has DuckDB's storage version 1.0.0, which every DuckDB since 1.0 opens.

Text: newlines, quotes, emoji and NUL are kept as they are. Empty text is stored as NULL wherever NULL is allowed, so
that nothing has one spelling in SQL and in CSV. A lone surrogate (a file name that is not UTF-8) cannot be stored: it
becomes its escape, `\\udcff`.

Takes DataFrames, or rows that are made when they are written; gives files, rows or a DataFrame. Never keeps a file
open, never decides anything. A million rows of images on 2 cores: 7 s to write once they are made (139,000 rows/s,
`bench speed --only manifest`); DuckDB gets 128 MB, and 64 for each thread, however many there are.

How the file is opened, beside others who may want it, is in `database.py`.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import duckdb

from cleanweb import atomic, parts, remote
from cleanweb.database import ADDED, FILE_FAULTS, brief, connect, faults, file_of, roll_back
from cleanweb.database import alone as alone  # this file is the door to DuckDB
from cleanweb.database import attached as attached
from cleanweb.database import in_parts as in_parts
from cleanweb.database import opened as opened
from cleanweb.errors import MachineError, RunError, UsageError
from cleanweb.frames import Rows, exactly, shared_texts, typed_parts
from cleanweb.frames import empty as empty
from cleanweb.remote import is_address
from cleanweb.schema import NEW_COLUMNS, SCHEMA_VERSION, SELECTIONS, TABLES, definition, quoted, statements
from cleanweb.spreadsheet import guarded_sql

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

STORAGE_VERSION = "v1.0.0"  # the oldest there is: what DuckDB 2 writes by default, DuckDB 1 cannot open

_FILES = ("manifest.csv", "manifest.parquet", "manifest.duckdb")  # published in this order: the one that counts last
_DRAFT = "manifest.writing"  # what unfinished files are called

_IMAGES = "SELECT * REPLACE (verdict::VARCHAR AS verdict) FROM images"  # outside the database a verdict is text
_IN_ORDER = "(SELECT * EXCLUDE (rowid) FROM numbered_images ORDER BY rowid)"  # a table has an order, a view has none
_GUARDED = guarded_sql(_IMAGES, (name for name, sql_type, _ in TABLES["images"] if sql_type.startswith("VARCHAR")))

# ---------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, tables: Mapping[str, Rows]) -> None:
    """Write manifest.duckdb, .csv and .parquet into `folder`, in place of any that are there.

    tables: those of `TABLES`, DataFrames or what gives some rows at a time (`frames.Rows`), each with exactly the
    columns written there, in any order; without `reviews` it holds none. Rows keep their order. Every file is complete
    under another name before it takes its place, so a write that fails or is killed leaves the manifest that was there.

    Raises ValueError where tables do not fit the schema or contradict its rules, UsageError where DuckDB cannot write
    to such a folder, MachineError where the disk refuses.
    """
    tables = {name: empty(name) for name in ADDED} | dict(tables)
    frames = exactly(TABLES, tables, "table")
    folder = folder.resolve()
    if "?" in str(folder):  # DuckDB takes what follows for options, and loses its log file
        raise UsageError(f"cannot write a DuckDB file under {folder}: a ? in the path. Choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_drafts(folder)
        location = _where(frames)
        try:
            _draft(folder, frames, location)
            _publish(folder, location)
        except BaseException:
            if location is not None and not is_address(location):
                atomic.remove(folder / location)
            raise
        finally:
            _remove_drafts(folder)
            with suppress(OSError):  # it holds parts
                (folder / parts.FOLDER).rmdir()
    except (duckdb.ConstraintException, duckdb.ConversionException) as error:
        raise ValueError(f"the manifest would contradict itself: {brief(error)}") from error
    except (duckdb.Error, OSError) as error:
        raise MachineError(f"cannot write the manifest in {folder}: {brief(error)}") from error


def _draft(folder: Path, frames: dict[str, Rows], location: str | None) -> None:
    """All files, complete and closed, under draft names; the parts of images, where there are any, at their location,
    which no manifest names yet."""
    draft = str(folder / _DRAFT)
    with _writing(folder) as con:
        con.execute(f"ATTACH {quoted(draft + '.duckdb')} AS manifest (STORAGE_VERSION '{STORAGE_VERSION}')")
        con.execute("USE manifest")
        if location is None:
            con.execute(f"BEGIN; {'; '.join(statements())}; COMMIT")  # each on its own would wait for the disk
        else:
            _make_views(con, folder, location, _write_parts(folder, frames["images"], location))
        for name, frame in frames.items():
            if name == "images" and location is not None:
                continue
            for rows in typed_parts(name, frame):
                _insert(con, name, rows)
                del rows  # before the next ones are made
        _check_names(con)
        _check_duplicates(con)
        guarded = _GUARDED if location is None else _GUARDED.replace("FROM images", f"FROM {_IN_ORDER}")
        con.execute(f"COPY ({guarded}) TO {quoted(draft + '.csv')} (FORMAT csv, HEADER)")
        if location is None:
            con.execute(f"COPY ({_IMAGES}) TO {quoted(draft + '.parquet')} (FORMAT parquet, COMPRESSION zstd)")
        con.execute("USE memory; DETACH manifest")  # writes the log into the file and removes it


def _writing(folder: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB that writes in the memory that its threads work on, however many rows there are. What does not fit goes
    beside the drafts, not into whatever folder the command was started from."""
    con = duckdb.connect(config={"temp_directory": str(folder / f"{_DRAFT}.spill")})
    [(threads,)] = con.execute("SELECT current_setting('threads')").fetchall()
    con.execute(f"SET memory_limit = '{128 + 64 * threads}MiB'")
    return con


def _insert(con: duckdb.DuckDBPyConnection, table: str, rows: "pd.DataFrame", into: str | None = None) -> None:
    """Insert `typed` rows of a table of the schema, `into` one of its columns."""
    con.register("frame", rows)
    con.execute(f"INSERT INTO {into or table} SELECT {', '.join(map(_stored, TABLES[table]))} FROM frame")
    con.unregister("frame")


def _where(frames: Mapping[str, Rows]) -> str | None:
    """Where images go, if into parts: beside those that are there."""
    settings = frames["runs"][:1]["settings"]
    asked = None if settings.empty or settings.isna().iloc[0] else str(settings.iloc[0])
    place = parts.wanted(len(frames["images"]), asked)
    return None if place is None else f"{place}/{uuid4().hex[:8]}"


def _write_parts(folder: Path, images: Rows, location: str) -> int:
    """Write the parts, each held against the schema's rules; gives how many."""
    made = folder / (f"{_DRAFT}.parts" if is_address(location) else location)
    atomic.make_folder(made)
    starts = range(0, max(1, len(images)), parts.ROWS)
    with _writing(folder) as con:
        con.execute(next(statements()))  # the type of verdicts
        for start, name in zip(starts, parts.files(os.fspath(made), len(starts), folder), strict=True):
            con.execute(f"CREATE TABLE part ({definition('images')})")
            for rows in typed_parts("images", images, start, start + parts.ROWS):
                _insert(con, "images", rows, "part")
                del rows
            con.execute(f"COPY (SELECT {start} + rowid AS place, * FROM part ORDER BY rowid) TO {quoted(name)} "
                        "(FORMAT parquet, COMPRESSION zstd)")  # fmt: skip
            con.execute("DROP TABLE part")
            if is_address(location):
                remote.upload(Path(name), f"{location}/{Path(name).name}")
                Path(name).unlink()
    return len(starts)


def _make_views(con: duckdb.DuckDBPyConnection, folder: Path, location: str, n: int) -> None:
    """The tables of a manifest in parts, and its views, which in the file find the parts from the run folder. DuckDB
    looks at them when a view is made: below a link to them, since its search path takes no comma."""
    if is_address(location):
        con.register_filesystem(remote.bridge())
    with tempfile.TemporaryDirectory() as here:
        (Path(here) / parts.FOLDER).symlink_to(folder / parts.FOLDER)
        con.execute(f"SET file_search_path = {quoted(here)}")
        made = statements([*parts.tables(), *parts.view_in_file(location, n)])
        con.execute(f"BEGIN; {'; '.join(made)}; COMMIT")
        con.execute("RESET file_search_path")
    con.execute("INSERT INTO image_location VALUES (?, ?)", [location, n])
    if not is_address(location):
        for name, query in parts.views(parts.files(location, n, folder)):
            con.execute(f"CREATE TEMP VIEW {name} AS {query}")


def _stored(column: tuple[str, str, str]) -> str:
    name, sql_type, _ = column
    return f"nullif({name}, '')" if sql_type == "VARCHAR" else name


def _check_names(con: duckdb.DuckDBPyConnection) -> None:
    """No two rows are called the same. (A primary key would say so, and hold an index of all names in memory.)"""
    again = con.execute("SELECT sample_id FROM images GROUP BY 1 HAVING count(*) > 1 LIMIT 1").fetchone()
    if again:
        raise ValueError(f"manifest: the sample_id {again[0]!r} is there twice")


def _check_duplicates(con: duckdb.DuckDBPyConnection) -> None:
    """A kept copy is a row of its own, and no duplicate. (A foreign key would say half of it, and slowly.)"""
    row = con.execute(
        "SELECT a.sample_id, a.duplicate_of FROM images a LEFT JOIN images b ON a.duplicate_of = b.sample_id "
        "WHERE a.duplicate_of IS NOT NULL AND (b.sample_id IS NULL OR b.duplicate_of IS NOT NULL) LIMIT 1"
    ).fetchone()
    if row:
        raise ValueError(f"manifest: {row[0]!r} is a duplicate of {row[1]!r}, which is missing or a duplicate itself")


def _publish(folder: Path, location: str | None) -> None:
    """Let the drafts take their places."""
    drafts = [(folder / file.replace("manifest", _DRAFT), folder / file) for file in _FILES]
    for draft, file in drafts:
        if draft.exists():
            atomic.sync(draft)
        else:  # images lie in parts
            file.unlink(missing_ok=True)
    for log in folder.glob("manifest.duckdb.wal*"):  # somebody else's changes to the old file must not meet the new one
        log.unlink()
    for draft, file in drafts:
        if draft.exists():
            atomic.replace(draft, file)
    _remove_old_parts(folder, location)


def _remove_old_parts(folder: Path, location: str | None) -> None:
    """All but the newest of the old ones, which somebody may be reading; none, while earlier manifests are kept."""
    old = [part for part in (folder / parts.FOLDER).glob("*") if part != folder / str(location)]
    if not any(folder.glob("earlier*.duckdb")):
        for part in sorted(old, key=lambda part: part.stat().st_mtime)[:-1]:
            atomic.remove(part)


def _remove_drafts(folder: Path) -> None:
    """Remove what this write, or one that was killed, has left unfinished."""
    for leftover in folder.glob(f"{_DRAFT}.*"):
        atomic.remove(leftover)


# --------------------------------------------------------------------------------------------------------- changing


@contextmanager
def held_to_change(run: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file opened once for all that is read and changed within. Errors as in `changing`."""
    with alone(run):
        with attached(run, to_change=True) as con:
            [(version,)] = con.execute("SELECT max(schema_version) FROM runs").fetchall()
            if not version or version >= SCHEMA_VERSION:
                yield con
                return
        _write_anew(run)
        with attached(run, to_change=True) as con:
            yield con


@contextmanager
def changing(run: Path, settle: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """One transaction on the manifest: on disk when it ends, nothing of it where an exception ends it.

    Without `settle` the change stays in DuckDB's log beside the file, which every DuckDB that opens the file reads:
    milliseconds at a million images, where writing it into the file takes a quarter of a second. A manifest of an older
    schema is brought up to date. Raises RunError where there is no manifest or others keep it open, ValueError where
    the change would contradict the schema's rules.
    """
    with held_to_change(run) as con:
        try:
            con.execute("PRAGMA disable_checkpoint_on_shutdown")
            con.execute("BEGIN")
            yield con
            con.execute("COMMIT")
            if settle:
                con.execute("CHECKPOINT")
        except (duckdb.ConstraintException, duckdb.ConversionException) as error:
            raise ValueError(f"the manifest would contradict itself: {brief(error)}") from error
        except (*FILE_FAULTS, duckdb.TransactionException) as error:  # the last: no room for COMMIT
            raise MachineError(f"cannot write {file_of(run)}: {brief(error)}") from error
        finally:
            roll_back(con)


def settle(run: Path) -> None:
    """Write what lies in the log into the file itself."""
    if Path(f"{file_of(run)}.wal").exists():
        with changing(run, settle=True):
            pass


def _write_anew(run: Path) -> None:
    """As a manifest of today's schema."""
    tables = {name: read(run, name) for name in TABLES}
    write(file_of(run).parent, tables | {"runs": tables["runs"].assign(schema_version=SCHEMA_VERSION)})


# ---------------------------------------------------------------------------------------------------------- reading


def read(folder: Path, table: str) -> "pd.DataFrame":
    """A whole table, in the order it was written, with the columns of `TABLES`; what `write` takes again.

    Verdicts are text. What an older manifest lacks is empty: a table, or a column. Raises RunError where there is no
    manifest, or one of another schema.
    """
    with attached(folder) as con, faults(folder):
        rows = _IN_ORDER if table == "images" and in_parts(con) else table
        return shared_texts(con, f"SELECT {_columns(con, folder, table)} FROM {rows}")


def take(folder: Path, rows: "np.ndarray", columns: Sequence[str]) -> "pd.DataFrame":
    """These columns of the rows of images of these numbers (m,), from 0, ascending; otherwise as `read`."""
    run = not len(rows) or int(rows[-1]) - int(rows[0]) == len(rows) - 1
    span, which = [int(rows[0]), int(rows[-1])] if len(rows) else [0, -1], "BETWEEN ? AND ?"
    with attached(folder) as con, faults(folder):
        asked = f"SELECT rowid, {_columns(con, folder, 'images')} FROM numbered_images"
        if not run:
            span, which = [rows.tolist()], "IN (SELECT unnest(?::BIGINT[]))"
        sql = f"SELECT {', '.join(columns)} FROM ({asked}) WHERE rowid {which} ORDER BY rowid"
        return con.execute(sql, span).df()


def rows(folder: Path, sql: str, values: Sequence[object] = ()) -> "pd.DataFrame":
    """The rows of a query of our own; otherwise as `read`."""
    with attached(folder) as con, faults(folder):
        return con.execute(sql, list(values)).df()


def _columns(con: duckdb.DuckDBPyConnection, folder: Path, table: str) -> str:
    """Those of `TABLES`, as SQL that selects them. Raises RunError where they are not there."""
    there = [name for name, *_ in con.execute(f"DESCRIBE {table}").fetchall()]
    new = [name for name in NEW_COLUMNS.get(table, ()) if name not in there]
    if [*there, *new] != [name for name, _, _ in TABLES[table]]:
        raise RunError(
            f"the table {table} of {file_of(folder)} has not the columns of this version of cleanweb "
            f"(schema {SCHEMA_VERSION}): run cleanweb fit --fresh, or use the version that wrote it"
        )
    verdicts = {name for name, sql_type, _ in TABLES[table] if sql_type.split()[0] == "verdict"}
    return ", ".join(
        f"NULL::VARCHAR AS {name}" if name in new else f"{name}::VARCHAR AS {name}" if name in verdicts else name
        for name, _, _ in TABLES[table]
    )


class Tables(Mapping[str, "pd.DataFrame"]):
    """The tables of a manifest by name, each read when somebody asks for it."""

    def __init__(self, run: Path):
        self.run = run

    def __getitem__(self, table: str) -> "pd.DataFrame":
        if table not in TABLES:
            raise KeyError(table)
        return read(self.run, table)

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)


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
    with opened(folder) as con:
        found = con.sql(f"SELECT * FROM numbered_images WHERE {condition}")
        if where:
            with faults(folder, f"in the condition {where!r}: "):
                found = found.filter(where)  # one expression, or DuckDB's parser refuses it
        return found.order("rowid").project("* EXCLUDE (rowid) REPLACE (verdict::VARCHAR AS verdict)").df()


def frame(folder: Path, sql: str) -> "pd.DataFrame":
    """The rows of one SQL query, as `query` runs it, in DuckDB's types for pandas."""
    with opened(folder) as con:
        _refuse_writing(con, sql)
        con.execute(sql)
        return con.df()


def query(folder: Path, sql: str, unsafe: bool = False) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Run one SQL query: (column names, rows). It can read the manifest and, unless `unsafe`, nothing else.

    The file is open, for reading, until the rows are used up. Raises UsageError, in DuckDB's own words, where the SQL
    is wrong, and RunError where there is no manifest.
    """
    con = connect(folder, unsafe=unsafe)
    try:
        with faults(folder):
            if not unsafe:
                _refuse_writing(con, sql)
                if len(con.extract_statements(sql)) > 1:
                    raise UsageError("these are several SQL statements, and one is answered: give them one by one")
            con.execute(sql)
            names = [column[0] for column in con.description or ()]
        if not names:
            raise UsageError("no SQL query given")
    except Exception:
        con.close()
        raise
    return names, _rows(folder, con)


def _refuse_writing(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Where images lie in parts, these files are open to SQL: it may read them, and not write them."""
    reading = ("SELECT", "EXPLAIN", "PRAGMA", "RELATION")
    if in_parts(con) and any(statement.type.name not in reading for statement in con.extract_statements(sql)):
        raise UsageError("this manifest lies in parts, which SQL can only read: give a SELECT")


def _rows(folder: Path, con: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    with closing(con), faults(folder):
        while batch := con.fetchmany(10_000):
            yield from batch

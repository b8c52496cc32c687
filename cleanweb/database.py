"""The manifest's DuckDB file: opened for a moment, to read or to change, while others may want it, too.

Who writes shuts out every other process, readers too: that is DuckDB. So everybody opens the file for some milliseconds
and waits a moment for the others. A run may be named by its folder or by its manifest.duckdb.

A DuckDB of its own takes 40 ms to start and end, at a million rows; to attach the file to one that runs takes 4. So our
own SQL goes through one that this process keeps (`attached`), and people's SQL through a locked one (`connect`).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from cleanweb import parts
from cleanweb.errors import MachineError, RunError, UsageError
from cleanweb.remote import bridge, is_address
from cleanweb.schema import MIGRATIONS, TABLES, definition, quoted

Connection = duckdb.DuckDBPyConnection

# A query may look at the manifest and at nothing else: no files, no network, no extensions.
_NO_EXTENSIONS: dict[str, Any] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}

_ELSEWHERE = "s3"  # the first of the stores that `bridge` reads: under its name DuckDB knows it
PATIENCE_S = 5.0  # how long to wait for another program that has the file open
# DuckDB's words: another process, or this one, has it open otherwise
_BUSY = ("set lock", "different configuration", "file handle conflict")
ADDED = {table for tables in MIGRATIONS.values() for table in tables}  # what an older manifest may lack

FILE_FAULTS = (duckdb.IOException, duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep every other cleanweb from changing this manifest, from reading what is there until a new one is written.

    Raises RunError where another one does not end within `PATIENCE_S`.
    """
    from filelock import FileLock, Timeout

    file = file_of(run)
    if not file.exists():
        raise _no_manifest(file)
    lock = FileLock(file.parent / ".manifest.lock", is_singleton=True, timeout=PATIENCE_S)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"another cleanweb is writing {file}; try again when it has finished") from None
    except OSError as error:
        raise MachineError(f"cannot write in {file.parent}: {brief(error)}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened(
    folder: Path, limit_s: float | None = None, memory: str | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that can only read, and DuckDB's errors in words. limit_s, memory ("1GB"): for what people ask, who
    may ask too much: UsageError where it takes more."""
    limits = {} if memory is None else {"memory_limit": memory, "temp_directory": ""}
    with closing(connect(folder, limits=limits)) as con, faults(folder):
        timer = None if limit_s is None else threading.Timer(limit_s, con.interrupt)
        try:
            if timer is not None:
                timer.start()
            yield con
        except duckdb.InterruptException:
            raise UsageError(f"This took more than {limit_s:g} s. Ask for less.") from None
        finally:
            if timer is not None:
                timer.cancel()


@contextmanager
def attached(run: Path, to_change: bool = False) -> Iterator[Connection]:
    """A connection for SQL of our own, to read or to change; RunError in words where there is no manifest.

    In a process one thread at a time has it. Within it, who asks again has the same: what belongs together opens the
    file once.
    """
    file = file_of(run)
    with _one_at_a_time:
        if _held:
            con, whose, changes = _held[0]
            assert (whose, changes or to_change) == (file, changes), "it is not held for that"
            yield con
            return
        with closing(_running().cursor()) as con:
            sql = f"ATTACH {quoted(str(file.absolute()))} AS run {'' if to_change else '(READ_ONLY)'}"
            with _words_of(file):
                _patiently(file, not to_change, lambda: con.execute(sql))
            _held.append((con, file, to_change))
            try:
                con.execute("USE run")
                _complete(con, file, to_change)
                yield con
            finally:
                _held.clear()
                _let_go(con)


_held: list[tuple[Connection, Path, bool]] = []  # by the thread that has `_one_at_a_time`


def roll_back(con: Connection) -> None:
    """Undo what was not committed."""
    with suppress(duckdb.Error):  # nothing is open, or the file is lost
        con.rollback()


def _let_go(con: Connection) -> None:
    roll_back(con)
    alive = False
    with suppress(duckdb.Error):  # after a fatal error, as of a full disk, a DuckDB does nothing any more
        con.execute("USE memory; DETACH run")
        alive = not con.filesystem_is_registered(_ELSEWHERE)  # which must not outlive the program
    if not alive:
        _running().close()
        _running.cache_clear()


_one_at_a_time = threading.RLock()


@cache
def _running() -> Connection:
    return duckdb.connect(config=_NO_EXTENSIONS)


def file_of(run: Path) -> Path:
    return run if run.suffix == ".duckdb" and not run.is_dir() else run / "manifest.duckdb"


def connect(run: Path, unsafe: bool = False, limits: Mapping[str, str] | None = None) -> Connection:
    """A connection to read, for any SQL; RunError in words where there is no manifest."""
    file = file_of(run)
    with _words_of(file):
        con = _patiently(file, True, lambda: duckdb.connect(str(file.absolute()), True,
                                                            _NO_EXTENSIONS | dict(limits or {})))  # fmt: skip
    try:
        _complete(con, file)
        if not unsafe:
            _lock(con, file)
    except Exception:
        con.close()
        raise
    return con


def _lock(con: Connection, file: Path) -> None:
    """From now on the manifest is seen, with its parts, and nothing else."""
    if in_parts(con):
        found = _parts(con, file)
        lost = next((part for part in found if not is_address(part) and not Path(part).exists()), None)
        if lost is not None:
            raise RunError(f"{file} keeps its images in parts, and {lost} is not there; run cleanweb fit --fresh")
        seen = dict.fromkeys((*found, *map(parts.pattern, found)))  # DuckDB asks for what it is told, and for the file
        con.execute(f"SET allowed_paths = [{', '.join(map(quoted, seen))}]")
    con.execute("SET enable_external_access = false; SET lock_configuration = true")


def _complete(con: Connection, file: Path, to_change: bool = False) -> None:
    """See to it that all tables are there: what an older manifest lacks is empty. RunError where it is none."""
    with _words_of(file):
        tables = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables() UNION SELECT view_name FROM "
                                                  "duckdb_views() WHERE NOT internal").fetchall()}  # fmt: skip
    missing = set(TABLES) - tables
    if missing - ADDED:
        raise RunError(f"{file} is a DuckDB file but no manifest: it has no table {min(missing - ADDED)}")
    for table in () if to_change else missing:
        con.execute(f"CREATE TEMP TABLE {table} ({definition(table)})")
    if not in_parts(con):
        con.execute("CREATE TEMP VIEW numbered_images AS SELECT rowid, * FROM images")
        return
    with _words_of(file):
        found = _parts(con, file)
        if is_address(found[0]):
            if not con.filesystem_is_registered(_ELSEWHERE):
                con.register_filesystem(bridge())
        elif all(Path(part).exists() for part in found):  # else the file's own views tell
            for name, query in parts.views(found):
                con.execute(f"CREATE TEMP VIEW {name} AS {query}")


def in_parts(con: Connection) -> bool:
    """Whether images is a view over Parquet parts."""
    found = con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'image_location'").fetchone()
    return found is not None


def _parts(con: Connection, file: Path) -> list[str]:
    [(location, n)] = con.execute("SELECT location, parts FROM image_location").fetchall()
    return parts.files(location, n, file.absolute().parent)


def _no_manifest(file: Path) -> RunError:
    if (file.parent / "unfinished").exists():
        return RunError(f"no manifest in {file.parent} yet: its run is unfinished. Give the same cleanweb fit again")
    return RunError(f"no manifest in {file.parent}; run cleanweb fit first or give --run")


@contextmanager
def _words_of(file: Path) -> Iterator[None]:
    """DuckDB's errors while opening, in words."""
    try:
        if not file.exists():
            raise _no_manifest(file)
        yield
    except (duckdb.Error, OSError) as error:
        broken = f"cannot read {file}; if it is damaged, run cleanweb fit --fresh"
        raise RunError(f"{broken} ({brief(error)})") from error


def _patiently(file: Path, read_only: bool, open_it: Callable[[], Connection]) -> Connection:
    """Open a DuckDB file, and wait a moment where others have it open."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return open_it()
        except duckdb.Error as error:
            if not any(words in str(error) for words in _BUSY):
                raise
            if time.monotonic() > deadline:
                how = " for writing" if read_only else ""
                words = f"another program has {file} open{how}; close it and try again ({brief(error)})"
                raise RunError(words) from error
        time.sleep(0.02)


@contextmanager
def faults(folder: Path, where: str = "") -> Iterator[None]:
    """DuckDB's errors while reading: the file's (RunError) or the SQL's (UsageError)."""
    try:
        yield
    except FILE_FAULTS as error:
        raise RunError(
            f"cannot read {file_of(folder)}; if it is damaged, run cleanweb fit --fresh ({brief(error)})"
        ) from error
    except duckdb.Error as error:
        raise UsageError(where + brief(error)) from error


def brief(error: Exception) -> str:
    """What DuckDB says, without the extract of the statement and the stack below it."""
    return " ".join(str(error).split("\n\n")[0].split())

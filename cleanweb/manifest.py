"""The manifest: everything the run has found, one row per sample. The only door to DuckDB.

    cleanweb-run/manifest.duckdb     images · classes · epochs · runs, and views on images
    cleanweb-run/manifest.csv        images again, for a spreadsheet
    cleanweb-run/manifest.parquet    images again, for pandas, Spark, polars …

The schema below is a contract: users write SQL against it. Every table, view and column carries its comment inside the
database (`DESCRIBE` and `duckdb_columns()` show them), and rules in the database refuse a row that contradicts itself.
The file has DuckDB's storage version 1.0.0, which every DuckDB since 1.0 opens.

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

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1  # changes with the columns of a table; every run stores the one it was written with

STORAGE_VERSION = "v1.0.0"  # the oldest there is: what DuckDB 2 writes by default, DuckDB 1 cannot open

# For each table its columns: (name, SQL type, comment).
TABLES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "images": (
        ("sample_id", "VARCHAR PRIMARY KEY", "The sample: its path, with #2, #3 … where a table names a path again"),
        ("path", "VARCHAR NOT NULL", "Path of the image, relative to the crawl where it lies inside it, else absolute"),
        ("status", "VARCHAR NOT NULL", "ok, or what is wrong with the row or its file: missing, truncated …"),
        ("error", "VARCHAR", "Why the status is not ok, in words"),
        ("format", "VARCHAR", "Image format as decoded, whatever the name says: JPEG, PNG, WEBP …"),
        ("width", "INTEGER", "Width in pixels, EXIF orientation applied"),
        ("height", "INTEGER", "Height in pixels, EXIF orientation applied"),
        ("bytes", "BIGINT", "Size of the image file in bytes"),
        ("sha256", "VARCHAR", "SHA-256 of the file's bytes, 64 hexadecimal digits"),
        ("phash", "VARCHAR", "64-bit perceptual hash, 16 hexadecimal digits: few bits differ where images look alike"),
        ("duplicate_of", "VARCHAR", "sample_id of the kept copy of the same picture; NULL where this is it"),
        ("given_label", "VARCHAR", "Label the crawl gave; NULL where it gave none"),
        ("verdict", "verdict NOT NULL", "clean: given label right; relabeled: another class; ood: no class; unusable"),
        ("suggested_label", "VARCHAR", "Label suggested instead of the given one; only where relabeled"),
        ("final_label", "VARCHAR", "Label to train on: the given if clean, the suggested if relabeled, else NULL"),
        ("p_clean", "FLOAT", "Probability that the given label is right; p_clean + p_id + p_ood = 1"),
        ("p_id", "FLOAT", "Probability that the image belongs to another of the classes"),
        ("p_ood", "FLOAT", "Probability that the image belongs to none of the classes"),
        ("confidence", "FLOAT", "Probability that the verdict, and the suggested label with it, is right"),
        ("needs_review", "BOOLEAN NOT NULL", "The evidence is thin: a person should look"),
        ("reason", "VARCHAR", "Why this verdict, in words"),
        ("js_clean", "FLOAT", "Likelihood of a clean label, 1 - Jensen-Shannon divergence of prediction and label"),
        ("view_disagreement", "FLOAT", "Share of pairs of augmented views whose predicted classes differ, in [0, 1]"),
        ("p_given", "FLOAT", "Probability the model gives the given label"),
        ("predicted_label", "VARCHAR", "The class the model finds most probable"),
        ("p_predicted", "FLOAT", "Probability the model gives the predicted label"),
        ("neighbour_agreement", "FLOAT", "Share of the nearest other images that carry the given label, in [0, 1]"),
        ("neighbour_similarity", "FLOAT", "Mean cosine similarity to the nearest other images, in [-1, 1]"),
        ("duplicate_kind", "VARCHAR", "exact: same pixels; near: looks the same; NULL where duplicate_of is"),
        ("note", "VARCHAR", "What else is worth knowing of the file: wrong extension, animated …"),
        ("file", "VARCHAR", "Absolute path of the file that holds the image; NULL where there is none"),
        ("row_in_file", "BIGINT", "Row of the Parquet file that embeds the image; NULL where the file is the image"),
    ),
    "classes": (
        ("label", "VARCHAR PRIMARY KEY", "The class"),
        ("images", "BIGINT NOT NULL", "Images given this label"),
        ("clean", "BIGINT NOT NULL", "of these: the label is right"),
        ("relabeled_away", "BIGINT NOT NULL", "of these: another class is suggested"),
        ("relabeled_into", "BIGINT NOT NULL", "Images given another label for which this class is suggested"),
        ("ood", "BIGINT NOT NULL", "Images given this label that belong to none of the classes"),
        ("unusable", "BIGINT NOT NULL", "Images given this label that cannot be used"),
        ("noise_rate", "FLOAT", "Estimated share of usable images given this label whose label is wrong, in [0, 1]"),
    ),
    "epochs": (
        ("stage", "VARCHAR NOT NULL", "train: learning from the noisy labels; classifier: from the final labels"),
        ("epoch", "INTEGER NOT NULL", "Epoch of the stage, as the training loop counts it"),
        ("loss", "DOUBLE", "Mean training loss; NULL where there was none"),
        ("tau", "DOUBLE", "Threshold above which a label counts as clean; NULL where the method has none"),
        ("n_clean", "BIGINT", "Samples treated as clean; NULL where the method does not select"),
        ("n_id", "BIGINT", "Samples treated as belonging to another class"),
        ("n_ood", "BIGINT", "Samples treated as belonging to no class"),
        ("lr", "DOUBLE", "Learning rate"),
        ("seconds", "DOUBLE", "Time the epoch took, in seconds"),
    ),
    "runs": (
        ("run_id", "VARCHAR PRIMARY KEY", "The run"),
        ("started_at", "TIMESTAMP", "Start, UTC"),
        ("finished_at", "TIMESTAMP", "End, UTC"),
        ("source", "VARCHAR", "Crawl folder or table that was given"),
        ("labels", "VARCHAR", "Table of labels that was given; NULL where folders are the labels"),
        ("root", "VARCHAR", "Folder that relative paths start from"),
        ("settings", "VARCHAR", "All settings of the run, JSON"),
        ("versions", "VARCHAR", "Versions of Python and of the libraries used, JSON"),
        ("seed", "BIGINT", "Seed of every random choice"),
        ("fingerprint", "VARCHAR", "Hash of the samples and their labels: the same crawl has the same"),
        ("seconds", "DOUBLE", "Time the run took, in seconds"),
        ("cleanweb_version", "VARCHAR", "Version of cleanweb"),
        ("schema_version", "INTEGER", "Version of the tables of this file"),
    ),
}

# Rounding may carry a probability a hair beyond its range; that is no reason to lose a run.
_SHARE = "{0} BETWEEN -1e-6 AND 1 + 1e-6"

_VERDICT_RULE = """CASE verdict
    WHEN 'clean' THEN final_label IS NOT NULL AND final_label IS NOT DISTINCT FROM given_label
                      AND suggested_label IS NULL
    WHEN 'relabeled' THEN suggested_label IS NOT NULL AND final_label IS NOT DISTINCT FROM suggested_label
                          AND suggested_label IS DISTINCT FROM given_label
    ELSE final_label IS NULL AND suggested_label IS NULL END"""

_SHARES = ("p_clean", "p_id", "p_ood", "confidence", "js_clean", "view_disagreement", "p_given", "p_predicted")

# What no row may contradict. A comparison with NULL passes.
RULES: dict[str, tuple[str, ...]] = {
    "images": (
        _VERDICT_RULE,
        *(_SHARE.format(name) for name in (*_SHARES, "neighbour_agreement")),
        "(p_clean IS NULL) = (p_id IS NULL) AND (p_clean IS NULL) = (p_ood IS NULL)",
        "abs(p_clean + p_id + p_ood - 1) < 1e-3",
        "duplicate_of <> sample_id",
        "(duplicate_of IS NULL) = (duplicate_kind IS NULL) AND duplicate_kind IN ('exact', 'near')",
        "length(sha256) = 64",
        "length(phash) = 16",
    ),
    "classes": (_SHARE.format("noise_rate"),),
    "epochs": ("stage IN ('train', 'classifier')",),
    "runs": (),
}

# Which rows of images `cleanweb export --only …` hands over; each is a view.
SELECTIONS: dict[str, tuple[str, str]] = {
    "clean": ("verdict = 'clean'", "Images whose given label is right"),
    "relabeled": ("verdict = 'relabeled'", "Images that belong to another class: see suggested_label"),
    "ood": ("verdict = 'ood'", "Images that belong to none of the classes"),
    "unusable": ("verdict = 'unusable'", "Images that cannot be used: see reason"),
    "trainable": ("final_label IS NOT NULL AND duplicate_of IS NULL", "Images with a final_label, one per picture"),
}

_TRANSITIONS = """SELECT given_label, suggested_label, count(*) AS images FROM images WHERE verdict = 'relabeled'
    GROUP BY given_label, suggested_label ORDER BY images DESC, given_label, suggested_label"""

_COMMENTS = {
    "images": "One row per sample of the crawl: what its file is, what was concluded, and the evidence",
    "classes": "One row per class: counts, and how noisy its labels are",
    "epochs": "One row per epoch of training",
    "runs": "One row: how this manifest was made",
    "transitions": "How many images each given label lost to each suggested label, most frequent first",
}

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
        con.execute(f"ATTACH {_quoted(draft + '.duckdb')} AS manifest (STORAGE_VERSION '{STORAGE_VERSION}')")
        con.execute("USE manifest")
        con.execute(f"BEGIN; {'; '.join(_schema())}; COMMIT")  # each on its own would wait for the disk
        for name, frame in frames.items():
            con.register("frame", frame)
            con.execute(f"INSERT INTO {name} SELECT {', '.join(map(_stored, TABLES[name]))} FROM frame")
            con.unregister("frame")
        _check_duplicates(con)
        con.execute(f"COPY ({_IMAGES}) TO {_quoted(draft + '.csv')} (FORMAT csv, HEADER)")
        con.execute(f"COPY ({_IMAGES}) TO {_quoted(draft + '.parquet')} (FORMAT parquet, COMPRESSION zstd)")
        con.execute("USE memory")
        con.execute("DETACH manifest")  # writes the log into the file and removes it


def _schema() -> Iterator[str]:
    """The statements that make an empty manifest."""
    yield f"CREATE TYPE verdict AS ENUM ({', '.join(repr(name) for name in SELECTIONS if name != 'trainable')})"
    comments = dict(_COMMENTS)
    for table, columns in TABLES.items():
        parts = [f"{name} {sql_type}" for name, sql_type, _ in columns] + [f"CHECK ({rule})" for rule in RULES[table]]
        yield f"CREATE TABLE {table} ({', '.join(parts)})"
        yield from (_comment(f"COLUMN {table}.{name}", comment) for name, _, comment in columns)
    for view, (condition, comment) in SELECTIONS.items():
        comments[view] = comment
        yield f"CREATE VIEW {view} AS SELECT * FROM images WHERE {condition}"
        yield from (_comment(f"COLUMN {view}.{name}", comment) for name, _, comment in TABLES["images"])
    yield f"CREATE VIEW transitions AS {_TRANSITIONS}"
    yield _comment("COLUMN transitions.given_label", "Label the crawl gave")
    yield _comment("COLUMN transitions.suggested_label", "Label suggested instead")
    yield _comment("COLUMN transitions.images", "Images relabeled from the one to the other")
    yield from (_comment(f"{'TABLE' if n in TABLES else 'VIEW'} {n}", comment) for n, comment in comments.items())


def _comment(on: str, text: str) -> str:
    return f"COMMENT ON {on} IS {_quoted(text)}"


def _quoted(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


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

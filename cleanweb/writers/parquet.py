"""A Parquet table of labels. Zstandard, row order kept.

Written by DuckDB's file writer, which spares the dependency on pyarrow (170 MB): with `readers/table.py` the second
exception to the rule that only `manifest.py` talks to DuckDB. No database is opened.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from cleanweb import writers
from cleanweb.errors import MachineError

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ".parquet"
LABELLED = False

# The types are named here: a column without a single value has none of its own.
_TYPES = dict.fromkeys(writers.COLUMNS, "VARCHAR") | {"confidence": "FLOAT", "row_in_file": "BIGINT"}


def write(export: writers.Export) -> int:
    """Write the rows to the file `out`; returns how many."""
    table = export.rows[writers.columns(export.rows)]
    columns = ", ".join(f"{name}::{_TYPES[name]} AS {name}" for name in table.columns)
    with writers.draft(export.out) as unfinished:
        store(table, columns, unfinished)
    return len(export.rows)


def store(table: "pd.DataFrame", columns: str, file: Path) -> None:
    """The table as a Parquet file. columns: what to select of it, SQL. Raises MachineError where the disk refuses."""
    with duckdb.connect() as con:
        con.register("frame", table)
        target = str(file).replace("'", "''")
        try:
            con.execute(f"COPY (SELECT {columns} FROM frame) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        except duckdb.IOException as error:
            raise MachineError(f"cannot write {file}: {error}") from error

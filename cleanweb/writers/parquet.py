"""A Parquet table of labels: path, label, verdict, given_label, confidence, sample_id, file. Zstandard, row order kept.

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


def write(rows: "pd.DataFrame", out: Path, link: str, read_bytes: writers.ReadBytes) -> int:
    """Write rows of the manifest's images to the file `out`; returns how many."""
    # The types are named here: a column without a single value has none of its own.
    types = dict.fromkeys(writers.COLUMNS, "VARCHAR") | {"confidence": "FLOAT"}
    columns = ", ".join(f"{name}::{sql_type} AS {name}" for name, sql_type in types.items())
    with writers.draft(out) as unfinished, duckdb.connect() as con:
        con.register("frame", writers.table(rows))
        target = str(unfinished).replace("'", "''")
        try:
            con.execute(f"COPY (SELECT {columns} FROM frame) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        except duckdb.IOException as error:
            raise MachineError(f"cannot write {out}: {error}") from error
    return len(rows)

"""A CSV table of labels: path, label, verdict, given_label, confidence, sample_id, file. UTF-8, line feeds."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cleanweb import writers

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ".csv"


def write(rows: "pd.DataFrame", out: Path, link: str, read_bytes: writers.ReadBytes) -> int:
    """Write rows of the manifest's images to the file `out`; returns how many."""
    with writers.draft(out) as unfinished, unfinished.open("x", encoding="utf-8", newline="") as stream:
        write_stream(rows, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return len(rows)


def write_stream(rows: "pd.DataFrame", stream: TextIO) -> None:
    """Write rows of the manifest's images to a stream of text, such as standard output."""
    writers.to_csv(writers.table(rows), stream)

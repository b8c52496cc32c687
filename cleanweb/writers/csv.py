"""A CSV table of labels. UTF-8, line feeds; text that a spreadsheet would run is guarded (`spreadsheet.py`)."""

from typing import TextIO

from cleanweb import spreadsheet, writers

SUFFIX = ".csv"
LABELLED = False


def write(export: writers.Export) -> int:
    """Write the rows to the file `out`; returns how many."""
    return writers.write_text(export, write_stream)


def write_stream(export: writers.Export, stream: TextIO) -> None:
    """Write the rows to a stream of text, such as standard output."""
    spreadsheet.write(*writers.table(export.rows), stream)

"""A table of labels as JSON lines, UTF-8: an object a line, null for no value."""

import json
from typing import TextIO

from cleanweb import writers

SUFFIX = ".jsonl"
LABELLED = False


def write(export: writers.Export) -> int:
    """Write the rows to the file `out`; returns how many."""
    return writers.write_text(export, write_stream)


def write_stream(export: writers.Export, stream: TextIO) -> None:
    """Write the rows to a stream of text, such as standard output."""
    columns, rows = writers.table(export.rows)
    stream.writelines(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)

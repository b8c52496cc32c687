"""What a manifest knows of its rows: `known.Known` for a decision that is taken again."""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cleanweb import manifest
from cleanweb.known import COLUMNS
from cleanweb.packed import Samples
from cleanweb.records import Sample

_NUMBERS = """WITH label AS (SELECT given_label, row_number() OVER (ORDER BY given_label) - 1 AS place
                             FROM (SELECT DISTINCT given_label FROM images WHERE given_label IS NOT NULL)),
    kept AS (SELECT rowid, sample_id FROM numbered_images
             WHERE sample_id IN (SELECT duplicate_of FROM images WHERE duplicate_of IS NOT NULL))
    SELECT coalesce(label.place, -1)::INTEGER AS given, coalesce(kept.rowid, i.rowid) AS kept
    FROM numbered_images i LEFT JOIN label USING (given_label) LEFT JOIN kept ON i.duplicate_of = kept.sample_id
    ORDER BY i.rowid"""
_NAMES, _STEP = ("sample_id", "path", "file", "row_in_file", "given_label"), 100_000
_LABELS = "SELECT DISTINCT given_label FROM images WHERE given_label IS NOT NULL ORDER BY 1"


class Written:
    """The rows of a manifest, read from it when they are asked for."""

    def __init__(self, run: Path) -> None:
        """Raises RunError where there is no manifest."""
        self.run = run
        with manifest.attached(run) as con:
            self.labels = [label for (label,) in con.execute(_LABELS).fetchall()]
            numbers = con.execute(_NUMBERS).fetchnumpy()
        self.given, self.kept = np.asarray(numbers["given"]), np.asarray(numbers["kept"])

    def take(self, rows: np.ndarray) -> pd.DataFrame:
        return manifest.take(self.run, rows, COLUMNS)

    def rows_of(self, sample_ids: Collection[str]) -> dict[str, int]:
        with manifest.attached(self.run) as con:
            found = con.execute("SELECT sample_id, rowid FROM numbered_images WHERE sample_id IN (SELECT unnest(?))",
                                [[*sample_ids]])  # fmt: skip
            return dict(found.fetchall())

    def samples(self) -> Samples:
        """The rows as samples: where they lie and what they were given, without what is told of their files."""
        steps = range(0, len(self.given), _STEP)
        return Samples(sample for first in steps for sample in self._samples(first))

    def _samples(self, first: int) -> Iterator[Sample]:
        part = manifest.take(self.run, np.arange(first, min(first + _STEP, len(self.given))), _NAMES)
        part = part.astype(object).where(part.notna(), None)
        for sample_id, path, file, row, label in part.itertuples(index=False):
            yield Sample(sample_id, path, file or "", None if row is None else int(row), label)

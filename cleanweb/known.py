"""What is known of every row of a crawl before anything is judged: the first columns of the table images.

For all rows at once there are numbers alone, 13 bytes a row; texts are made of some rows at a time.
"""

from collections.abc import Collection
from typing import Protocol

import numpy as np
import pandas as pd

from cleanweb.packed import FactsOf, Samples, hexadecimal
from cleanweb.records import COPIES, Status

COLUMNS = ("sample_id", "path", "status", "error", "format", "width", "height", "bytes", "sha256", "phash",
            "duplicate_of", "duplicate_kind", "given_label", "note", "file", "row_in_file", "url",
            "downloaded_sha256")  # fmt: skip
_KINDS = np.array([kind or None for kind in COPIES], object)


class Known(Protocol):
    """The n rows of a crawl, wherever they are kept."""

    labels: list[str]  # every label that any row was given
    given: np.ndarray  # (n,) int32: each row's place among them, −1 where none was given
    kept: np.ndarray  # (n,) int64: the row of each one's kept copy; its own, where it is no copy

    def take(self, rows: np.ndarray) -> pd.DataFrame:
        """The known columns of the rows of these numbers, ascending; None or NaN where there is nothing."""
        ...

    def rows_of(self, sample_ids: Collection[str]) -> dict[str, int]:
        """The row of each of these, of those that there are."""
        ...


class Crawled:
    """`Known`, from samples and facts."""

    def __init__(self, samples: Samples, facts: FactsOf, kept: np.ndarray, kind: np.ndarray) -> None:
        """kept (n,) and kind (n,): the index of each sample's kept copy, and what kind of copy it is, of `COPIES`."""
        self.samples, self.facts, self.kept, self.kind = samples, facts, kept, kind
        self.labels, self.given = samples.labels()

    def take(self, rows: np.ndarray) -> pd.DataFrame:
        of, seen, kinds = self.samples.columns(rows), self.facts.columns(rows), self.kind[rows]
        copies = np.flatnonzero(kinds)
        kept = np.full(len(rows), None, object)
        kept[copies] = self.samples.columns(self.kept[rows[copies]])["sample_id"]
        columns = {
            "sample_id": of["sample_id"],
            "path": of["path"],
            "status": np.where(of["status"] == Status.OK.value, seen["status"], of["status"]),
            "error": np.where(pd.isna(seen["error"]), of["note"], seen["error"]),
            "format": seen["format"],
            "width": _numbers(seen["width"], seen["width"] == 0),
            "height": _numbers(seen["height"], seen["height"] == 0),
            "bytes": _numbers(seen["bytes"], pd.isna(seen["sha256"])),
            "sha256": seen["sha256"],
            "phash": hexadecimal(seen["phash"].astype(">u8"), pd.notna(seen["pixel_digest"])),
            "duplicate_of": kept,
            "duplicate_kind": _KINDS[kinds],
            "given_label": of["given_label"],
            "note": seen["note"],
            "file": of["file"],
            "row_in_file": _numbers(of["row"], of["row"] == -1),
            "url": of["url"],
            "downloaded_sha256": of["sha256"],
        }
        return pd.DataFrame({name: pd.Series(columns[name], dtype=object if columns[name].dtype == object else None)
                             for name in COLUMNS})  # fmt: skip

    def rows_of(self, sample_ids: Collection[str]) -> dict[str, int]:
        wanted = set(sample_ids)
        if not wanted:
            return {}
        return {sample.sample_id: i for i, sample in enumerate(self.samples) if sample.sample_id in wanted}


def _numbers(values: np.ndarray, missing: np.ndarray) -> pd.arrays.IntegerArray:
    """Whole numbers, some of them missing, in nine bytes each."""
    return pd.arrays.IntegerArray(values.astype(np.int64), missing)

"""What is known of every row of a crawl before anything is judged: the first columns of the table images.

For all rows at once there are numbers alone, 13 bytes a row; texts are made of some rows at a time.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from cleanweb.records import ImageFacts, Sample, Status

COLUMNS = ("sample_id", "path", "status", "error", "format", "width", "height", "bytes", "sha256", "phash",
            "duplicate_of", "duplicate_kind", "given_label", "note", "file", "row_in_file", "url",
            "downloaded_sha256")  # fmt: skip
_WHOLE = ("width", "height", "bytes", "row_in_file")
_KINDS = ("", "exact", "near")


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

    def __init__(
        self, samples: Sequence[Sample], facts: Sequence[ImageFacts], kept: np.ndarray, kind: Iterable[str]
    ) -> None:
        """kept (n,) and kind (n): the index of each sample's kept copy, and what kind of copy it is."""
        self.samples, self.facts, self.kept = samples, facts, kept
        self.kind = np.fromiter(map(_KINDS.index, kind), np.uint8, len(kept))
        place: dict[str, int] = {}
        labels = (-1 if (of := s.given_label) is None else place.setdefault(of, len(place)) for s in samples)
        self.given = np.fromiter(labels, np.int32, len(samples))
        self.labels = [*place]

    def take(self, rows: np.ndarray) -> pd.DataFrame:
        columns = list(zip(*map(self._row, rows.tolist()), strict=True)) or [()] * len(COLUMNS)
        return pd.DataFrame({
            name: _numbers(values) if name in _WHOLE else pd.Series(values, dtype=object)
            for name, values in zip(COLUMNS, columns, strict=True)
        })  # fmt: skip

    def _row(self, i: int) -> tuple[Any, ...]:
        """As in `COLUMNS`."""
        sample, fact, kind = self.samples[i], self.facts[i], _KINDS[self.kind[i]]
        at_fault = fact.status if sample.status == Status.OK else sample.status
        return (
            sample.sample_id,
            sample.path,
            at_fault.value,
            fact.error or sample.note or None,
            fact.format or None,
            fact.width or None,
            fact.height or None,
            fact.bytes if fact.sha256 else None,
            fact.sha256 or None,
            f"{fact.phash:016x}" if fact.pixel_digest else None,
            self.samples[self.kept[i]].sample_id if kind else None,
            kind or None,
            sample.given_label,
            fact.note or None,
            sample.file or None,
            sample.row,
            sample.url or None,
            sample.sha256 or None,
        )

    def rows_of(self, sample_ids: Collection[str]) -> dict[str, int]:
        wanted = set(sample_ids)
        if not wanted:
            return {}
        return {sample.sample_id: i for i, sample in enumerate(self.samples) if sample.sample_id in wanted}


def _numbers(values: Sequence[int | None]) -> pd.Series:
    """Whole numbers, some of them missing, in nine bytes each."""
    missing = np.array([value is None for value in values], bool)
    known = np.fromiter((value or 0 for value in values), np.int64, len(values))
    return pd.Series(pd.arrays.IntegerArray(known, missing))

"""Labels that a person has verified: a table of paths and labels, where an empty label says "none of the classes"."""

from collections.abc import Mapping, Sequence
from importlib import import_module

import numpy as np

from cleanweb.errors import CrawlError, UsageError
from cleanweb.readers import READERS, Place, absolute
from cleanweb.records import NO_CLASS, UNVERIFIED, Sample


def read_trusted(table: Place, samples: Sequence[Sample], root: Place) -> dict[int, str | None]:
    """Sample index → verified label, None where the image belongs to none of the classes. root: the crawl folder, where
    relative paths start. Raises UsageError where the table and the crawl do not fit together."""
    table = absolute(table)
    if not table.is_file():
        raise CrawlError(f"Nothing found at {table}: looked for the verified labels there. Check the spelling.")
    rows = import_module(READERS["table"]).listed(table, root)
    return matched(table, [(row.path, row.given_label) for row in rows], samples)


def matched(
    source: Place, labels: Sequence[tuple[str, str | None]], samples: Sequence[Sample]
) -> dict[int, str | None]:
    """Sample index → label of these paths and labels that `source` names. Raises UsageError where they do not fit."""
    named, index = {path for path, _ in labels}, dict[str, int]()
    for i, sample in enumerate(samples):
        if sample.path in named:
            index.setdefault(sample.path, i)
    unknown = [path for path, _ in labels if path not in index]
    if unknown:
        raise UsageError(f"{source} names {len(unknown)} of {len(labels)} paths that the crawl does not, as "
                         f"{unknown[0]}.")  # fmt: skip
    label_of = dict(labels)
    again = [path for path, label in labels if label != label_of[path]]
    if again:
        raise UsageError(f"{source} gives two labels to {again[0]}.")
    known = {sample.given_label for sample in samples}
    strange = sorted({label for _, label in labels if label is not None} - known)
    if strange:
        raise UsageError(f"{source} has the label {strange[0]!r}, which is none of the crawl's. An empty label says "
                         "that an image belongs to none of the classes.")  # fmt: skip
    return {index[path]: label for path, label in label_of.items()}


def trusted_classes(
    people: Mapping[int, str | None], kept: np.ndarray, scored: np.ndarray, classes: list[str]
) -> np.ndarray:
    """What people have verified of the scored samples, as in Scores.verified: (m,) int64. What was said of a copy holds
    for its picture."""
    place: dict[str | None, int] = {label: i for i, label in enumerate(classes)}
    seen = {int(kept[i]): place.get(label, NO_CLASS) for i, label in people.items()}
    return np.array([seen.get(int(i), UNVERIFIED) for i in scored], np.int64)

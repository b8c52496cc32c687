"""Labels that a person has verified: a table of paths and labels, where an empty label says "none of the classes"."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from cleanweb.errors import CrawlError, UsageError
from cleanweb.labelrows import columns_of
from cleanweb.readers import READERS, Place, absolute
from cleanweb.records import NO_CLASS, UNVERIFIED, Sample


@dataclass(frozen=True, slots=True)
class Seen:
    """What a person said of a picture."""

    path: str
    label: str | None  # None: none of the classes
    at: tuple[str, int | None] | None = None  # the file it lies in and where: paths may repeat. None: nothing is known


def read_trusted(table: Place, samples: Sequence[Sample], root: Place) -> dict[int, str | None]:
    """Sample index → verified label, None where the image belongs to none of the classes. root: the crawl folder, where
    relative paths start. Raises UsageError where the table and the crawl do not fit together."""
    table = absolute(table)
    if not table.is_file():
        raise CrawlError(f"Nothing found at {table}: looked for the verified labels there. Check the spelling.")
    if {"sample_id", "given_label", "verdict"} <= {*columns_of(table)}:
        raise UsageError(f"{table} is a manifest: its given_label is what the crawl says, and nobody has verified it. "
                         "Give the run folder for what people decided, or a table of paths and labels.")  # fmt: skip
    rows = import_module(READERS["table"]).listed(table, root)
    return matched(table, [Seen(row.path, row.given_label) for row in rows], samples)


def matched(source: Place, seen: Sequence[Seen], samples: Sequence[Sample]) -> dict[int, str | None]:
    """Sample index → label of what people have seen, as `source` says. Raises UsageError where the two do not fit."""
    named = {one.path for one in seen}
    pictures: dict[str, dict[tuple[str, int | None], int]] = defaultdict(dict)
    for i, sample in enumerate(samples):
        if sample.path in named:
            pictures[sample.path].setdefault((sample.file, sample.row), i)
    unknown = [one.path for one in seen if one.path not in pictures]
    if unknown:
        raise UsageError(f"{source} names {len(unknown)} of {len(seen)} paths that the crawl does not, as "
                         f"{unknown[0]}.")  # fmt: skip
    known = {sample.given_label for sample in samples}
    strange = sorted({one.label for one in seen if one.label is not None} - known)
    if strange:
        raise UsageError(f"{source} has the label {strange[0]!r}, which is none of the crawl's. An empty label says "
                         "that an image belongs to none of the classes.")  # fmt: skip
    labels: dict[int, str | None] = {}
    for one in seen:
        if labels.setdefault(_meant(source, one, pictures[one.path]), one.label) != one.label:
            raise UsageError(f"{source} gives two labels to {one.path}.")
    return labels


def _meant(source: Place, one: Seen, pictures: Mapping[tuple[str, int | None], int]) -> int:
    """Which of the pictures of its path."""
    if len(pictures) == 1:
        return next(iter(pictures.values()))
    if one.at is None or one.at not in pictures:
        raise UsageError(f"{source} names {one.path}, and {len(pictures)} pictures of the crawl are called that: which "
                         "of them is meant cannot be told.")  # fmt: skip
    return pictures[one.at]


def trusted_classes(
    people: Mapping[int, str | None], kept: np.ndarray, scored: np.ndarray, classes: list[str]
) -> np.ndarray:
    """What people have verified of the scored samples, as in Scores.verified: (m,) int64. What was said of a copy holds
    for its picture. Raises UsageError where it says two things of one picture, or names a class without pictures."""
    place: dict[str | None, int] = {None: NO_CLASS, **{label: i for i, label in enumerate(classes)}}
    seen: dict[int, int] = {}
    for i, label in people.items():
        if label not in place:
            raise UsageError(f"The verified label {label!r} is none of the classes: no picture of it can be used.")
        if seen.setdefault(int(kept[i]), place[label]) != place[label]:
            raise UsageError(f"Verified labels contradict each other: of copies of one picture one is {label!r}, and "
                             "another is not. `cleanweb sql` tells copies by duplicate_of.")  # fmt: skip
    return np.array([seen.get(int(i), UNVERIFIED) for i in scored], np.int64)

"""Labels that a table gives to images of shards by a name of theirs: key, member, path in the crawl, or web address."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cleanweb.columns import choose
from cleanweb.errors import UsageError
from cleanweb.labelrows import Row, columns_of, rows
from cleanweb.packed import Samples
from cleanweb.readers import SAME_LABEL_AGAIN, Namings, Place, printable
from cleanweb.records import CLOSED, Sample, Status

_KEYS = ("key", "__key__")  # what a table of keys calls their column


def labelled(
    samples: Sequence[Sample], names: Iterable[Iterable[str]], table: Place, given: tuple[str | None, str | None],
    namings: Namings,
) -> Samples:  # fmt: skip
    """The samples with the labels of a table instead of their own, and a row for every one of its rows that means none
    of them, or one that has been named. names: of each sample. given: the table's columns of names and of labels, where
    the user says them. Raises UsageError where a name means several samples."""
    index = _index(names)
    found = list(samples)
    again: list[Sample] = []
    named: set[int] = set()
    for row in rows(table, given[0] or _key_column(table), given[1], with_images=False):
        name = printable(row.path).removeprefix("./")
        i = index.get(name.replace("\\", "/"), index.get(name))
        if i is None:
            again.append(Sample(namings.sample_id(name), name, "", None, row.label, Status.MISSING,
                                "no image of the shards has this name"))  # fmt: skip
        elif i < 0:
            raise UsageError(f"{table} names {name!r}, which is a key in several shards. Write shard.tar/{name}.")
        elif i in named and (row.label is None or found[i].given_label is not None):
            again.append(_again(found[i], row, namings))
        else:
            found[i] = _with(found[i], row)
            named.add(i)
    made = Samples(sample if i in named else _unlisted(sample) for i, sample in enumerate(found))
    made.extend(again)
    return made


def _index(names: Iterable[Iterable[str]]) -> dict[str, int]:
    """name → which sample; −1 where it means several."""
    index: dict[str, int] = {}
    for i, own in enumerate(names):
        for name in own:
            index[name] = i if index.get(name, i) == i else -1
    return index


def _key_column(table: Place) -> str | None:
    there = columns_of(table)
    found = next((name for name in _KEYS if name in there), None)
    try:
        return found or choose(there, "path", None, table)
    except UsageError:
        return "url" if "url" in there else None


def _with(sample: Sample, row: Row) -> Sample:
    if sample.status in CLOSED:
        return replace(sample, given_label=row.label)
    status, note = (Status.UNLABELED, row.why) if row.label is None else (Status.OK, "")
    return replace(sample, given_label=row.label, status=status, note=note)


def _again(first: Sample, row: Row, namings: Namings) -> Sample:
    """A further row that means an image. One without a label repeats the first as well: a place in a shard is opened
    for one row."""
    if row.label is None:
        status, note = Status.REPEATED, "the table names this again, with an empty label"
    elif row.label == first.given_label:
        status, note = Status.REPEATED, SAME_LABEL_AGAIN
    else:
        status, note = Status.CONFLICTING, f"the table names this again; it was labeled {first.given_label!r} before"
    return replace(first, sample_id=namings.sample_id(first.path), given_label=row.label, status=status, note=note)


def _unlisted(sample: Sample) -> Sample:
    if sample.status in CLOSED:
        return replace(sample, given_label=None)
    return replace(sample, given_label=None, status=Status.UNLISTED, note="no row of the table names this image")

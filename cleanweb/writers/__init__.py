"""What we hand over: the shelf of writers.

A writer is a module, named once in `WRITERS`, with

    SUFFIX            what its files end in, "" for a folder
    LABELLED          whether it can hand over labelled images only; others are left out before it is called
    SPLIT             if it needs the images split: how, where nothing is asked for
    check(export)     if not everything suits it: raises UsageError before anything is written
    write(export)     writes the rows of an `Export` to its `out`, returns how many of them it wrote

A writer of a table writes every row. Any other writes the images that `export.readable()` yields, files or bytes from
Parquet, and leaves out the rest. An export is complete or absent, and never overwrites: a writer builds it in the
`draft` of `out`. What images and labels are called comes from the web: no text of theirs becomes a path but through
`safenames`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from cleanweb import placing
from cleanweb.drafts import draft as draft
from cleanweb.errors import UsageError
from cleanweb.records import Progress, silent
from cleanweb.settings import LINKS

if TYPE_CHECKING:
    import pandas as pd

WRITERS: dict[str, str] = {
    "csv": "cleanweb.writers.csv",
    "jsonl": "cleanweb.writers.jsonl",
    "parquet": "cleanweb.writers.parquet",
    "imagefolder": "cleanweb.writers.imagefolder",
    "huggingface": "cleanweb.writers.huggingface",
    "webdataset": "cleanweb.writers.webdataset",
    "yolo": "cleanweb.writers.yolo",
    "coco": "cleanweb.writers.coco",
    "fiftyone": "cleanweb.writers.fiftyone",
    "labelstudio": "cleanweb.writers.labelstudio",
}
TABLES = ("csv", "jsonl", "parquet")  # they name images and hand over none

# The columns of an exported table; `split` is there only where the images are split.
COLUMNS = ("path", "label", "split", "verdict", "given_label", "confidence", "sample_id", "file", "row_in_file")

# The position of a row, and its image: the file, or the bytes where Parquet embeds it. Only those that can be read.
Contents = Iterator[tuple[int, Path | bytes]]


class Image(NamedTuple):
    """One row, as a writer of images sees it; None where there is no value."""

    sample_id: str
    path: str
    label: str | None
    split: str | None
    verdict: str
    given_label: str | None
    confidence: float | None
    format: str | None
    width: int | None
    height: int | None


@dataclass(frozen=True)
class Export:
    """What is handed over, where to, and how."""

    rows: "pd.DataFrame"  # of the manifest's images, with the columns `label` and `split`: see `labelled`
    out: Path
    link: str = "copy"
    contents: "Callable[[pd.DataFrame], Contents]" = field(default=lambda rows: iter(()))
    progress: Progress = silent
    splits: tuple[str, ...] = ()  # the names of the splits, empty ones too; none where the images are not split

    def images(self) -> list[Image]:
        """The rows in their order."""
        rows = self.rows.assign(confidence=[*map(_rounded, values(self.rows["confidence"]))])
        return [Image(*row) for row in zip(*(values(rows[name]) for name in Image._fields), strict=True)]

    def readable(self) -> Contents:
        """The position of every row whose image can be read, with the image, in whatever order is fast."""
        total = len(self.rows)
        for done, item in enumerate(self.contents(self.rows), 1):
            yield item
            self.progress("export", done, total)

    def places(self, images: Sequence[Image], root: Path) -> Iterator[tuple[str | None, dict[int, str]]]:
        """For formats that point at files: each split, or None where there are none, and where its images that can be
        read are, by position in `images`; below `root` those that are written there: see `placing.beside`."""
        found = sorted(placing.beside(self.readable(), root, [image.format for image in images]).items())
        for split in self.splits or (None,):
            yield split, {i: place for i, place in found if images[i].split == split}


class Written(NamedTuple):
    """What became of an export's rows."""

    images: int
    left_out: dict[str, int]  # why, in words, and how many


def load(name: str) -> ModuleType:
    """The writer of that name; UsageError for one that is not there."""
    if name not in WRITERS:
        raise UsageError(f"unknown export format {name!r}; choose from {', '.join(WRITERS)}")
    return import_module(WRITERS[name])


def write(format: str, export: Export) -> Written:
    """Write an export as `format`.

    Raises UsageError for an unknown format or link, and where `out` exists; MachineError where the disk refuses.
    """
    writer, suited, left_out = suit(format, export)
    written = writer.write(suited)
    if written < len(suited.rows):
        left_out["missing or unreadable"] = len(suited.rows) - written
    return Written(written, left_out)


def suit(format: str, export: Export) -> tuple[ModuleType, Export, dict[str, int]]:
    """The writer, the export without the rows that it cannot take, and how many those are, by reason."""
    writer = load(format)
    if export.link not in LINKS:
        raise UsageError(f"unknown link {export.link!r}; choose from {', '.join(LINKS)}")
    if hasattr(writer, "check"):
        writer.check(export)
    unlabelled = export.rows["label"].isna()
    if not writer.LABELLED or not unlabelled.any():
        return writer, export, {}
    return writer, replace(export, rows=export.rows[~unlabelled]), {"of no class": int(unlabelled.sum())}


def labelled(rows: "pd.DataFrame", relabel: bool = True) -> "pd.DataFrame":
    """Rows of the manifest's images with the column `label`, and an empty `split`. The label is the final one; where
    not relabel, relabeled images keep the one they were given."""
    label = rows["final_label"]
    if not relabel:
        label = label.mask(rows["verdict"] == "relabeled", rows["given_label"])
    integers = {name: rows[name].astype("Int64") for name in ("row_in_file", "width", "height")}
    return rows.assign(label=label, split=None, **integers)


def columns(rows: "pd.DataFrame") -> list[str]:
    """Those of `COLUMNS` that a table of these rows has."""
    return [name for name in COLUMNS if name != "split" or rows["split"].notna().any()]


def table(rows: "pd.DataFrame") -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """The rows as a table of labels: its columns, and its rows of text, int, float (6 digits) and None."""
    names = columns(rows)
    rows = rows.assign(confidence=[*map(_rounded, values(rows["confidence"]))])
    return names, zip(*(values(rows[name]) for name in names), strict=True)


def labels_of(images: Iterable[Image]) -> list[str]:
    """The labels they have, sorted."""
    return sorted({image.label for image in images if image.label is not None})


def write_text(export: Export, write_stream: Callable[[Export, TextIO], None]) -> int:
    """Write the rows to the file `out` as `write_stream` does, UTF-8 with line feeds; returns how many."""
    with draft(export.out) as unfinished, unfinished.open("x", encoding="utf-8", newline="") as stream:
        write_stream(export, stream)
    return len(export.rows)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")  # what float32 holds for sure


def values(column: "pd.Series") -> list[Any]:
    """The column's values as Python's, None where there is none (pandas knows None, NaN, NaT and NA)."""
    return [None if gone else value for value, gone in zip(column.tolist(), column.isna(), strict=True)]

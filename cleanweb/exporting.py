"""Hand over a part of a run: select, relabel, split, write."""

import functools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TextIO

from cleanweb import manifest, opening, readers, remote, splits, writers
from cleanweb.drafts import refuse_existing
from cleanweb.errors import CrawlError, MachineError, UsageError
from cleanweb.records import Progress, silent
from cleanweb.remote import Place, Remote, is_address, place, refuse_inside
from cleanweb.safenames import TORCHVISION_SUFFIXES, image_name

if TYPE_CHECKING:
    import pandas as pd

STREAMED = ("csv", "jsonl")  # what can be written to standard output


@dataclass(frozen=True)
class Exported:
    """What was handed over, or would be."""

    out: Place | None  # None: standard output
    selected: int  # images
    written: int
    left_out: dict[str, int]  # why, in words, and how many
    splits: dict[str, int] = field(default_factory=dict)  # how many images were meant for each
    notes: tuple[str, ...] = ()  # what a person should know, a line each

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"out": None if self.out is None else str(self.out)}

    def lines(self, what: str, dry_run: bool = False) -> list[str]:
        """What a person wants to read. what: of which images this is."""
        where = "standard output" if self.out is None else str(self.out)
        would = " would be written, and nothing is" if dry_run else ""
        lines = [f"{where}: {self.written:,} of {self.selected:,} images ({what}){would}."]
        if self.splits:
            lines.append(f"Splits: {', '.join(f'{name} {n:,}' for name, n in self.splits.items())}.")
        lines += [f"{n:,} left out: {why}." for why, n in self.left_out.items()]
        return [*lines, *self.notes]


def export(
    run: Path, format: str | None = None, out: Place | None = None, *, only: Sequence[str] = ("trainable",),
    where: str | None = None, split: str | None = None, seed: int = 0, relabel: bool = True, link: str = "copy",
    dry_run: bool = False, progress: Progress = silent, stream: TextIO | None = None,
) -> Exported:  # fmt: skip
    """Write the images of a run that `only` (`schema.SELECTIONS`) and the SQL condition `where` select.

    format: by default the table that `out` ends in, else csv. out: a file or a folder that is not there yet; by default
    a new name in the run folder. stream: written to in its place. split: as in `splits.parse`. relabel: relabeled
    images get the suggested label, else they keep the given one. dry_run: say what would be written, and write nothing.
    Raises UsageError and RunError in words to act on.
    """
    format = format or format_by_ending(out)
    if isinstance(out, Remote):
        with _made_here(run, out, dry_run) as here:
            made = export(run, format, here, only=only, where=where, split=split, seed=seed, relabel=relabel,
                          dry_run=dry_run, progress=progress)  # fmt: skip
        return replace(made, out=out)
    split = split or getattr(writers.load(format), "SPLIT", None)
    shares = splits.parse(split) if split else {}
    rows = _split(writers.labelled(manifest.select(run, only, where), relabel), shares, seed)
    if stream is not None:
        if format not in STREAMED:
            raise UsageError(f"Only --format {' and '.join(STREAMED)} can be written to standard output.")
        out = Path(os.devnull)
    out = out or new_name(run, only, writers.load(format).SUFFIX)
    made = manifest.read(run, "runs").iloc[0]
    root = place(made["root"])
    if stream is None:
        refuse_inside(out, root, "--out")
    if format not in writers.TABLES:
        rows = _still_inside(rows, readers.border(root, _may_lead_outside(made["settings"])))
    asked = writers.Export(rows, out, link, contents, progress, tuple(shares))
    if stream is not None:
        if not dry_run:
            writers.load(format).write_stream(asked, stream)
        done = writers.Written(len(rows), {})
    else:
        done = _foreseen(format, asked) if dry_run else writers.write(format, asked)
    suited = writers.suit(format, asked)[1].rows
    counts = Counter(suited["split"])
    return Exported(None if stream else out, len(rows), done.images, done.left_out, {s: counts[s] for s in shares},
                    tuple(_notes(format, suited, link)))  # fmt: skip


def format_by_ending(out: Place | None) -> str:
    """The table that `out` is to be, where no format is named. Raises UsageError where it ends in something else."""
    ending = "" if out is None else PurePath(out.name).suffix.lower()
    tables = {"": "csv", **{writers.load(name).SUFFIX: name for name in writers.TABLES}}
    if ending not in tables:
        raise UsageError(f"{out} ends in {ending}, which is no table that is written here. Give --format, or an "
                         f"--out that ends in {', '.join(filter(None, tables))}.")  # fmt: skip
    return tables[ending]


@contextmanager
def _made_here(run: Path, out: Remote, dry_run: bool) -> Iterator[Path]:
    """Where an export is made that goes to an address; it is copied there when it is complete, and removed here."""
    refuse_inside(out, place(manifest.read(run, "runs")["root"].iloc[0]), "--out")
    try:
        if out.exists():
            raise UsageError(f"{out} is there already, and nothing is overwritten. Give another --out.")
    except OSError as error:
        raise MachineError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix=".export-", dir=run) as folder:
        yield (here := Path(folder) / out.name)
        if not dry_run:
            remote.upload(here, out.url)


def new_name(run: Path, only: Iterable[str], suffix: str) -> Path:
    """A name in the run folder that is free."""
    stem = f"export-{'-'.join(only)}"
    candidates = (run / f"{stem}{n}{suffix}" for n in ("", *(f"-{i}" for i in range(2, 10_000))))
    return next(path for path in candidates if not path.exists() and not path.is_symlink())


def contents(rows: "pd.DataFrame") -> writers.Contents:
    """The position of every row whose image can be opened, with its file, or its bytes where Parquet or a tar holds it.

    Single files come in order, then the Parquet and tar files one after the other, each read once from its first row to
    its last.
    """
    embedded: dict[str, dict[int, list[int]]] = {}
    elsewhere: dict[int, str] = {}
    places = zip(writers.values(rows["file"]), writers.values(rows["row_in_file"]), strict=True)
    for position, (file, row) in enumerate(places):
        if row is not None and file is not None:
            embedded.setdefault(file, {}).setdefault(int(row), []).append(position)
        elif file is not None and is_address(file):
            elsewhere[position] = file
        elif file is not None and (source := _openable(file)) is not None:
            yield position, source
    found = zip(elsewhere, remote.fetch_all(elsewhere.values()), strict=True)
    yield from ((position, content) for position, content in found if isinstance(content, bytes))
    for file, positions_of in embedded.items():
        yield from _embedded(file, positions_of)


def _embedded(file: str, positions_of: dict[int, list[int]]) -> writers.Contents:
    try:
        for row, content in opening.embedded_images(file, positions_of):
            if isinstance(content, bytes) and content:
                yield from ((position, content) for position in positions_of[row])
    except CrawlError:
        return  # what was not yielded is counted as unreadable


def _openable(file: str) -> Path | None:
    source = opening.unescaped(file)
    try:
        if source.is_file():
            source.open("rb").close()
            return source
    except (OSError, ValueError):
        pass
    return None


def _split(rows: "pd.DataFrame", shares: Mapping[str, float], seed: int) -> "pd.DataFrame":
    if not shares:
        return rows
    groups = rows["duplicate_of"].fillna(rows["sample_id"]).tolist()
    return rows.assign(split=splits.assign(writers.values(rows["label"]), groups, shares, seed))


def _may_lead_outside(settings: str) -> bool:
    return json.loads(settings).get("allow_outside") is True


def _still_inside(rows: "pd.DataFrame", border: str | None) -> "pd.DataFrame":
    """The rows, without the files that lead out of the crawl by now: a link may have taken the place of what was read.
    border: see `readers.border`."""
    if border is None:
        return rows
    real = functools.cache(os.path.realpath)

    def kept(file: str | None, path: str) -> str | None:
        if file is None or is_address(file) or Path(path).is_absolute():  # what the table itself named
            return file
        folder, name = os.path.split(opening.unescaped(file))
        link = os.path.islink(os.path.join(folder, name))  # noqa: PTH114, PTH118 (strings: there may be millions)
        target = os.path.realpath(os.path.join(folder, name)) if link else os.path.join(real(folder), name)  # noqa: PTH118
        return file if readers.within(target, border) else None

    places = zip(writers.values(rows["file"]), writers.values(rows["path"]), strict=True)
    return rows.assign(file=[kept(*place) for place in places])


def _foreseen(format: str, asked: writers.Export) -> writers.Written:
    """What `writers.write` would say, as far as looking whether the files are there can tell."""
    writer, suited, left_out = writers.suit(format, asked)
    refuse_existing(asked.out.absolute(), folder=writer.SUFFIX == "")
    missing = 0 if format in writers.TABLES else _missing(suited.rows)
    if missing:
        left_out["missing or unreadable"] = missing
    return writers.Written(len(suited.rows) - missing, left_out)


def _missing(rows: "pd.DataFrame") -> int:
    files = writers.values(rows["file"])
    there = {file: file is not None and (is_address(file) or _openable(file) is not None) for file in set(files)}
    return sum(not there[file] for file in files)


def _notes(format: str, rows: "pd.DataFrame", link: str) -> Iterable[str]:
    if format == "yolo" and link != "copy":
        yield ("Ultralytics writes a JPEG that lacks its end anew in its place: through links that changes your crawl. "
               "Export copies, or train on a copy.")  # fmt: skip
    if format in writers.TABLES:
        if missing := _missing(rows):
            yield f"{missing:,} of these rows name a file that is not there or cannot be read."
        if embedded := int(rows["row_in_file"].notna().sum()):
            yield (f"{embedded:,} of these images lie in Parquet or tar files: file and row_in_file say where. For the "
                   "images themselves choose another format, as huggingface.")  # fmt: skip
    elif format in ("imagefolder", "yolo"):
        names = zip(writers.values(rows["path"]), writers.values(rows["format"]), strict=True)
        suffixes = Counter(image_name(path, kind)[1].lower() for path, kind in names)
        if passed_over := {suffix: n for suffix, n in suffixes.items() if suffix not in TORCHVISION_SUFFIXES}:
            are = readers.count(sum(passed_over.values()), "of these images is", "of these images are")
            kinds = f"{are} {', '.join(suffix or 'of no kind' for suffix in sorted(passed_over))}"
            reader = "torchvision's ImageFolder, with which Ultralytics reads," if format == "yolo" else (
                "torchvision's ImageFolder")  # fmt: skip
            yield f"{kinds}, which {reader} passes over unless it is told so."

"""cleanweb export: hand over a part of the manifest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanweb.commands import JsonOption, Quiet, RunOption, Verbose
from cleanweb.remote import place
from cleanweb.settings import DEFAULT_RUN, FORMATS, LINKS, MOST_SEED, ONLY
from cleanweb.terminal import choice, echo_json, plain, showing_progress, table_stream, words_for_errors

if TYPE_CHECKING:
    Only = str
    Format = str
    Link = str
else:
    Only = choice("Only", ONLY)
    Format = choice("Format", FORMATS)
    Link = choice("Link", LINKS)


def export(
    only: Annotated[
        list[Only] | None, typer.Option(help="What to hand over; repeatable. Default: trainable.")
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="A table, a folder of images, or a list for a tool. Default: what --out "
                     "ends in, else csv."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Where to, s3://… too; - is stdout "
                     "(csv, jsonl). Never overwritten. "
                     "Default: a new name in the run folder."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Also: a condition on images, as confidence > 0.9.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="SHARES", help="As train=0.9,val=0.1: class by class, copies of a picture together. yolo "
                     "has these by default."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Another seed, another split.")] = 0,
    relabel: Annotated[
        bool,
        typer.Option("--relabel/--no-relabel", help="Relabeled images get the suggested label, or keep the given one. "
                     "To leave them out: --only clean."),
    ] = True,
    link: Annotated[Link, typer.Option(help="How imagefolder, huggingface and yolo get their files.")] = "copy",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Hand over a part of the manifest, as other tools read it.

    Tables of paths and labels: csv, jsonl, parquet. The images: imagefolder, huggingface, webdataset, yolo. Where the
    images lie, with their labels: coco, fiftyone, labelstudio.

    \b
    Examples:
      cleanweb export --only clean                         a table of what is good
      cleanweb export -f imagefolder --link hardlink       a folder per class, without copies
      cleanweb export -f huggingface --split train=0.9,val=0.1
      cleanweb export -f labelstudio --where needs_review  for people to look at
    """
    to_stdout = str(out) == "-"
    with words_for_errors(), showing_progress(quiet or as_json or to_stdout) as progress:
        from cleanweb import exporting

        names = [str(name) for name in only or ["trainable"]]
        done = exporting.export(
            run, format and str(format), None if to_stdout or out is None else place(out), only=names, where=where,
            split=split, seed=seed, relabel=relabel, link=str(link), dry_run=dry_run, progress=progress,
            stream=table_stream() if to_stdout else None,
        )  # fmt: skip
    if as_json and not to_stdout:
        echo_json(done.to_json() | {"dry_run": dry_run})
    elif not quiet:
        for line in done.lines(", ".join(names), dry_run):
            typer.echo(plain(line), err=to_stdout)

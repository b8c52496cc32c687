"""cleanweb export: hand over a part of the manifest."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cleanweb.commands import JsonOption, RunOption
from cleanweb.errors import UsageError
from cleanweb.settings import DEFAULT_RUN, FORMATS, LINKS, ONLY
from cleanweb.terminal import choice, plain, words_for_errors

Only = choice("Only", ONLY)
Format = choice("Format", FORMATS)
Link = choice("Link", LINKS)


def export(
    only: Annotated[list[Only] | None, typer.Option(help="What to hand over; repeatable. Default: trainable.")] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="csv, parquet, or a folder per label.")] = Format.csv,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to; - is stdout (csv). Never overwritten."
                                                " Default: a new name in the run folder.")] = None,
    link: Annotated[Link, typer.Option(help="How imagefolder gets its files.")] = Link.copy,
    where: Annotated[str | None, typer.Option(help="Also: an SQL condition on images, as confidence > 0.9.")] = None,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Hand over a part of the manifest: a table of paths and labels, or the images themselves."""
    with words_for_errors():
        from cleanweb import manifest, readers, writers

        names = [str(name) for name in only or ["trainable"]]
        rows = manifest.select(run, names, where)
        if str(out) == "-":
            if format != Format.csv:
                raise UsageError("Only --format csv can be written to stdout.")
            writers.load("csv").write_stream(rows, sys.stdout)
            return
        target = out or _new_name(run, names, writers.load(str(format)).SUFFIX)
        root = Path(manifest.read(run, "runs")["root"].iloc[0])
        if target.resolve().is_relative_to(root.resolve()):
            raise UsageError(f"{target} lies inside the crawl {root}, where nothing is written. Give another --out.")
        written = writers.write(str(format), rows, target, str(link), readers.read_bytes)
    if as_json:
        typer.echo(json.dumps({"written": written, "selected": len(rows), "out": str(target)}))
        return
    typer.echo(plain(f"{target}: {written:,} of {len(rows):,} images ({', '.join(names)})."))
    if written < len(rows):
        typer.echo(f"{len(rows) - written:,} were left out: their files are missing or unreadable.", err=True)


def _new_name(run: Path, names: list[str], suffix: str) -> Path:
    stem = f"export-{'-'.join(names)}"
    candidates = (run / f"{stem}{n}{suffix}" for n in ("", *(f"-{i}" for i in range(2, 10_000))))
    return next(path for path in candidates if not path.exists())

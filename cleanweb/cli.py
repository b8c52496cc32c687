"""The commands: parse, call, print. Results go to stdout, progress and words about the run to stderr."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cleanweb import __version__
from cleanweb.bench.commands import app as bench
from cleanweb.errors import CrawlError, SomeUnreadable, UsageError
from cleanweb.settings import DEFAULT_RUN, FORMATS, LINKS, ONLY, Settings
from cleanweb.terminal import Method, RecipeName, Tune, choice, plain, print_table, showing_progress, words_for_errors

app = typer.Typer(
    name="cleanweb",
    help="Clean a crawled image dataset: train on its noisy labels, tag every image clean, relabeled or out of "
    "distribution.\n\nExit codes: 0 done · 1 error · 2 wrong command · 3 crawl cannot be learned from · 4 unreadable "
    "files with --strict · 5 machine lacks something · 6 run folder does not fit · 130 interrupted.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(bench, name="bench")

Only = choice("Only", ONLY)
Format = choice("Format", FORMATS)
Link = choice("Link", LINKS)
SqlFormat = choice("SqlFormat", ("table", "csv", "json"))

RunOption = Annotated[Path, typer.Option("--run", envvar="CLEANWEB_RUN", help="The run folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no words; results and errors only.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cleanweb {__version__}")
        raise typer.Exit


@app.callback()
def _all(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    logging.captureWarnings(True)
    logging.getLogger().addHandler(logging.NullHandler())


@app.command()
def fit(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A folder of images, a table of paths and labels, or Parquet files."),
    ],
    labels: Annotated[Path | None, typer.Option(help="Table of paths and labels: CSV, TSV, JSONL, Parquet.")] = None,
    out: Annotated[Path, typer.Option(envvar="CLEANWEB_RUN", help="The run folder to write.")] = Path(DEFAULT_RUN),
    path_column: Annotated[str | None, typer.Option(help="The table's column of paths; default: guessed.")] = None,
    label_column: Annotated[str | None, typer.Option(help="The table's column of labels; default: guessed.")] = None,
    trusted: Annotated[
        Path | None,
        typer.Option(help="Table of labels that a person has verified; an empty label: none of the classes."),
    ] = None,
    method: Annotated[Method, typer.Option(help="How to learn from noisy labels.")] = Method.josrc,
    recipe: Annotated[RecipeName, typer.Option(help="auto: no thresholds; paper: as printed; paper-…: ablations.")] = (
        RecipeName.auto
    ),
    noise_rate: Annotated[float | None, typer.Option(help="Share of wrong labels, if the method asks.")] = None,
    backbone: Annotated[str, typer.Option(help="auto, cnn7, a timm name, hf-hub:…, local-dir:… or a folder.")] = "auto",
    weights: Annotated[str, typer.Option(help="auto, pretrained, none, or a .safetensors file.")] = "auto",
    tune: Annotated[Tune, typer.Option(help="full: train the whole network; head: a head on frozen features.")] = (
        Tune.auto
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training; default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images a step; default: the recipe's.")] = None,
    image_size: Annotated[int | None, typer.Option(min=16, help="Input side, px; default: the backbone's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes to read images; default: all cores.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace what the run folder holds.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 where files were unreadable.")] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Learn from the noisy labels, judge every image, retrain a classifier, write the manifest.

    An interrupted run goes on when the same command is given again.
    """
    settings = Settings(
        source=source, labels=labels, out=out, path_column=path_column, label_column=label_column,
        trusted=trusted, method=str(method), recipe=str(recipe), noise_rate=noise_rate, backbone=backbone,
        weights=weights, tune=str(tune), epochs=epochs, batch_size=batch_size, image_size=image_size, seed=seed,
        device=device, workers=workers, fresh=fresh, strict=strict,
    )  # fmt: skip
    with words_for_errors(), showing_progress(quiet or as_json) as progress:
        from cleanweb import pipeline, summary

        run = pipeline.fit(settings, progress)
        digest = summary.summarise(run.folder, run.tables, run.notes)
    _print_summary(digest, as_json, quiet)
    with words_for_errors():
        if strict and digest.unreadable:
            n = sum(digest.unreadable.values())
            raise SomeUnreadable(f"{n} files could not be read: see SELECT * FROM unusable.")


@app.command()
def retag(
    min_precision: Annotated[
        float | None, typer.Option(help="Keep as clean as many as leave this share of them right, as 0.95.")
    ] = None,
    keep: Annotated[float | None, typer.Option(help="Keep this share of the images as clean, as 0.8.")] = None,
    trusted: Annotated[Path | None, typer.Option(help="Table of labels verified since, as in fit.")] = None,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Decide again from the stored scores: seconds, no training. Without a target: the most probable verdicts."""
    with words_for_errors():
        from cleanweb import retagging, summary

        done = retagging.retag(run, retagging.target(min_precision, keep), trusted)
        digest = summary.summarise(done.folder, done.tables, done.notes)
    _print_summary(digest, as_json, quiet)


@app.command()
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
    typer.echo(f"{target}: {written:,} of {len(rows):,} images ({', '.join(names)}).")
    if written < len(rows):
        typer.echo(f"{len(rows) - written:,} were left out: their files are missing or unreadable.", err=True)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL on images, classes, epochs, runs and the views.")],
    format: Annotated[SqlFormat, typer.Option("--format", "-f", help="How to print the rows.")] = SqlFormat.table,
    run: RunOption = Path(DEFAULT_RUN),
) -> None:
    """Ask the manifest, read-only: cleanweb sql "SELECT verdict, count(*) FROM images GROUP BY 1"."""
    with words_for_errors():
        from cleanweb import manifest

        columns, rows = manifest.query(run, query)
        _PRINTERS[str(format)](columns, rows)


@app.command()
def report(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to; never overwritten. Default: report.html"
                                                " in the run folder, which is replaced.")] = None,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write the report: one HTML file with charts and pictures that opens from disk. fit and retag write it too."""
    with words_for_errors():
        from cleanweb import report

        written = report.write(run, out)
    facts = {"report": str(written), "bytes": written.stat().st_size}
    typer.echo(json.dumps(facts) if as_json else plain(str(written)))


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Images, or folders of images.")],
    run: RunOption = Path(DEFAULT_RUN),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Label images with the retrained classifier: path, label, probability."""
    with words_for_errors():
        from cleanweb import prediction

        labelled = 0
        for answer in prediction.predict(images, run / "classifier", device):
            labelled += answer.label is not None
            if as_json:
                typer.echo(json.dumps(answer.to_json(), ensure_ascii=False))
            elif answer.label is None:
                typer.echo(f"{plain(answer.path)}: {answer.error}", err=True)
            else:
                typer.echo(f"{plain(answer.path)}\t{plain(answer.label)}\t{answer.probability:.4f}")
        if not labelled:
            raise CrawlError("None of these files is an image that can be read.")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check the machine: libraries that fit each other, devices, decoders, weights, disk."""
    with words_for_errors():
        from dataclasses import asdict

        from cleanweb.doctor import examine

        findings = examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            sign = {True: "ok  ", False: "FAIL", None: "note"}[finding.ok]
            typer.echo(
                f"{sign}  {finding.name}: {finding.found}" + (f"\n      {finding.advice}" * bool(finding.advice))
            )
    raise typer.Exit(5 if any(finding.ok is False for finding in findings) else 0)


def main() -> None:
    """The console script: exit codes as in errors.py, silence on a closed pipe."""
    # GNU OpenMP spins long while it waits: beside another process that made a small network up to ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


# ------------------------------------------------------------------------------------------------------------- printing


def _print_summary(digest: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(digest.to_json(), ensure_ascii=False))
    elif not quiet:
        for line in digest.lines():
            typer.echo(plain(line))


def _new_name(run: Path, names: list[str], suffix: str) -> Path:
    stem = f"export-{'-'.join(names)}"
    candidates = (run / f"{stem}{n}{suffix}" for n in ("", *(f"-{i}" for i in range(2, 10_000))))
    return next(path for path in candidates if not path.exists())


def _print_csv(columns: list[str], rows: Iterator[tuple]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)


def _print_json(columns: list[str], rows: Iterator[tuple]) -> None:
    for row in rows:
        typer.echo(json.dumps(dict(zip(columns, row, strict=True)), default=str, ensure_ascii=False))


_PRINTERS = {"table": print_table, "csv": _print_csv, "json": _print_json}

"""cleanweb fit: the main job."""

from pathlib import Path
from typing import Annotated

import typer

from cleanweb.commands import JsonOption, Quiet, print_summary
from cleanweb.errors import SomeUnreadable
from cleanweb.settings import DEFAULT_RUN, Settings
from cleanweb.terminal import Method, RecipeName, Tune, showing_progress, words_for_errors


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
    print_summary(digest, as_json, quiet)
    with words_for_errors():
        if strict and digest.unreadable:
            n = sum(digest.unreadable.values())
            raise SomeUnreadable(f"{n} files could not be read: see SELECT * FROM unusable.")

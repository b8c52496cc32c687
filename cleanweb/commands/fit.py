"""cleanweb fit: the main job."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cleanweb import config
from cleanweb.commands import JsonOption, Quiet, Verbose, came_from, print_summary
from cleanweb.errors import SomeUnreadable, UsageError
from cleanweb.remote import is_address, place
from cleanweb.settings import DEFAULT_RUN, LEAST, MOST_SEED, Settings, checked, located, outputs
from cleanweb.terminal import Method, Pretrain, RecipeName, Tune, showing_progress, words_for_errors
from cleanweb.usage import SETTINGS_FILE

_INPUT, _OUTPUT, _LEARNING, _NETWORK, _MACHINE = "What goes in", "What comes out", "Learning", "Network", "Machine"


def _configure(ctx: typer.Context, file: Path | None) -> Path | None:
    """The settings file's values become the options' defaults."""
    if not ctx.resilient_parsing:
        with words_for_errors():
            found = config.read(file)
        ctx.default_map, ctx.meta[SETTINGS_FILE] = found.values, found.file
    return file


def _hyperparameters(ctx: typer.Context, given: list[str] | None) -> list[str]:
    """The settings file's table, then what the command line says: the last word counts."""
    return [*(ctx.default_map or {}).get("hyperparameters", []), *(given or [])]


def fit(
    ctx: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Images: a folder, a table of paths and labels, Parquet, tar shards."),
    ],
    labels: Annotated[Path | None, typer.Option(metavar="TABLE", rich_help_panel=_INPUT,
        help="Table of paths and labels: CSV, TSV, JSONL, Parquet.")] = None,
    path_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_INPUT,
        help="The table's column of paths; default: guessed.")] = None,
    label_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_INPUT,
        help="The table's column of labels; default: guessed. Of shards: cls, txt or a field.")] = None,
    trusted: Annotated[Path | None, typer.Option(metavar="TABLE", rich_help_panel=_INPUT,
        help="Table of labels that a person has verified (empty: none of the classes), or a reviewed run.")] = None,
    merge_labels: Annotated[bool, typer.Option("--merge-labels", rich_help_panel=_INPUT,
        help="Take labels that differ only in capitals or spaces for one.")] = False,
    allow_outside: Annotated[bool, typer.Option("--allow-outside", rich_help_panel=_INPUT,
        help="Open images outside the crawl folder, too, where links and paths lead there.")] = False,
    settings_file: Annotated[Path | None, typer.Option("--config", metavar="FILE", rich_help_panel=_INPUT,
        is_eager=True, callback=_configure,
        help="Settings in TOML; default: cleanweb.toml or [tool.cleanweb] in pyproject.toml, here.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", envvar="CLEANWEB_RUN", rich_help_panel=_OUTPUT,
        help="The run folder to write; s3://…: made here, then copied there.")] = Path(DEFAULT_RUN),
    parts: Annotated[str | None, typer.Option(metavar="WHERE", rich_help_panel=_OUTPUT,
        help="Keep the table images as Parquet parts: here, or s3://…; default: from 20 million rows on.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", rich_help_panel=_OUTPUT,
        help="Replace what the run folder holds.")] = False,
    strict: Annotated[bool, typer.Option("--strict", rich_help_panel=_OUTPUT,
        help="Exit with 4 where files were unreadable.")] = False,
    method: Annotated[Method, typer.Option(rich_help_panel=_LEARNING,
        help="How to learn from noisy labels.")] = "josrc",
    recipe: Annotated[RecipeName, typer.Option(rich_help_panel=_LEARNING,
        help="auto: no thresholds; paper…: as printed, ablations; snc: Jo-SNC; self, sup: codim's.")] = "auto",
    noise_rate: Annotated[float | None, typer.Option(metavar="SHARE", rich_help_panel=_LEARNING,
        help="Share of wrong labels, if the method asks.")] = None,
    epochs: Annotated[int | None, typer.Option(min=LEAST["epochs"], metavar="N", rich_help_panel=_LEARNING,
        help="Epochs of training; default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=LEAST["batch_size"], metavar="N", rich_help_panel=_LEARNING,
        help="Images a step; default: the recipe's.")] = None,
    hyperparameters: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", rich_help_panel=_LEARNING,
        callback=_hyperparameters, help="Another value in the recipe, as lr=0.01; repeatable.")] = None,
    seed: Annotated[int, typer.Option(min=LEAST["seed"], max=MOST_SEED, metavar="N", rich_help_panel=_LEARNING,
        help="Seed of every random choice.")] = 0,
    backbone: Annotated[str, typer.Option(metavar="NAME", rich_help_panel=_NETWORK,
        help="auto, cnn7, cnn5, a timm name, hf-hub:…, local-dir:… or a folder.")] = "auto",
    weights: Annotated[str, typer.Option(metavar="FILE", rich_help_panel=_NETWORK,
        help="auto, pretrained, none, or a .safetensors file.")] = "auto",
    tune: Annotated[Tune, typer.Option(rich_help_panel=_NETWORK,
        help="full: train the whole network; head: a head on frozen features.")] = "auto",
    pretrain: Annotated[Pretrain, typer.Option(rich_help_panel=_LEARNING,
        help="Contrastive learning first: self: no labels, sup: theirs; auto: as fits.")] = "auto",
    image_size: Annotated[int | None, typer.Option(min=LEAST["image_size"], metavar="PX", rich_help_panel=_NETWORK,
        help="Input side; default: the backbone's.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", rich_help_panel=_MACHINE,
        help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    deterministic: Annotated[bool, typer.Option("--deterministic", rich_help_panel=_MACHINE,
        help="The same bits every time on a GPU, too, and slower; a CPU gives them anyway.")] = False,
    workers: Annotated[int | None, typer.Option(min=LEAST["workers"], metavar="N", rich_help_panel=_MACHINE,
        help="Processes to read images and to train small networks; default: all cores; 0: none but this.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(metavar="DIR", rich_help_panel=_MACHINE,
        help="Keep decoded images there, for later runs; default: in the run, until it ends.")] = None,
    cache_size: Annotated[float | None, typer.Option(min=LEAST["cache_size"], metavar="GB", rich_help_panel=_MACHINE,
        help="Keep so many GB of them; the rest is decoded each time. Default: all.")] = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Learn from the noisy labels, and tag every image clean, relabeled, ood or unusable.

    Writes the manifest, a report and a retrained classifier into the run folder. An interrupted run goes on when the
    same command is given again.

    \b
    Examples:
      cleanweb fit crawl                                 a folder per class
      cleanweb fit crawl --labels labels.csv             a folder and a table
      cleanweb fit 'shards/images-{000..017}.tar'        WebDataset; or the folder img2dataset wrote
      cleanweb fit s3://bucket/crawl --labels s3://bucket/labels.csv
      cleanweb fit crawl --backbone resnet50.a1_in1k --epochs 30
      cleanweb fit crawl --set lr=0.01 --set folds=3     other values in the recipe
    """
    with words_for_errors():
        settings = Settings(
            source=place(source), labels=labels and place(labels), **outputs(out), parts=located(parts),
            path_column=path_column, label_column=label_column, trusted=trusted and place(trusted),
            merge_labels=merge_labels, allow_outside=allow_outside, method=str(method),
            recipe=str(recipe), noise_rate=noise_rate, backbone=backbone, weights=weights, tune=str(tune),
            pretrain=str(pretrain), epochs=epochs, batch_size=batch_size, image_size=image_size, seed=seed,
            device=device, deterministic=deterministic, workers=workers, cache_dir=cache_dir,
            cache_size=cache_size, fresh=fresh, strict=strict,
            hyperparameters=_parsed(hyperparameters or []), origin=_origin(ctx),
        )  # fmt: skip
    with words_for_errors(), showing_progress(quiet) as progress:
        _refuse_missing(settings)
        from cleanweb import distributed, pipeline, summary

        with distributed.world() as tells:
            if not tells:
                return
            run = pipeline.fit(settings, progress)
        digest = summary.summarise(run.folder, run.notes)
    print_summary(digest, as_json, quiet)
    with words_for_errors():
        if strict and digest.unreadable:
            n = sum(digest.unreadable.values())
            raise SomeUnreadable(f"{n} files could not be read: see SELECT * FROM unusable.")


def _refuse_missing(settings: Settings) -> None:
    """What is not there is told before torch is loaded, which takes seconds. Of torchrun's ranks one reads the crawl:
    the others need not see it."""
    from cleanweb import readers

    far = is_address(settings.source) or is_address(settings.labels)
    if not far and os.environ.get("RANK", "0") == "0":
        readers.refuse_missing(settings.source, settings.labels)


def _parsed(pairs: list[str]) -> dict[str, float | int | str]:
    """name=value, in the types of the recipe."""
    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise UsageError(f"--set takes name=value, as --set lr=0.01, not {wrong!r}.")
    split = [pair.split("=", 1) for pair in pairs]
    return {name.strip(): checked(name.strip(), value.strip()) for name, value in split}


def _origin(ctx: typer.Context) -> dict[str, str]:
    """Which settings stand in the settings file or the environment."""
    places = {"default_map": ctx.meta.get(SETTINGS_FILE, ""), "environment": "the environment (CLEANWEB_RUN)"}
    options = {name: "set" if name == "hyperparameters" else name for name in ctx.params}
    return {option: places[where] for name, option in options.items() if (where := came_from(ctx, name)) in places}

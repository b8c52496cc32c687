"""`cleanweb bench`: make worlds whose truth is known, run the product on them, tell how well it did."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanweb.bench import costs
from cleanweb.commands import JsonOption, Quiet
from cleanweb.errors import UsageError, did_you_mean
from cleanweb.settings import MOST_SEED, Settings
from cleanweb.terminal import (
    Method,
    Pretrain,
    RecipeName,
    Tune,
    echo_json,
    plain,
    print_table,
    showing_progress,
    words_for_errors,
)
from cleanweb.usage import Command

if TYPE_CHECKING:
    from cleanweb.bench.record import Result
    from cleanweb.bench.trial import Trial
    from cleanweb.bench.worlds import World

RESULTS = Path("bench-results")

app = typer.Typer(
    help="Measure: clean labelled sets are made into noisy crawls with a hidden truth, and verdicts held against it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=Command)
def worlds(as_json: JsonOption = False) -> None:
    """List the worlds: how labels go wrong, how many classes there are, how many foreign ones."""
    from dataclasses import asdict

    from cleanweb.bench.worlds import WORLDS

    if as_json:
        echo_json([asdict(world) for world in WORLDS.values()])
        return
    columns = ["world", "noise", "rate", "classes", "foreign", "OOD", "images a class", "beside"]
    print_table(columns, [_world_row(world) for world in WORLDS.values()])


@app.command(cls=Command)
def make(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A clean labelled set: a folder per class, or Parquet files.")
    ],
    world: Annotated[str, typer.Argument(metavar="WORLD", help="Which world; see cleanweb bench worlds.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write. Never overwritten.")],
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of every random choice.")] = 0,
    foreign: Annotated[
        Path | None, typer.Option(help="Another set, whose classes are the foreign ones; default: SOURCE's own.")
    ] = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Make a clean labelled set into a crawl with wrong labels and foreign images, and keep the truth beside it."""
    with words_for_errors(), showing_progress(quiet) as progress:
        from cleanweb.bench.sources import read_source
        from cleanweb.bench.worlds import WORLDS, read, write

        if world not in WORLDS:
            hint = did_you_mean(world, WORLDS) or " See cleanweb bench worlds."
            raise UsageError(f"There is no world {world!r}.{hint}")
        strange = None if foreign is None else read_source(foreign, seed)
        write(WORLDS[world], read_source(source, seed), seed, out, strange, progress)
        made = read(out)
    n, ood, classes = len(made.truth), int((made.truth["truth"] == "").sum()), len(made.facts["classes"])
    if as_json:
        echo_json({"out": str(out), "world": world, "source": made.source, "seed": seed, "images": n,
                   "share_wrong": made.wrong, "of_no_class": ood, "classes": classes})  # fmt: skip
    elif not quiet:
        words = f"{n:,} images, {made.wrong:.1%} with a wrong label, {ood:,} of them of none of the {classes} classes."
        typer.echo(plain(f"{out}: {made}. {words}"))


@app.command(cls=Command)
def run(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Worlds that cleanweb bench make wrote.")],
    method: Annotated[Method, typer.Option(help="How to learn from noisy labels.")] = "josrc",
    recipe: Annotated[
        RecipeName, typer.Option(help="auto: no thresholds; paper: as printed; paper-…: ablations.")
    ] = "auto",
    noise_rate: Annotated[float | None, typer.Option(help="For a method that asks; default: the truth.")] = None,
    backbone: Annotated[str, typer.Option(help="As in cleanweb fit.")] = "auto",
    weights: Annotated[str, typer.Option(help="As in cleanweb fit.")] = "auto",
    tune: Annotated[Tune, typer.Option(help="As in cleanweb fit.")] = "auto",
    pretrain: Annotated[Pretrain, typer.Option(help="As in cleanweb fit.")] = "auto",
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Default: the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MOST_SEED, help="Default: the world's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes to read images; default: all cores.")] = None,
    results: Annotated[Path, typer.Option(help="The folder for the results, a JSON file each.")] = RESULTS,
    with_rivals: Annotated[
        bool, typer.Option("--rivals", help="Also what a user would pick instead, on the same frozen features.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Fit on worlds and hold the verdicts against their truth. An interrupted run goes on, a finished one is not run
    again."""
    with words_for_errors():
        from dataclasses import replace

        from cleanweb.bench import record, rivals, trial
        from cleanweb.bench.worlds import read

        names = rivals.available() if with_rivals else []
        if with_rivals and len(names) < len(rivals.RIVALS):
            typer.echo('cleanlab is not installed and left out: pip install ".[bench]" brings it.', err=True)
        asked = Settings(Path(), method=str(method), recipe=str(recipe), noise_rate=noise_rate, backbone=backbone,
                         weights=weights, tune=str(tune), pretrain=str(pretrain), epochs=epochs, batch_size=batch_size,
                         device=device, workers=workers)  # fmt: skip
        for made in [read(folder) for folder in folders]:
            wanted = trial.prepare(made, replace(asked, seed=made.seed if seed is None else seed))
            for file, new in _complete(wanted, names, results, quiet).items():
                result = record.read(file)
                if as_json:
                    echo_json({"file": str(file), "new": new} | result)
                elif not quiet:
                    typer.echo(plain(f"{_line(result)} {'→' if new else 'is already in'} {file}"))


def _complete(wanted: "Trial", names: list[str], results: Path, quiet: bool) -> dict[Path, bool]:
    """Make what is not there of the trial's result and its rivals'; gives all their files, and which are new."""
    from cleanweb.bench import record, rivals, trial

    tried = {"": wanted.told()} | {name: rivals.told(wanted, name) for name in names}
    files = {name: results / f"{record.name(wanted.made, settings)}.json" for name, settings in tried.items()}
    missing = [name for name, file in files.items() if not file.exists()]
    with showing_progress(quiet) as progress:
        if "" in missing:
            record.write(trial.run(wanted, progress), files[""])
        for name, result in rivals.run(wanted, [name for name in missing if name], progress):
            record.write(result, files[name])
    return {file: name in missing for name, file in files.items()}


@app.command(cls=Command)
def tables(
    results: Annotated[Path | None, typer.Option(help="A folder of results; default: those of the package.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as in the README.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print results as tables: our own, and the paper's with our numbers beside."""
    with words_for_errors():
        from dataclasses import asdict

        from cleanweb.bench import tables
        from cleanweb.bench.record import read_all

        if results and not results.is_dir():
            raise UsageError(f"There is no folder {results}: looked for results of cleanweb bench run there.")
        told = tables.tables(read_all(results or tables.RECORDED))
        if as_json:
            echo_json([asdict(table) for table in told])
            return
        if markdown or not told:
            typer.echo(plain(tables.markdown(told)))
            return
        for table in told:
            typer.echo(plain(table.title))
            print_table(table.columns, table.rows)


@app.command(cls=Command)
def webvision(
    folder: Annotated[
        Path, typer.Argument(metavar="WEBVISION", help="WebVision 1.0: info/, google/, val_images_256/.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder; an interrupted run goes on.")],
    imagenet: Annotated[Path | None, typer.Option(help="ImageNet's validation images, a folder per class.")] = None,
    classes: Annotated[int, typer.Option(min=2, help="The first so many; 50 make mini-WebVision.")] = 50,
    method: Annotated[Method, typer.Option(help="How to learn from noisy labels.")] = "codim",
    recipe: Annotated[RecipeName, typer.Option(help="As in cleanweb fit.")] = "auto",
    backbone: Annotated[str, typer.Option(help="As in cleanweb fit.")] = "inception_resnet_v2",
    weights: Annotated[str, typer.Option(help="As in cleanweb fit.")] = "none",
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of every random choice.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes to read images; default: all cores.")] = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Fit on mini-WebVision and tell top-1 and top-5 on clean images of WebVision and ImageNet."""
    with words_for_errors(), showing_progress(quiet) as progress:
        from cleanweb.bench import record
        from cleanweb.bench.webvision import run

        asked = Settings(folder, out=out, method=str(method), recipe=str(recipe), backbone=backbone, weights=weights,
                         tune="full", epochs=epochs, batch_size=batch_size, seed=seed, device=device,
                         workers=workers)  # fmt: skip
        result = run(folder, imagenet, classes, asked, progress)
        record.write(result, out / "webvision.json")
    if as_json:
        echo_json(result)
    elif not quiet:
        rows = [(name, _percent(of["top-1"]), _percent(of["top-5"]), of["images"])
                for name, of in result["accuracy"].items()]  # fmt: skip
        print_table(["test images of", "top-1", "top-5", "images"], rows)


app.command(cls=Command)(costs.speed)
app.command(cls=Command)(costs.scale)


# --- words ----------------------------------------------------------------------------------------------------------


def _world_row(world: "World") -> tuple[object, ...]:
    n_images = "all" if world.per_class is None else world.per_class
    share = "" if world.ood_share is None else f"{world.ood_share:.0%}"
    beside = [] if world.choice == "any" else [f"classes: {world.choice}"]
    beside += [f"imbalance {world.imbalance:g}"] * (world.imbalance != 1)
    beside += [f"{world.n_tiny} tiny classes"] * (world.n_tiny > 0)
    shape = (world.n_inside, world.n_outside, share, n_images)
    return world.name, world.noise, world.rate, *shape, ", ".join(beside)


def _line(result: "Result") -> str:
    """One result in a line."""
    from cleanweb.bench.metrics import VERDICTS

    settings, metrics = result["settings"], result["metrics"]
    f1 = ", ".join(f"{name} {_percent(metrics['verdicts'][name]['f1'])}" for name in VERDICTS)
    said = [settings[key] for key in ("method", "recipe", "backbone", "tune") if settings[key] is not None]
    said += [f"{settings['epochs']} epochs"] if settings["epochs"] else []
    return (
        f"{result['world']} of {result['source']}, seed {result['world_seed']}; {' '.join(said)}: macro-F1 "
        f"{_percent(metrics['macro_f1'])} ({f1}), test accuracy {_percent(result['classifier']['test_accuracy'])}"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"

"""`cleanweb bench speed` and `bench scale`: what the work costs, on this machine and as the crawl grows."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cleanweb.errors import UsageError
from cleanweb.terminal import echo_json, plain, print_table, words_for_errors

if TYPE_CHECKING:
    from cleanweb.bench.record import Result

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]
_OUT = typer.Option("--out", "-o", help="The JSON file to write; replaced where there is one.")


def speed(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="How often each pair is run; the median counts.")] = 5,
    photos: Annotated[Path | None, typer.Option(help="A crawl of photos to decode; default: drawn ones.")] = None,
    rows: Annotated[int, typer.Option(min=1000, help="Rows of the manifest that is written and asked.")] = 1_000_000,
    only: Annotated[list[str] | None, typer.Option(help="Only the figures so called; repeatable.")] = None,
    out: Annotated[Path | None, _OUT] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast this machine does the work: ratios to bare loops, run in turns; of two of torchrun's ranks, to
    one. A quarter of an hour; with --device cuda the figures of a GPU, without ranks, in some minutes."""
    with words_for_errors():
        from cleanweb import machine
        from cleanweb.bench import ranks, speed

        where = machine.choose_device(device)
        with tempfile.TemporaryDirectory() as scratch:
            parts = speed.parts(where, rounds, photos, rows, Path(scratch))
            if where.type == "cpu":
                parts["ranks"] = lambda: ranks.scaling(min(rounds, 2), Path(scratch))
            if unknown := [name for name in only or [] if name not in parts]:
                raise UsageError(f"There is no figure {unknown[0]!r}, only {', '.join(parts)}.")
            chosen = {name: part for name, part in parts.items() if not only or name in only}
            result = speed.measure(chosen, where, lambda name: typer.echo(f"{name} …", err=True))
        _hand_over(result, out)
    if as_json:
        echo_json(result)
        return
    print_table(["figure", "what", "a second", "ratio", "by CPU time"], _speed_rows(result["figures"]))


def scale(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A clean labelled set, as for bench make.")],
    images: Annotated[list[int], typer.Option("--images", "-n", min=1000, help="Size of the crawl; repeatable.")],
    work: Annotated[Path, typer.Option(help="A folder for crawls and runs; crawls that are there are taken.")],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the head.")] = 2,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step.")] = 1024,
    backbone: Annotated[str | None, typer.Option(help="Default: a tiny one, of random weights.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes to read images; default: all cores.")] = None,
    make_only: Annotated[bool, typer.Option("--make-only", help="Make the crawls and stop.")] = False,
    out: Annotated[Path | None, _OUT] = None,
    as_json: JsonOption = False,
) -> None:
    """Make crawls of these sizes of a small set (each picture in 20 variants, in Parquet shards), run fit --tune head
    and retag on each, and tell every stage's seconds and memory, over all processes; Linux."""
    with words_for_errors():
        from cleanweb.bench import crowd, scale
        from cleanweb.bench.sources import read_source
        from cleanweb.machine import cores

        crawls = {n: work / f"crawl-{n}" for n in sorted(set(images))}
        if any(not crawl.exists() for crawl in crawls.values()):
            clean = read_source(source)
            for n, crawl in crawls.items():
                if not crawl.exists():
                    typer.echo(f"making {n:,} images …", err=True)
                    work.mkdir(parents=True, exist_ok=True)
                    crowd.write(clean, n, 0, crawl, cores())
        if make_only:
            return
        results = []
        for n, crawl in crawls.items():
            typer.echo(f"fit and retag of {n:,} images …", err=True)
            shutil.rmtree(work / f"work-{n}", ignore_errors=True)
            results.append(scale.measure(crawl, work / f"work-{n}", epochs, batch_size, backbone, workers))
        result = scale.record(results)
        _hand_over(result, out)
    if as_json:
        echo_json(result)
        return
    columns = ["images", "stage", "seconds", "of processors", "peak MB, all", "MB, main", "exponent"]
    print_table(columns, _scale_rows(result))


def _hand_over(result: "Result", out: Path | None) -> None:
    if out is not None:
        from cleanweb.bench import record

        record.write(result, out)
        typer.echo(f"→ {plain(str(out))}", err=True)


def _speed_rows(figures: dict[str, Any], above: str = "") -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, found in figures.items():
        if not isinstance(found, dict):
            continue
        if "per_second" in found:
            rows.append((above, name, round(found["per_second"], 1), round(found["ratio"], 2),
                         round(found["ratio_by_cpu"], 2)))  # fmt: skip
        else:
            rows += _speed_rows(found, f"{above} {name}".strip())
    return rows


def _scale_rows(result: "Result") -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for k, size in enumerate(result["sizes"]):
        for stage, cost in size["stages"].items():
            exponent = None if k == 0 else result["exponents"][stage][k - 1]
            megabytes = round(cost["peak_mb"]), round(cost["main_mb"])
            rows.append((f"{size['images']:,}", stage, round(cost["seconds"], 2), round(cost["cpu_seconds"], 2),
                         *megabytes, None if exponent is None else round(exponent, 2)))  # fmt: skip
    return rows

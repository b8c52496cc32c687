"""What the commands share: choices, errors in words, progress, logging, text that is safe to print, tables."""

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Any, TextIO, cast

import typer

from cleanweb.errors import CleanwebError
from cleanweb.records import NOTICE
from cleanweb.settings import METHOD_NAMES, PRETRAINS, RECIPE_NAMES, TUNES
from cleanweb.signals import stoppable
from cleanweb.visible import visible

if TYPE_CHECKING:
    from cleanweb.records import Progress

_SOONEST_S, _LATEST_S = 1, 60  # between two lines of a stage, where no one watches a bar


def choice(name: str, values: tuple[str, ...]) -> type[StrEnum]:
    """What an option takes: one of these words."""
    return cast(type[StrEnum], StrEnum(name, [(v, v) for v in values]))


if TYPE_CHECKING:  # to whom a type is what is written as a class
    Method = str
    RecipeName = str
    Tune = str
    Pretrain = str
else:
    Method = choice("Method", METHOD_NAMES)
    RecipeName = choice("RecipeName", RECIPE_NAMES)
    Tune = choice("Tune", TUNES)
    Pretrain = choice("Pretrain", PRETRAINS)


# --- errors ---------------------------------------------------------------------------------------------------------


@contextmanager
def words_for_errors() -> Iterator[None]:
    """A CleanwebError becomes one message on stderr and its exit code; SIGTERM stops as Ctrl-C does."""
    try:
        with stoppable():
            yield
    except CleanwebError as error:
        typer.echo(f"Error: {plain(str(error))}", err=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        typer.echo("\nInterrupted. Give the same command again to go on.", err=True)
        raise typer.Exit(getattr(error, "exit_code", 130)) from error
    except BrokenPipeError:
        raise
    except OSError as error:  # where no better words were found: the disk is full, a folder is not ours
        where = f": {error.filename}" if error.filename else ""
        typer.echo(plain(f"Error: {error.strerror or error}{where}."), err=True)
        raise typer.Exit(5) from error
    except (MemoryError, RuntimeError) as error:  # of the latter: torch's, here or on a GPU
        if not isinstance(error, MemoryError) and not _of_memory(error):
            raise
        typer.echo("Error: out of memory. Try a smaller --batch-size or --image-size, fewer --workers or --device cpu.",
                   err=True)  # fmt: skip
        raise typer.Exit(5) from error


def _of_memory(error: RuntimeError) -> bool:
    """`machine.out_of_memory`, without torch."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


# --- progress -------------------------------------------------------------------------------------------------------


@contextmanager
def showing_progress(quiet: bool) -> Iterator["Progress"]:
    """A bar per stage on a terminal, lines elsewhere, nothing where quiet. All on stderr."""
    from cleanweb.records import silent

    if quiet:
        yield silent
    elif not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(),
                   TextColumn("{task.fields[rate]:>12}"), TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as bars:
            tasks: dict[str, Any] = {}

            def show(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total, rate="")
                speed = bars.tasks[tasks[stage]].finished_speed or bars.tasks[tasks[stage]].speed
                bars.update(tasks[stage], completed=done, total=total, rate=rate(speed))

            yield show


def _lines() -> "Progress":
    """Progress where no one watches: a line at the start, at every tenth or minute, and at the end of a stage."""
    import time

    started: dict[str, tuple[float, int]] = {}
    told: dict[str, tuple[int, float]] = {}  # the last line of each stage: its tenth, when

    def show(stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        begun, first = started.setdefault(stage, (now, done))
        tenth = 10 * done // max(total, 1)
        last_tenth, last = told.get(stage, (-1, -inf))
        if now - last >= (_SOONEST_S if tenth > last_tenth else _LATEST_S) or done == total:
            told[stage] = tenth, now
            speed = (done - first) / (now - begun) if now > begun else 0.0
            left = f", {rate(speed)}, {(total - done) / speed:,.0f} s left" if speed else ""
            typer.echo(f"{stage}: {done:,} of {total:,}{left}", err=True)

    return show


def rate(speed: float | None) -> str:
    """How fast, in words; speed: steps a second, None or 0 where it is not known yet."""
    if not speed:
        return ""
    return f"{speed:,.1f}/s" if speed >= 1 else f"{1 / speed:,.1f} s each"


# --- logging --------------------------------------------------------------------------------------------------------


class _Handler(logging.Handler):
    """To stderr as it is now: a progress bar stands in for it, and lets lines pass above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(plain(f"{record.levelname.lower()}: {self.format(record)}"), err=True)


def log_to_stderr(verbosity: int) -> None:
    """0: our notes and warnings; 1: what was found and chosen, and why; 2: everything, other libraries' too; −1: no
    word."""
    ours, everyone = logging.getLogger("cleanweb"), logging.getLogger()
    for handler in [h for h in everyone.handlers if isinstance(h, _Handler)]:  # a second command in one process
        everyone.removeHandler(handler)
    if verbosity >= 0:
        everyone.addHandler(_Handler())
    everyone.setLevel(logging.DEBUG if verbosity > 1 else logging.CRITICAL)
    ours.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO if verbosity else NOTICE)


# --- text -----------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Words that may hold text from a crawl, safe for a terminal: `visible`, but for their lines and columns."""
    return re.sub(r"[^\t\n]+", lambda found: visible(found[0]), text)


def table_stream() -> TextIO:
    """stdout for a table: in UTF-8, as files are, whatever the locale; on a terminal as that has it."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")
    return sys.stdout


def echo_json(value: object) -> None:
    """A line of JSON on stdout; with escapes where stdout cannot hold its characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, default=str)
    typer.echo(text)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else plain(str(value))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Numbers on the right, text on the left."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    all_rows = list(rows)
    for i, name in enumerate(columns):
        numeric = any(isinstance(row[i], int | float) and not isinstance(row[i], bool) for row in all_rows[:50])
        table.add_column(Text(plain(name)), justify="right" if numeric else "left", overflow="fold")
    for row in all_rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)

"""The command line: which commands there are, in the order of the work. Each has its own file in `commands/`."""

import io
import logging
import os
import sys
from typing import Annotated

import typer

from cleanweb import __version__
from cleanweb.bench.commands import app as bench
from cleanweb.commands.audit import audit
from cleanweb.commands.doctor import doctor
from cleanweb.commands.export import export
from cleanweb.commands.export_model import export_model
from cleanweb.commands.fit import fit
from cleanweb.commands.predict import predict
from cleanweb.commands.report import report
from cleanweb.commands.retag import retag
from cleanweb.commands.review import review
from cleanweb.commands.sql import sql
from cleanweb.usage import WIDEST, Command

app = typer.Typer(
    name="cleanweb",
    help="Clean a crawled image dataset: train on its noisy labels, tag every image clean, relabeled or out of "
    "distribution.\n\nExit codes: 0 done · 1 error · 2 wrong command · 3 crawl cannot be learned from · 4 unreadable "
    "files with --strict · 5 machine lacks something · 6 run folder does not fit · 130 interrupted · "
    "143 terminated.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_IN_SHORT = {  # where the first sentence of a command is too long for the list of commands
    fit: "Learn from the noisy labels, and tag every image.",
    audit: "How far can I trust it? Judge a random sample blind.",
    sql: "Ask the manifest in SQL, read-only.",
    retag: "Decide again from the stored scores, without training.",
    export_model: "Hand over the retrained classifier: timm, ONNX, torch.export.",
    predict: "Label images with the retrained classifier.",
    doctor: "Check the machine: libraries, devices, weights, disk.",
}
for command in (
    fit,
    report,
    audit,
    sql,
    review,
    retag,
    export,
    export_model,
    predict,
    doctor,
):  # in the order of the work
    app.command(cls=Command, short_help=_IN_SHORT.get(command))(command)
app.add_typer(bench, name="bench", short_help="Measure how good and how fast it is.")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cleanweb {__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    logging.captureWarnings(True)
    logging.getLogger().addHandler(logging.NullHandler())


def main() -> None:
    """The console script: exit codes as in errors.py, silence on a closed pipe."""
    # GNU OpenMP spins long while it waits: beside another process that made a small network up to ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for stream in (sys.stdout, sys.stderr):  # a file name that is no text, or an old code page, must not end a command
        utf8 = "utf-8" if sys.platform == "win32" and not stream.isatty() else None
        if isinstance(stream, io.TextIOWrapper):  # not what a test puts in its place
            stream.reconfigure(errors="backslashreplace", encoding=utf8)
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)

"""cleanweb report: one HTML file to look at."""

from pathlib import Path
from typing import Annotated

import typer

from cleanweb.commands import JsonOption, Quiet, RunOption
from cleanweb.remote import on_this_machine
from cleanweb.settings import DEFAULT_RUN
from cleanweb.terminal import echo_json, plain, showing_progress, words_for_errors


def report(
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE",
        help="Where to; never overwritten. Default: report.html in the run folder, which is replaced.")] = None,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Write the report: one HTML file with charts and pictures.

    It opens from disk and asks for nothing from the network. fit and retag write it too.

    \b
    Examples:
      cleanweb report
      cleanweb report --run other-run --out other.html
    """
    with words_for_errors(), showing_progress(quiet) as progress:
        from cleanweb import report

        written = report.write(run, None if out is None else on_this_machine(out), progress)
    if as_json:
        echo_json({"report": str(written), "bytes": written.stat().st_size})
    elif not quiet:
        typer.echo(plain(str(written)))

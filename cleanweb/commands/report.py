"""cleanweb report: one HTML file to look at."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cleanweb.commands import JsonOption, RunOption
from cleanweb.settings import DEFAULT_RUN
from cleanweb.terminal import plain, words_for_errors


def report(
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE",
        help="Where to; never overwritten. Default: report.html in the run folder, which is replaced.")] = None,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write the report: one HTML file with charts and pictures.

    It opens from disk and asks for nothing from the network. fit and retag write it too.

    \b
    Examples:
      cleanweb report
      cleanweb report --run other-run --out other.html
    """
    with words_for_errors():
        from cleanweb import report

        written = report.write(run, out)
    facts = {"report": str(written), "bytes": written.stat().st_size}
    typer.echo(json.dumps(facts) if as_json else plain(str(written)))

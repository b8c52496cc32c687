"""cleanweb review: correct the verdicts in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from cleanweb.commands import RunOption
from cleanweb.commands.browser import login, opener
from cleanweb.settings import DEFAULT_RUN
from cleanweb.terminal import plain, words_for_errors

_WORDS = "Ctrl-C ends it. What you decide is stored at once."


def review(
    run: RunOption = Path(DEFAULT_RUN),
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Where to serve; 0: any free port.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")] = False,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Who decides; default: your login name.")] = None,
) -> None:
    """Look at the images and correct the verdicts, in the browser.

    Serves a page on this machine, for the one who has its address. Every decision is in the manifest at once, can be
    undone, and is heeded by export, sql and retag. Ctrl-C ends it. Needs pip install "cleanweb-data[review]".

    \b
    Examples:
      cleanweb review
      cleanweb review --run other-run --port 8000 --no-browser --who ada
    """

    with words_for_errors():
        from cleanweb.review.serve import serve

        ended = serve(run, login() if who is None else who, port, opener(no_browser, _WORDS))
    for line in ended.lines(run):
        typer.echo(plain(line), err=True)

"""cleanweb audit: how far can I trust it?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanweb.commands import JsonOption, RunOption, Verbose
from cleanweb.commands.browser import login, opener
from cleanweb.errors import UsageError
from cleanweb.settings import DEFAULT_RUN, MOST_SEED
from cleanweb.terminal import echo_json, plain, words_for_errors

if TYPE_CHECKING:
    from cleanweb.audit import Audit

_WORDS = "Ctrl-C ends it. What you answer is stored at once."


def audit(
    n: Annotated[
        int | None,
        typer.Option("--n", metavar="COUNT", min=10, help="Pictures to draw; default: 200. Of an audit that has fewer,"
                     " the others are added."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=0, max=MOST_SEED, help="Seed of the draw. Another one draws a new audit."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the pictures as a table to fill in.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Take answers from a table of paths and labels; an empty label: none of the"
                     " classes; ?: cannot tell."),
    ] = None,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Who answers; default: your login name.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print what the last audit says.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Where to serve; 0: any free port.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")] = False,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """How far can I trust it? Judge a random sample blind; it says how often verdicts and labels are right.

    Draws pictures at random, or goes on with those that were drawn. Answers are kept as decisions, as in review.

    \b
    Examples:
      cleanweb audit                        draw 200 pictures, and ask in the browser
      cleanweb audit --sheet sheet.csv      the same, as a table to fill in
      cleanweb audit --answers sheet.csv    take it back, and say what it shows
      cleanweb audit --show --json          say it again, for programs
    """
    with words_for_errors():
        if show or answers:
            if sheet or n or seed is not None or (show and answers):
                raise UsageError("--show or --answers speaks of the audit drawn last: give it without the other, --n, "
                                 "--seed and --sheet.")  # fmt: skip
            found = _answered(run, answers, login() if who is None else who) if answers else _last(run)
        else:
            from cleanweb.audit import draw

            found = draw.go_on(run, n, seed)
            if sheet:
                _hand_out(run, found, sheet, as_json)
                return
            found = _asked(run, found, login() if who is None else who, port, no_browser)
    if as_json:
        echo_json(found.to_json())
    else:
        typer.echo(plain(str(found)))


def _answered(run: Path, table: Path, who: str) -> "Audit":
    from cleanweb.audit import sheet
    from cleanweb.audit.statement import CLASS, NONE

    found = sheet.take(run, table, who)
    if not found.count(CLASS, NONE):
        typer.echo(plain(f"Nothing is filled in yet: every answer in {table} is ?."), err=True)
    _report(run)
    return found


def _asked(run: Path, found: "Audit", who: str, port: int, no_browser: bool) -> "Audit":
    """Ask on the page, until it is ended."""
    from functools import partial

    from cleanweb import manifest
    from cleanweb.review.host import host, needed_packages

    with needed_packages():
        from cleanweb.audit import page
    asking = page.Asking(run, found.audit_id, who)
    host(partial(page.application, asking), port, opener(no_browser, _WORDS))
    manifest.settle(run)
    _report(run)
    return _last(run)


def _last(run: Path) -> "Audit":
    from cleanweb import audit

    return audit.last(run)


def _report(run: Path) -> None:
    from cleanweb import report

    for words in report.write_if_possible(run):
        typer.echo(plain(words), err=True)


def _hand_out(run: Path, found: "Audit", out: Path, as_json: bool) -> None:
    from cleanweb.audit import sheet

    sheet.write(run, found, out)
    if as_json:
        echo_json({"audit_id": found.audit_id, "pictures": len(found.rows), "out": str(out)})
        return
    typer.echo(plain(f"{out}: {len(found.rows):,} pictures of audit {found.audit_id}."))
    words = "In its column label, put the class that each shows, nothing where it shows none of them, or leave the ?."
    typer.echo(plain(f"{words}\nThen: cleanweb audit --answers {out}"), err=True)

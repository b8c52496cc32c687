"""cleanweb retag: decide again from stored scores."""

from pathlib import Path
from typing import Annotated

import typer

from cleanweb.commands import JsonOption, Quiet, RunOption, Verbose, print_summary
from cleanweb.remote import place
from cleanweb.settings import DEFAULT_RUN
from cleanweb.terminal import showing_progress, words_for_errors


def retag(
    min_precision: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Keep as clean as many as leave this share of them right, as 0.95."),
    ] = None,
    keep: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Keep this share of the images as clean, as 0.8.")
    ] = None,
    trusted: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Table of labels verified since, or a reviewed run, as in fit.")
    ] = None,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Decide again from the stored scores, in seconds and without training.

    Without a target every image gets its most probable verdict.

    \b
    Examples:
      cleanweb retag --min-precision 0.95      keep as many as leave 95 % of them right
      cleanweb retag --keep 0.8                keep the surest 80 %
      cleanweb retag --trusted verified.csv    heed what a person has verified
    """
    with words_for_errors(), showing_progress(quiet) as progress:
        from cleanweb import retagging, summary

        done = retagging.retag(
            run, retagging.target(min_precision, keep), place(trusted) if trusted else None, progress
        )
        digest = summary.summarise(done.folder, done.notes, done.retag_s)
    print_summary(digest, as_json, quiet)

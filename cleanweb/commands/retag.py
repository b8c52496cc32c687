"""cleanweb retag: decide again from stored scores."""

from pathlib import Path
from typing import Annotated

import typer

from cleanweb.commands import JsonOption, Quiet, RunOption, print_summary
from cleanweb.settings import DEFAULT_RUN
from cleanweb.terminal import words_for_errors


def retag(
    min_precision: Annotated[
        float | None, typer.Option(help="Keep as clean as many as leave this share of them right, as 0.95.")
    ] = None,
    keep: Annotated[float | None, typer.Option(help="Keep this share of the images as clean, as 0.8.")] = None,
    trusted: Annotated[Path | None, typer.Option(help="Table of labels verified since, as in fit.")] = None,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Decide again from the stored scores: seconds, no training. Without a target: the most probable verdicts."""
    with words_for_errors():
        from cleanweb import retagging, summary

        done = retagging.retag(run, retagging.target(min_precision, keep), trusted)
        digest = summary.summarise(done.folder, done.tables, done.notes)
    print_summary(digest, as_json, quiet)

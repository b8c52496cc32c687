"""cleanweb predict: label new images."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cleanweb.commands import JsonOption, Quiet, RunOption, Verbose
from cleanweb.errors import CrawlError
from cleanweb.settings import DEFAULT_RUN
from cleanweb.terminal import echo_json, showing_progress, words_for_errors
from cleanweb.visible import visible


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Images, folders of images, or tars.")],
    run: RunOption = Path(DEFAULT_RUN),
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, mps.")] = "auto",
    as_json: JsonOption = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Label images with the retrained classifier: path, label, probability.

    \b
    Examples:
      cleanweb predict photo.jpg more-photos/
      cleanweb predict photos/ --json > labels.jsonl
    """
    # where both come to one screen, a bar would stand among the answers
    with words_for_errors(), showing_progress(quiet or sys.stdout.isatty()) as progress:
        from cleanweb import prediction

        labelled = 0
        for answer in prediction.predict(images, run / "classifier", device, progress):
            labelled += answer.label is not None
            if as_json:
                echo_json(answer.to_json())
            elif answer.label is None:
                typer.echo(visible(f"{answer.path}: {answer.error}"), err=True)
            else:
                typer.echo(f"{visible(answer.path)}\t{visible(answer.label)}\t{answer.probability:.4f}")
        if not labelled:
            raise CrawlError("None of these files is an image that can be read.")

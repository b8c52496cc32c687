"""The commands, a file each: parse, call, print. Here is what they share. `cli.py` lists them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanweb.terminal import plain

if TYPE_CHECKING:
    from cleanweb.summary import Summary

RunOption = Annotated[Path, typer.Option("--run", envvar="CLEANWEB_RUN", help="The run folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no words; results and errors only.")]


def print_summary(digest: "Summary", as_json: bool, quiet: bool) -> None:
    """How a run has come out."""
    if as_json:
        typer.echo(json.dumps(digest.to_json(), ensure_ascii=False))
    elif not quiet:
        for line in digest.lines():
            typer.echo(plain(line))

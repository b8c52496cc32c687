"""The commands, a file each: parse, call, print. Here is what they share. `cli.py` lists them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanweb import config
from cleanweb.terminal import log_to_stderr, plain, words_for_errors

if TYPE_CHECKING:
    from cleanweb.summary import Summary


def came_from(ctx: typer.Context, name: str) -> str:
    """Where an option's value stands: commandline, environment, default_map (the settings file), default."""
    source = ctx.get_parameter_source(name)
    return source.name.lower() if source else "default"


def _run_folder(ctx: typer.Context, value: Path) -> Path:
    """Where nothing is said: the run folder that the settings file gives `fit`."""
    if ctx.resilient_parsing or came_from(ctx, "run") != "default":
        return value
    with words_for_errors():
        return Path(str(config.read().values.get("out", value)))


def _verbosity(ctx: typer.Context, value: int) -> int:
    if not ctx.resilient_parsing:
        log_to_stderr(value)
    return value


RunOption = Annotated[
    Path, typer.Option("--run", metavar="DIR", envvar="CLEANWEB_RUN", callback=_run_folder, help="The run folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no words; errors only.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, callback=_verbosity, show_default=False,
                 help="Say what is found and chosen, and why, on stderr; -vv: everything."),
]  # fmt: skip


def print_summary(digest: "Summary", as_json: bool, quiet: bool) -> None:
    """How a run has come out."""
    if as_json:
        typer.echo(json.dumps(digest.to_json(), ensure_ascii=False))
    elif not quiet:
        for line in digest.lines():
            typer.echo(plain(line))

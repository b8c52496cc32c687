"""The commands, a file each: parse, call, print. Here is what they share. `cli.py` lists them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanweb import config
from cleanweb.errors import RunError
from cleanweb.remote import on_this_machine
from cleanweb.settings import outputs
from cleanweb.terminal import echo_json, log_to_stderr, words_for_errors
from cleanweb.visible import visible

if TYPE_CHECKING:
    from cleanweb.summary import Summary

_LEVEL = "cleanweb.verbosity"  # in a context's `meta`


def came_from(ctx: typer.Context, name: str) -> str:
    """Where an option's value stands: commandline, environment, default_map (the settings file), default."""
    source = ctx.get_parameter_source(name)
    return source.name.lower() if source else "default"


def _run_folder(ctx: typer.Context, value: Path) -> Path:
    """Where nothing is said: the run folder that the settings file gives `fit`."""
    if ctx.resilient_parsing:
        return value
    with words_for_errors():
        if came_from(ctx, "run") == "default":
            value = outputs(str(config.read().values.get("out", value)))["out"]
        on_this_machine(value)
        if value.is_file():
            raise RunError(f"{value} is a file, not a run folder. Give --run the folder that cleanweb fit has written.")
    return value


def _talk(ctx: typer.Context, param: typer.CallbackParam, value: int) -> int:
    """How much is said of what happens: each -v a step more, -q a step less, than warnings alone."""
    if not ctx.resilient_parsing:
        ctx.meta[_LEVEL] = ctx.meta.get(_LEVEL, 0) + (-value if param.name == "quiet" else value)
        log_to_stderr(ctx.meta[_LEVEL])
    return value


RunOption = Annotated[
    Path, typer.Option("--run", metavar="DIR", envvar="CLEANWEB_RUN", callback=_run_folder, help="The run folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_talk, help="No progress, no words; errors only.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, callback=_talk, show_default=False,
                 help="Say what is found and chosen, and why, on stderr; -vv: everything."),
]  # fmt: skip


def print_summary(digest: "Summary", as_json: bool, quiet: bool) -> None:
    """How a run has come out."""
    if as_json:
        echo_json(digest.to_json())
    elif not quiet:
        for line in digest.lines():
            typer.echo(visible(line))

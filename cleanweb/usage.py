"""How a command explains itself: its help page in plain text, options in groups; and where a wrong value stands."""

import re
from typing import Any

from typer.core import TyperCommand

from cleanweb.errors import did_you_mean

WIDEST = 100  # characters of a line, where the terminal has as many
SETTINGS_FILE = "cleanweb.settings_file"  # in a context's `meta`: which file its `default_map` was read from


class Command(TyperCommand):
    """A command whose options stand under the names of their `rich_help_panel`, in the order they are declared.

    Rich's own panels draw boxes, load Rich (more than all else a help page needs) and cut long lines into slivers.
    """

    # Typer brings a Click of its own or not: there is no one class to name
    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[Any]] = {"Arguments": []}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is None:  # hidden
                continue
            named = getattr(param, "rich_help_panel", None)
            name = "Arguments" if param.param_type_name == "argument" else named or "Options"
            groups.setdefault(name, []).append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # a UsageError of that Click
            source = ctx.get_parameter_source(getattr(getattr(error, "param", None), "name", None) or "")
            if hasattr(error, "message"):
                error.message = in_words(error.message)
                if source is not None and source.name == "DEFAULT_MAP":
                    error.message += f" It stands in {ctx.meta[SETTINGS_FILE]}."
            raise


def in_words(message: str) -> str:
    """What Typer says of a wrong command, without Pydantic's own words, and with what may have been meant."""
    message = message.replace("Value error, ", "").replace("Input should be", "it should be")
    message = re.sub(r", unable to parse string as an? \w+", "", message)
    if found := re.search(r"'([^']*)' is not one of (.*)", message):
        message += did_you_mean(found[1], re.findall(r"'([^']*)'", found[2]))
    if "unexpected extra argument" in message:
        message += ". Options begin with --; what contains spaces needs quotes."
    return message

"""What commands that open a page share: who sits before it, and how it gets there."""

import os
import sys
from collections.abc import Callable

import typer

from cleanweb.terminal import plain


def opener(no_browser: bool, words: str) -> Callable[[str], None]:
    """Prints an address, and opens it where there is a browser to open it in."""

    def ready(address: str) -> None:
        typer.echo(plain(address))
        typer.echo(plain(words), err=True)
        sys.stdout.flush()
        if not no_browser and _has_display():
            import webbrowser

            webbrowser.open(address)

    return ready


def login() -> str:
    """The login name; empty for a user without one."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))

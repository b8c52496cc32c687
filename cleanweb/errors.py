"""The tree of errors, which is also the table of exit codes.

    CleanwebError 1
    ├── UsageError     2   the command or a setting is wrong
    ├── CrawlError     3   the crawl cannot be learned from: no images, no labels, fewer than two classes
    ├── SomeUnreadable 4   finished, but files were unreadable and `--strict` was given
    ├── MachineError   5   the machine lacks something: a device, weights, memory, disk
    └── RunError       6   the run folder does not fit: another crawl, other settings, unfinished, not a run

A message says what happened, where, what was looked for and what to do. Trouble with one image is a row in the
manifest, never an exception.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean …?" where something known is spelled alike, else ""."""
    near = get_close_matches(word, [*known], n=1)
    return f" Did you mean {near[0]}?" if near else ""


class CleanwebError(Exception):
    """Something a user can act on; printed as one message, without a traceback."""

    exit_code = 1


class UsageError(CleanwebError):
    """The command or a setting is wrong."""

    exit_code = 2


class CrawlError(CleanwebError):
    """The crawl cannot be learned from."""

    exit_code = 3


class SomeUnreadable(CleanwebError):
    """The run finished, but some files were unreadable and `--strict` was given."""

    exit_code = 4


class MachineError(CleanwebError):
    """The machine lacks something the run needs."""

    exit_code = 5


class RunError(CleanwebError):
    """The run folder does not fit the command."""

    exit_code = 6

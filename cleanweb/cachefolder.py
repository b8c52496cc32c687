"""Decoded pixels that outlive the run: a folder of caches, one per crawl and size, of a bounded size in all.

    <--cache-dir>/pixels-0123456789abcdef/    facts.jsonl, pixels-….bin, index.npy, as in any run

A crawl has the same cache as long as its rows, and the sizes and times of its files, are the same: what has changed is
opened again. What was used longest ago makes room. Only what is called so is ever removed.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from cleanweb import atomic, images, journal, opening, remote, runlock
from cleanweb.errors import CleanwebError, MachineError
from cleanweb.records import Sample
from cleanweb.remote import Place
from cleanweb.settings import fingerprint_of_all

_OURS = "pixels-"
_NAME = re.compile(_OURS + "[0-9a-f]{16}")
GB = 10**9


def refuse_inside(folder: Path, crawl: Place) -> None:
    """Raises UsageError where the cache would be written among the crawl's own images."""
    remote.refuse_inside(folder, crawl, "--cache-dir")


@contextmanager
def kept(
    folder: Path, samples: Sequence[Sample], side_px: int, limit_bytes: int | None, again: bool = True
) -> Iterator[Path]:
    """The place in `folder` for the squares of these samples, ours alone meanwhile; others make room for it. again:
    what could not be opened is tried once more.

    Raises RunError where another process works there, MachineError where the disk refuses.
    """
    place = folder / f"{_OURS}{_key(samples, side_px)}"
    atomic.make_folder(place)
    with runlock.only_one(place, "fit"):
        if limit_bytes is not None:
            _make_room(folder, place, limit_bytes - len(samples) * side_px**2 * 3)
        with atomic.told(place):
            os.utime(place)
            if again:
                journal.ask_again(place)
        yield place


def _key(samples: Sequence[Sample], side_px: int) -> str:
    @cache
    def state(file: str) -> tuple[int, int]:
        try:
            found = os.stat(file)  # noqa: PTH116 (strings: a crawl has millions of files)
        except OSError:
            return 0, 0
        return found.st_size, found.st_mtime_ns

    rows = ((s.file, s.row, str(s.status), *state(s.file)) for s in samples)
    return fingerprint_of_all(chain([side_px], rows))


def _make_room(folder: Path, own: Path, for_others_bytes: int) -> None:
    """Remove what was used longest ago until the others take no more than that; not what others use at the moment."""
    others = [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir() and p != own]
    others.sort(key=lambda p: p.stat().st_mtime)
    sizes = {place: sum(file.stat().st_size for file in place.iterdir() if file.is_file()) for place in others}
    for place in others:
        if sum(sizes.values()) <= for_others_bytes:
            return
        with suppress(CleanwebError), runlock.only_one(place, "fit"):
            shutil.rmtree(place, ignore_errors=True)
            sizes.pop(place)


@dataclass(frozen=True)
class Again:
    """Decodes the square of a sample for which the cache had no room, each time it is asked for."""

    samples: Sequence[Sample]
    side_px: int

    def __call__(self, i: int) -> np.ndarray:
        """(s, s, 3) uint8. Raises MachineError where the image cannot be read any more."""
        sample = self.samples[i]
        try:
            data = opening.read_bytes(sample.file, sample.row)
        except (OSError, CleanwebError) as error:
            raise MachineError(f"{sample.path} is not in the cache, and cannot be read again: {error}. Give a larger "
                               "--cache-size.") from error  # fmt: skip
        with images.quiet():
            square = images.inspect_one(data, side_px=self.side_px)[1]
        if square is None:
            raise MachineError(f"{sample.path} is not in the cache, and is no picture any more. Give a larger "
                               "--cache-size.")  # fmt: skip
        return square

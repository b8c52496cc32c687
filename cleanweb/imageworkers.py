"""Every file, once, in worker processes that may crash: facts, and pixels in a `PixelCache` for all later stages.

What is found is kept in a journal, so that a second call goes on where the first was stopped. Time: about that of
decoding, spread over the processes. Memory: one decoded picture in each.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from cleanweb import images, pixelcache
from cleanweb.errors import MachineError
from cleanweb.journal import Journal
from cleanweb.packed import Facts
from cleanweb.pixelcache import PixelCache
from cleanweb.records import NOTICE, ImageFacts, Progress, Status, Unread
from cleanweb.workers import Failed, memory_share, run

log = logging.getLogger(__name__)


def inspect(
    contents: Iterable[tuple[int, Path | bytes | Unread]],
    total: int,
    cache_folder: Path | None,
    size_px: int,
    workers: int,
    progress: Progress,
    room_bytes: int | None = None,
) -> tuple[Facts, PixelCache | None]:
    """Inspect all files on `workers` processes (0: in this one): facts by sample index, and their pixels, as many as
    there is room for.

    No pixels are kept where `cache_folder` is None; else it goes on where an earlier call with it was stopped. A file
    that crashes or hangs its decoder gets Status.ERROR. Raises MachineError where the cache cannot be written.
    """
    journal = begin(cache_folder, size_px, total)
    left = ((i, content) for i, content in contents if i not in journal.facts)
    inspect_into(journal, left, total, workers, progress, room_bytes)
    return journal.facts, None if cache_folder is None else journal.cache()


def begin(cache_folder: Path | None, size_px: int, total: int) -> Journal:
    """The journal of an inspection of so many files; with what an earlier call has found, of which it tells."""
    journal = Journal(cache_folder, size_px)
    if journal.facts:
        log.log(NOTICE, "%s of %s files are inspected already.", f"{len(journal.facts):,}", f"{total:,}")
    return journal


def inspect_into(
    journal: Journal,
    left: Iterable[tuple[int, Path | bytes | Unread]],
    total: int,
    workers: int,
    progress: Progress,
    room_bytes: int | None = None,
) -> None:
    """Inspect what is left of a total of files. Raises as `inspect` does."""
    room = sys.maxsize if room_bytes is None else (room_bytes - journal.held_bytes) // max(workers, 1)
    start = partial(_inspector, journal.folder, journal.size_px, journal.numbers, room)
    try:
        with closing(run(start, left, workers, memory_bytes=memory_share(workers))) as answers:
            for i, answer in answers:
                if isinstance(answer, MachineError):
                    raise answer
                failed = isinstance(answer, Failed)
                journal.add(i, *((ImageFacts(Status.ERROR, answer.words), None) if failed else answer))
                progress("inspect", len(journal.facts), total)
    finally:
        journal.flush()


def _inspector(
    cache_folder: Path | None, size_px: int, numbers: range, room_bytes: int, number: int
) -> Callable[[Path | bytes | Unread], object]:
    """What one process does to one file: (facts, place in the cache), or the MachineError that stops the whole. Its
    squares go to a file of its own, under one of the free numbers: earlier files may end in half a square."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its complaints are told once, as the status
    filling = None if cache_folder is None else pixelcache.Filling(cache_folder, numbers[number])
    kept = [0]

    def inspect_and_keep(content: Path | bytes | Unread) -> object:
        with images.quiet():
            facts, square = images.inspect_one(content, side_px=size_px)
        if square is None or filling is None:
            return facts, None
        if kept[0] + square.nbytes > room_bytes:
            return facts, None
        kept[0] += square.nbytes
        try:
            return facts, filling.append(square)
        except OSError as error:
            return MachineError(f"The decoded images cannot be kept in {cache_folder}: {error}. Free some space there.")

    return inspect_and_keep


def squares(
    contents: Iterable[Path | bytes | Unread], side_px: int, workers: int
) -> Iterator[tuple[ImageFacts, np.ndarray | None]]:
    """Facts of every image, in order, and its centre square (side, side, 3) uint8 where it is a picture; supervised as
    in `inspect`, nothing is kept."""
    ready: dict[int, tuple[ImageFacts, np.ndarray | None]] = {}
    start, due = partial(_squarer, side_px), 0
    for i, answer in run(start, enumerate(contents), workers, memory_bytes=memory_share(workers)):
        ready[i] = (ImageFacts(Status.ERROR, answer.words), None) if isinstance(answer, Failed) else answer
        while due in ready:
            yield ready.pop(due)
            due += 1


def _squarer(side_px: int, _: int) -> Callable[[Path | bytes | Unread], tuple[ImageFacts, np.ndarray | None]]:
    logging.getLogger("PIL").setLevel(logging.CRITICAL)

    def open_and_cut(content: Path | bytes | Unread) -> tuple[ImageFacts, np.ndarray | None]:
        with images.quiet():
            facts, square = images.inspect_one(content, side_px=side_px)
        if square is None or len(square) == side_px:
            return facts, square
        return facts, pixelcache.resized(square, side_px)

    return open_and_cut

"""What inspecting has found so far, on disk, so that a killed run need not open those files again.

One line a shard: a checksum and the facts of some files, written when the pixels it speaks of are flushed. What a kill
loses is the shard that was being collected. A million images make 400 MB of lines. Several processes write at the same
time by keeping a journal each, `facts-<number>.jsonl`, until one of them takes them all over.
"""

import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from cleanweb import atomic, pixelcache
from cleanweb.packed import Facts
from cleanweb.pixelcache import PixelCache, Places, Spot
from cleanweb.records import ImageFacts, Status

_FIELDS = [field.name for field in fields(ImageFacts)]
_FACTS_OF = 2  # what the facts mean: older ones are not mixed with newer ones
_BESIDE = "facts-*.jsonl"
_MOST_FILES = 2**31
_SEEN_ALL = "index.npy"  # which is written when every file has been seen
SHARD_S, SHARD_FILES = 5.0, 1000  # a shard ends with the first of the two


def ask_again(folder: Path) -> None:
    """Have what could not be opened opened once more, though every file has been seen."""
    (folder / _SEEN_ALL).unlink(missing_ok=True)


class Journal:
    """Facts, and the places of the pixels, by sample index: those of earlier processes, and those added since."""

    def __init__(self, folder: Path | None, size_px: int):
        """folder: the pixel cache, for squares of that side; what it holds for another side is removed. None: nothing
        is kept."""
        self.folder, self.size_px = folder, size_px
        self.facts, self.places = Facts(), Places()
        self.numbers, self.held_bytes = range(_MOST_FILES), 0  # of files of pixels that are free; what the others hold
        self._header = [size_px, _FACTS_OF]
        self._shard: list[list[Any]] = []
        self._begun = time.monotonic()
        if folder is not None:
            self.file = folder / "facts.jsonl"
            with atomic.told(folder):
                folder.mkdir(parents=True, exist_ok=True)
                if not self._read(folder):
                    self._clear(folder)
                if not (folder / _SEEN_ALL).exists():
                    self._forget_unread()
            self.take_over()

    @classmethod
    def beside(cls, folder: Path, size_px: int, numbers: range) -> "Journal":
        """A new one, of a process that fills the folder beside others, with files of pixels of its own."""
        journal = cls(None, size_px)
        journal.folder, journal.file = folder, folder / _BESIDE.replace("*", str(numbers[0]))
        journal.numbers = numbers
        return journal

    def take_over(self) -> None:
        """Take what journals beside this one hold, and remove them. What could not be opened is left out: this process
        may see what theirs did not."""
        assert self.folder is not None, "nothing is kept"
        with atomic.told(self.folder):
            sizes = pixelcache.sizes(self.folder)
            self.numbers, self.held_bytes = range(1 + max(sizes, default=-1), _MOST_FILES), sum(sizes.values())
            for file in self.folder.glob(_BESIDE):
                for i, values, place in _entries(file, sizes):
                    if (facts := _facts(values)).sha256:
                        self.add(i, facts, place)
                self.flush()
                file.unlink()

    def cache(self) -> PixelCache:
        """All pixels, where every file has been seen."""
        assert self.folder is not None, "nothing was kept"
        return PixelCache.save(self.folder, max(self.facts, default=-1) + 1, self.places)

    def add(self, i: int, facts: ImageFacts, place: Spot | None) -> None:
        """Note what was found of sample i. Raises MachineError where the disk refuses."""
        self.facts[i] = facts
        if place:
            self.places[i] = place
        self._shard.append([i, [getattr(facts, name) for name in _FIELDS], place])
        if len(self._shard) >= SHARD_FILES or time.monotonic() - self._begun > SHARD_S:
            self.flush()

    def flush(self) -> None:
        """End the shard: what was added is on the disk."""
        if self.folder is None:
            return
        with atomic.told(self.file):
            for number in {place[0] for _, _, place in self._shard if place}:
                atomic.sync(pixelcache.pixel_file(self.folder, number))
            if self._shard:
                with self.file.open("ab") as stream:
                    stream.write(_line(self._shard))
                    stream.flush()
                    os.fsync(stream.fileno())
        self._shard, self._begun = [], time.monotonic()

    def _forget_unread(self) -> None:
        """Files that could not be opened may be there by now: a disk that was not mounted, a right that was missing."""
        for i in [i for i, facts in self.facts.items() if not facts.sha256]:
            del self.facts[i]

    def _clear(self, folder: Path) -> None:
        """Begin anew: nothing that is there is of use."""
        pixelcache.clear(folder)
        for file in folder.glob(_BESIDE):
            file.unlink()
        self.file.write_bytes(_line(self._header))

    def _read(self, folder: Path) -> bool:
        """Take what is whole and drop the rest; False where there is no journal for such squares."""
        if not self.file.exists():
            return False
        good, sizes = 0, pixelcache.sizes(folder)
        with self.file.open("rb") as stream:
            for line in stream:
                shard = _content(line)
                if shard is None or (good == 0 and shard != self._header):
                    break
                if good and not self._take(shard, sizes):
                    break
                good += len(line)
        if good:
            os.truncate(self.file, good)  # what is added must not follow half a line
        return good > 0

    def _take(self, shard: list[list[Any]], sizes: dict[int, int]) -> bool:
        """Remember a shard; False where it speaks of pixels that are not there."""
        if not _is_there(shard, sizes):
            return False
        for i, values, place in shard:
            self.facts[i] = _facts(values)
            if place:
                self.places[i] = tuple(place)
        return True


def _entries(file: Path, sizes: dict[int, int]) -> Iterator[list[Any]]:
    """What a journal says, as far as it is whole."""
    with file.open("rb") as lines:
        for line in lines:
            shard = _content(line)
            if shard is None or not _is_there(shard, sizes):
                return
            yield from shard


def _facts(values: list[Any]) -> ImageFacts:
    status, *others = values
    return ImageFacts(Status(status), *others)


def _is_there(shard: list[list[Any]], sizes: dict[int, int]) -> bool:
    """Whether files of pixels of these sizes hold all that a shard speaks of."""
    return all(place is None or place[2] + place[1] ** 2 * 3 <= sizes.get(place[0], 0) for _, _, place in shard)


def _line(shard: list[Any]) -> bytes:
    text = json.dumps(shard).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _content(line: bytes) -> list[Any] | None:
    """What a line says; None where it is not whole."""
    digest, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or digest != b"%08x" % zlib.crc32(text):
        return None
    return json.loads(text)

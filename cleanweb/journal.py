"""What inspecting has found so far, on disk, so that a killed run need not open those files again.

One line a shard: a checksum and the facts of some files, written when the pixels it speaks of are flushed. What a kill
loses is the shard that was being collected. A million images make 400 MB of lines.
"""

import json
import os
import time
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from cleanweb import atomic, pixelcache
from cleanweb.packed import Facts
from cleanweb.pixelcache import Place, Places
from cleanweb.records import ImageFacts, Status

_FIELDS = [field.name for field in fields(ImageFacts)]
_FACTS_OF = 2  # what the facts mean: older ones are not mixed with newer ones
SHARD_S, SHARD_FILES = 5.0, 1000  # a shard ends with the first of the two


class Journal:
    """Facts, and the places of the pixels, by sample index: those of earlier processes, and those added since."""

    def __init__(self, folder: Path | None, size_px: int):
        """folder: the pixel cache, for squares of that side; what it holds for another side is removed. None: nothing
        is kept."""
        self.folder = folder
        self.facts, self.places = Facts(), Places()
        self._header = [size_px, _FACTS_OF]
        self._shard: list[list[Any]] = []
        self._begun = time.monotonic()
        if folder is not None:
            self.file = folder / "facts.jsonl"
            with atomic.told(folder):
                folder.mkdir(parents=True, exist_ok=True)
                if not self._read(folder):
                    pixelcache.clear(folder)
                    self.file.write_bytes(_line(self._header))

    def add(self, i: int, facts: ImageFacts, place: Place | None) -> None:
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

    def forget_unread(self) -> None:
        """Files that could not be opened may be there by now: a disk that was not mounted, a right that was missing."""
        for i in [i for i, facts in self.facts.items() if not facts.sha256]:
            del self.facts[i]

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
        if any(place and place[2] + place[1] ** 2 * 3 > sizes.get(place[0], 0) for _, _, place in shard):
            return False
        for i, (status, *facts), place in shard:
            self.facts[i] = ImageFacts(Status(status), *facts)
            if place:
                self.places[i] = tuple(place)
        return True


def _line(shard: list[Any]) -> bytes:
    text = json.dumps(shard).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _content(line: bytes) -> list[Any] | None:
    """What a line says; None where it is not whole."""
    digest, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or digest != b"%08x" % zlib.crc32(text):
        return None
    return json.loads(text)

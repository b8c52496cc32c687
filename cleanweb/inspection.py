"""What is there: the facts of every image, which are copies of others, which can be learned from, and what has become
of them since. Trouble with one file is a row; only a crawl of which nothing can be used is an error."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cleanweb import checkpoint, distributed, duplicates, images, imageworkers, machine, opening, remote, scratch
from cleanweb.errors import CrawlError, MachineError
from cleanweb.journal import Journal
from cleanweb.packed import FactsOf
from cleanweb.pixelcache import PixelCache
from cleanweb.records import CLOSED, ImageFacts, Progress, Sample, Status, silent
from cleanweb.settings import fingerprint_of_all
from cleanweb.workers import free_memory


def inspect(
    samples: Sequence[Sample],
    pixels: Path,
    side_px: int,
    workers: int | None,
    progress: Progress,
    room_bytes: int | None = None,
) -> tuple[FactsOf, PixelCache]:
    """Facts of every sample, and the pixels, which are kept in the folder `pixels` as far as there is room; a row that
    names a path again has its first row's facts. torchrun's ranks share the files, on `workers` processes each. Raises
    CrawlError where none can be read."""
    to_open = np.flatnonzero([sample.status not in CLOSED for sample in samples])
    if not len(to_open):
        raise CrawlError("No row of the crawl names a file that can be opened.")
    journal, ranks = imageworkers.begin(pixels, side_px, len(to_open)), distributed.size()
    left = _left(to_open, journal)
    if ranks > 1 and len(left):
        room = None if room_bytes is None else (room_bytes - journal.held_bytes) // ranks
        shares = _Shares(samples, np.array_split(left, ranks), pixels, side_px, journal.numbers, workers, room)
        distributed.share(partial(shares.inspect, progress=progress), shares.inspect, range(ranks))
        journal.take_over()
        left = _left(to_open, journal)  # what could not be opened
    _inspect(journal, samples, left, workers, progress, room_bytes)
    words = set[str]()
    for fact in journal.facts.values():
        if fact.status == Status.OK:
            break
        words.add(fact.error)
    else:
        raise CrawlError(f"None of the {len(to_open)} files can be read: {'; '.join(sorted(words)[:3])}.")
    numbers = np.arange(len(samples))
    for i, first in duplicates.first_rows(samples).items():
        numbers[i] = first
    return journal.facts.of(numbers), journal.cache()


def _left(to_open: np.ndarray, journal: Journal) -> np.ndarray:
    """Those that the journal does not know (m,)."""
    return to_open[[int(i) not in journal.facts for i in to_open]]


@dataclass(frozen=True, slots=True)
class _Shares:
    """What each rank inspects: neighbours, so that few shards are read by two. Picklable: it is sent to other ranks."""

    samples: Sequence[Sample]
    left: list[np.ndarray]  # of each rank: (m,) indices
    pixels: Path
    side_px: int
    numbers: range  # of files of pixels that are free
    workers: int | None
    room_bytes: int | None  # of each rank

    def inspect(self, ranks: Sequence[int], progress: Progress = silent) -> None:
        """The shares of these ranks, each into a journal of its own."""
        for rank in ranks:
            journal = Journal.beside(self.pixels, self.side_px, self.numbers[rank :: len(self.left)])
            _inspect(journal, self.samples, self.left[rank], self.workers, progress, self.room_bytes)


def _inspect(
    journal: Journal, samples: Sequence[Sample], left: np.ndarray, workers: int | None, progress: Progress,
    room_bytes: int | None,
) -> None:  # fmt: skip
    """Inspect what is left (m,), on this machine."""
    workers, total = machine.cores() if workers is None else workers, len(journal.facts) + len(left)
    imageworkers.inspect_into(journal, opening.contents(samples, map(int, left)), total, workers, progress, room_bytes)


def copies_among(
    samples: Sequence[Sample], facts: Sequence[ImageFacts], cache: PixelCache, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The index of each sample's kept copy (n,) and what kind of copy it is (n,), a place in `COPIES`; looked for once
    and kept in `folder`."""
    file = folder / f"copies-{fingerprint_of_all(fact.pixel_digest for fact in facts)}.npz"

    def look() -> dict[str, np.ndarray]:
        kept, kind = duplicates.group(samples, facts, duplicates.picture_comparison(cache.load))
        return {"kept": kept, "kind": kind}

    found = checkpoint.once(file, look)
    return found["kept"], found["kind"]


def changes(samples: Sequence[Sample], facts: Sequence[ImageFacts]) -> dict[int, str]:
    """What has become of files since they were read, in words, by sample index: verdicts are about what was read."""
    there = functools.cache(lambda file: Path(file).exists())

    def change(sample: Sample, fact: ImageFacts) -> str:
        if remote.is_address(sample.file):  # not asked again
            return ""
        if sample.row is None:
            return images.changed_since(Path(sample.file), fact)
        return "" if there(sample.file) else f"the file that held it, {sample.file}, has vanished since it was read"

    found = ((i, change(sample, facts[i])) for i, sample in enumerate(samples) if facts[i].status == Status.OK)
    return {i: words for i, words in found if words}


def not_as_downloaded(samples: Sequence[Sample], facts: Sequence[ImageFacts]) -> dict[int, str]:
    """Which images are not the bytes that were downloaded, in words, by sample index. Where none of them is, they were
    resized or written anew by the crawler, and that is no news of any."""
    said = ((i, sample.sha256.lower(), facts[i].sha256) for i, sample in enumerate(samples) if sample.sha256)
    other, same = dict[int, str](), 0
    for i, then, now in said:
        if now and then != now:
            other[i] = then
        same += then == now
    words = "not the bytes that were downloaded: their SHA-256 was {}"
    return {i: words.format(sha256) for i, sha256 in other.items()} if same else {}


def to_score(samples: Sequence[Sample], facts: Sequence[ImageFacts], kept: np.ndarray) -> np.ndarray:
    """The samples to train on and score: readable, and not a copy of another; with a label or without: indices (m,)."""
    named_again = (Status.REPEATED, Status.CONFLICTING)
    usable = [
        fact.status == Status.OK and sample.status not in named_again
        for sample, fact in zip(samples, facts, strict=True)
    ]
    return np.flatnonzero(np.array(usable) & (kept == np.arange(len(samples))))


def refuse_too_many(n: int, c: int) -> None:
    """Raises MachineError where the probabilities of n images and c classes cannot be held: now, not in some hours."""
    flows, probabilities, free = 12 * c * c, 12 * c * n, free_memory()  # while it is decided (`verdict.py`), at least
    needed = flows + max(0, probabilities - scratch.room_bytes())
    if free is not None and needed > free:
        raise MachineError(
            f"{n:,} images of {c:,} classes need {needed / 1e9:,.1f} GB of memory at least, and {free / 1e9:,.1f} GB "
            "are free here. Leave out classes of a few images, whose labels cannot be judged, or take a larger machine."
        )


def encode(labels: Sequence[str | None]) -> tuple[list[str], np.ndarray]:
    """The class names, sorted, and each label's place among them, −1 where there is none: (n,) int64. Raises CrawlError
    where there are fewer than two."""
    classes = sorted({label for label in labels if label is not None})
    if len(classes) < 2:
        raise CrawlError(f"There are {len(classes)} classes among the readable images: at least two are needed.")
    place = {label: i for i, label in enumerate(classes)}
    return classes, np.array([-1 if label is None else place[label] for label in labels], np.int64)

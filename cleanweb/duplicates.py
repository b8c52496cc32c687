"""Which samples show the same picture, and which copy of it is kept.

Exact copies have equal pixels (a large JPEG's are those of the scale at which it was decoded). Near copies
(recompressed, resized, slightly cropped or brightened) have perceptual hashes that differ in few bits and, since plain
pictures share hashes without being alike, pass a look at the pixels.
Takes samples and their facts; gives, per sample, the copy to keep. Deletes nothing. Time and memory at a million
images: 40 s of one core, 170 MB, for no matrix of all pairs is ever made.
"""

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, groupby

import numpy as np

from cleanweb.records import COPIES, ImageFacts, Sample, Status

Pairs = tuple[np.ndarray, np.ndarray]  # (m,), (m,)
SamePicture = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (m,), (m,) sample indices → (m,) bool

PAIRS = 1 << 9  # pairs looked at together: 2 × 512 thumbnails of 12 KB, and a handful of copies
MOST_BITS = 8  # in which the perceptual hashes of near copies differ
CROWD = 64  # pictures with one and the same hash of which each is compared with so many at most


def first_rows(samples: Sequence[Sample]) -> dict[int, int]:
    """Repeated and conflicting rows → the row that first named their file; its facts and pixels are theirs too."""
    again = {i: s.file for i, s in enumerate(samples) if s.status in (Status.REPEATED, Status.CONFLICTING)}
    files, first = set(again.values()), dict[str, int]()
    for i, sample in enumerate(samples if files else ()):
        if sample.status == Status.OK and sample.row is None and sample.file in files:
            first.setdefault(sample.file, i)
    return {i: first[file] for i, file in again.items() if file in first}


def group(
    samples: Sequence[Sample], facts: Sequence[ImageFacts], same_picture: SamePicture
) -> tuple[np.ndarray, np.ndarray]:
    """Group the n samples by picture: the index of each one's kept copy (n,) int64, its own where it is that or has no
    copy; and what kind of copy of it each is (n,) uint8, a place in `COPIES`.

    A near copy must match its kept copy itself, not a chain of others. Kept is the copy whose label most of the group
    carries, then the one with most pixels, then the first. Only usable samples take part: labeled, readable, and the
    rows that name their path again; those are never kept, for their first row has the pixels.
    """
    first = first_rows(samples)
    usable, digests, hashes = _looks(samples, facts)
    head = _firsts(digests)  # it stands for its copies
    again = np.flatnonzero(head != np.arange(len(head)))
    copies = _Lists(itself=True)  # of all but the most pictures, of which there is only one
    for of, copy in zip(usable[head[again]].tolist(), usable[again].tolist(), strict=True):
        copies[of].append(copy)
    for named_again, row in first.items():
        at = int(np.searchsorted(usable, row))
        if at < len(usable) and usable[at] == row:
            copies[int(usable[head[at]])].append(named_again)

    near = _Lists()
    usable, hashes = np.delete(usable, again), np.delete(hashes, again)
    del digests, head, again  # many, and not needed any more
    for i, j in near_pairs(usable, hashes, same_picture):
        near[i].append(j)
        near[j].append(i)
    stars = _stars(copies, near, samples, facts)
    return _kept(stars, copies, first, samples)


class _Lists(defaultdict[int, list[int]]):
    """A list for every picture that has one; asked for another, an empty one, or one of itself."""

    def __init__(self, itself: bool = False):
        super().__init__()
        self.itself = itself

    def __missing__(self, i: int) -> list[int]:
        self[i] = [i] if self.itself else []
        return self[i]

    def of(self, i: int) -> list[int]:
        """To read alone: none is kept for it."""
        return self.get(i, [i] if self.itself else [])


def _looks(samples: Sequence[Sample], facts: Sequence[ImageFacts]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The usable samples (m,), ascending; the digests of their pixels (m,) and their perceptual hashes (m,) uint64."""
    usable, digests, hashes = array("q"), bytearray(), array("Q")
    for i, (sample, fact) in enumerate(zip(samples, facts, strict=True)):
        if sample.status == Status.OK and fact.status == Status.OK:
            usable.append(i)
            hashes.append(fact.phash)
            digests += hashlib.blake2b(fact.pixel_digest.encode(), digest_size=8).digest()
    return (
        np.array(usable, np.int64),
        np.frombuffer(digests, np.uint64),
        np.array(hashes, np.uint64),
    )


def _firsts(digests: np.ndarray) -> np.ndarray:
    """The place of the first that is equal to each: (m,) int32."""
    order = np.argsort(digests, kind="stable").astype(np.int32)
    starts = _starts(digests[order])
    firsts = np.empty_like(order)
    firsts[order] = np.repeat(order[starts[:-1]], np.diff(starts))
    return firsts


def _starts(ascending: np.ndarray) -> np.ndarray:
    """Where each of k different values begins among them (m,), and the end: (k + 1,) int32."""
    new = np.ones(len(ascending) + 1, bool)
    new[1:-1] = ascending[1:] != ascending[:-1]
    return np.flatnonzero(new).astype(np.int32)


def _stars(copies: _Lists, near: _Lists, samples: Sequence[Sample], facts: Sequence[ImageFacts]) -> list[list[int]]:
    """The pictures to keep, each with the not yet taken ones that match it: best first, as in `group`. Of those that
    have any copy."""

    def votes(i: int) -> int:
        labels = Counter(samples[k].given_label for j in (i, *near.of(i)) for k in copies.of(j))
        return max(labels[samples[k].given_label] for k in copies.of(i))

    order = sorted({*copies, *near}, key=lambda i: (-votes(i), -facts[i].width * facts[i].height, i))
    taken: set[int] = set()
    stars = []
    for i in order:
        if i not in taken:
            stars.append([i, *(j for j in near.of(i) if j not in taken)])
            taken.update(stars[-1])
    return stars


def _kept(
    stars: list[list[int]], copies: _Lists, first: dict[int, int], samples: Sequence[Sample]
) -> tuple[np.ndarray, np.ndarray]:
    """As `group` gives them."""
    kept, kind = np.arange(len(samples)), np.zeros(len(samples), np.uint8)
    for star in stars:
        labels = Counter(samples[i].given_label for picture in star for i in copies.of(picture))
        best = min(
            (i for i in copies.of(star[0]) if i not in first), key=lambda i: (-labels[samples[i].given_label], i)
        )
        for picture in star:
            for i in copies.of(picture):
                if i != best:
                    kept[i], kind[i] = best, COPIES.index("exact" if picture == star[0] else "near")
    return kept, kind


# --- near copies ----------------------------------------------------------------------------------------------------


def near_pairs(index: np.ndarray, hashes: np.ndarray, same_picture: SamePicture) -> Iterator[tuple[int, int]]:
    """The pairs (i, j) of `index` (n,) whose hashes (n,) uint64 differ in at most MOST_BITS and that `same_picture`
    confirms."""
    for a, b in _batches(close_hashes(hashes, MOST_BITS)):
        same = same_picture(index[a], index[b])
        yield from zip(index[a[same]].tolist(), index[b[same]].tolist(), strict=True)


def _batches(pairs: Iterator[Pairs]) -> Iterator[Pairs]:
    """The same pairs in batches of about PAIRS."""
    waiting, n = list[Pairs](), 0
    for pair in pairs:
        waiting.append(pair)
        n += len(pair[0])
        if n >= PAIRS:
            a, b = _joined(waiting)
            for start in range(0, n, PAIRS):
                yield a[start : start + PAIRS], b[start : start + PAIRS]
            waiting, n = [], 0
    if n:
        yield _joined(waiting)


def _joined(waiting: list[Pairs]) -> Pairs:
    return np.concatenate([a for a, _ in waiting]), np.concatenate([b for _, b in waiting])


def close_hashes(hashes: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """All pairs a < b of (n,) uint64 hashes that differ in at most `max_distance` bits, each once, in arrays.

    Multi-index hashing: of three bands of 21, 21 and 22 bits at least one differs in at most max_distance // 3 bits,
    so flipping so many bits of a band and looking the result up finds every pair. Of more than CROWD equal hashes each
    is paired with the first CROWD only: time stays linear where a crawl holds a hundred thousand blank pictures.
    """
    order = np.argsort(hashes, kind="stable").astype(np.int32)
    starts = _starts(hashes[order])
    shared = np.diff(starts) > 1
    for k in np.flatnonzero(shared):
        yield from _within(order[starts[k] : starts[k + 1]])
    for u, v in _close_unique(hashes[order[starts[:-1]]], max_distance):
        several = shared[u] | shared[v]
        a, b = order[starts[u[~several]]], order[starts[v[~several]]]
        yield np.minimum(a, b), np.maximum(a, b)
        yield from _across(u[several], v[several], order, starts)


def _within(members: np.ndarray) -> Iterator[Pairs]:
    for k in range(min(len(members) - 1, CROWD)):
        rest = members[k + 1 :]
        yield np.full(len(rest), members[k]), rest


def _across(u: np.ndarray, v: np.ndarray, order: np.ndarray, starts: np.ndarray) -> Iterator[Pairs]:
    """Pairs of unique hashes → pairs of their members."""
    for x, y in zip(u, v, strict=True):
        few, many = sorted((order[starts[x] : starts[x + 1]], order[starts[y] : starts[y + 1]]), key=len)
        for member in few[:CROWD]:
            yield np.minimum(member, many), np.maximum(member, many)


def _close_unique(unique: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Pairs u < v of sorted unique hashes, each once: in the first band in which they are close enough."""
    bands = [(unique >> np.uint64(shift) & np.uint64((1 << width) - 1)).astype(np.int32) for shift, width in _BANDS]
    for k, (_, width) in enumerate(_BANDS):
        for u, v in _close_in(bands[k], width, unique, max_distance):
            for earlier in range(k):
                new = count_bits(bands[earlier][u] ^ bands[earlier][v]) > max_distance // 3
                u, v = u[new], v[new]
            yield np.minimum(u, v), np.maximum(u, v)


def _close_in(band: np.ndarray, width: int, hashes: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Pairs of hashes (n,), each once, that are close enough in a band, (n,) int32 of `width` bits, and as a whole."""
    order = np.argsort(band, kind="stable").astype(np.int32)
    band, hashes = band[order], hashes[order]  # ascending, so that neighbours look up neighbours
    first = np.zeros((1 << width) + 1, np.int32)  # a value → where it begins
    np.cumsum(np.bincount(band, minlength=1 << width), out=first[1:])
    several = range(max_distance // 3 + 1)
    flips = (sum(1 << bit for bit in bits) for r in several for bits in combinations(range(width), r))
    for top, of_top in groupby(sorted(flips), int.bit_length):
        low = np.flatnonzero(band & (1 << top >> 1) == 0).astype(np.int32)  # the others of a pair have this bit
        for flip in of_top:
            sought = band[low] ^ np.int32(flip)
            n_found = first[1:][sought] - first[sought]
            found = np.flatnonzero(n_found)
            for some in np.array_split(found, 1 + int(n_found[found].sum()) // (1 << 16)):
                n = n_found[some]
                begins = first[sought[some]] - (np.cumsum(n, dtype=np.int32) - n)
                u, v = np.repeat(low[some], n), np.repeat(begins, n) + np.arange(n.sum(), dtype=np.int32)
                near = count_bits(hashes[u] ^ hashes[v]) <= max_distance
                near &= (u < v) | (flip > 0)  # a value finds itself, and both of a pair find each other
                yield order[u[near]], order[v[near]]


_BANDS = ((0, 21), (21, 21), (42, 22))  # shift, width


def count_bits(numbers: np.ndarray) -> np.ndarray:
    """(n,) whole numbers, none negative → (n,) how many of their bits are set."""
    if hasattr(np, "bitwise_count"):  # since numpy 2
        return np.bitwise_count(numbers)
    return _BITS_SET[numbers.view(np.uint16).reshape(len(numbers), numbers.itemsize // 2)].sum(axis=1)


_BITS_SET = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(1, np.uint8)


# --- a look at the pixels -------------------------------------------------------------------------------------------


def picture_comparison(load: Callable[[np.ndarray, int], np.ndarray]) -> SamePicture:
    """The `same_picture` that looks at small pictures; load(indices, size) gives them, (b, size, size, 3) uint8."""

    def same_picture(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        indices, place = np.unique(np.concatenate([a, b]), return_inverse=True)
        looks = thumbnails(load(indices, SIZE_PX))
        return alike(looks[place[: len(a)]], looks[place[len(a) :]])

    return same_picture


def thumbnails(pictures: np.ndarray) -> np.ndarray:
    """(b, 32, 32, 3) uint8 → float32, blurred against recompression, of mean 0 and variance 1 against brightness.

    NaN where a picture is nearly flat: noise blown up to variance 1 shows nothing.
    """
    sums: np.ndarray = pictures.astype(np.uint16)
    for _ in range(2):  # of nine, and of nine of those: 81 × 255 at most, exact
        edged = np.pad(sums, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        rows = edged[:, :-2] + edged[:, 1:-1] + edged[:, 2:]
        sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    looks = sums.astype(np.float32) / 81
    looks -= looks.mean((1, 2, 3), keepdims=True)
    deviation = np.sqrt((looks * looks).mean((1, 2, 3), keepdims=True))
    return looks / np.where(deviation < FLAT, np.nan, deviation)


def alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(m, 32, 32, 3) thumbnails, twice → (m,) bool: is the difference small over all and nowhere large?"""
    squares = ((a - b) ** 2).mean(axis=3)
    whole = np.sqrt(squares.mean((1, 2)))
    tiles = np.sqrt(squares.reshape(-1, 8, 4, 8, 4).mean((2, 4)))
    return (whole <= WHOLE) & (tiles.max((1, 2)) <= TILE)


SIZE_PX = 32
FLAT = 4.0  # grey levels
# Measured on 748 web photos and 60,000 CIFAR-100 images, with cans, bottles and fruit before one background as the
# hardest pairs that are not the same: 99 % of them differ by more than 0.23 over all and by more than 0.54 in a tile of
# 4 × 4 pixels. 95 % of the photos stay below 0.12 and 0.38 when cut by 2 % or brightened, tiny ones below 0.18 and 0.39
# when saved as JPEG of quality 40.
WHOLE = 0.22
TILE = 0.5

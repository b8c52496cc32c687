"""Copies of a picture: all exact ones, near ones without chains or false merges, and which copy is kept."""

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from cleanweb.duplicates import (
    CROWD,
    MOST_BITS,
    SamePicture,
    close_hashes,
    count_bits,
    first_rows,
    group,
    picture_comparison,
    thumbnails,
)
from cleanweb.images import inspect_one
from cleanweb.imageworkers import inspect
from cleanweb.records import COPIES, ImageFacts, Sample, Status, silent


def crawl(*rows: tuple) -> tuple[list[Sample], list[ImageFacts]]:
    """(digest, label, width, phash, status) per sample, the last three optional."""
    samples, facts = [], []
    for i, (digest, label, *rest) in enumerate(rows):
        width, phash, status = (*rest, *(10, 0, Status.OK)[len(rest) :])
        again = status in (Status.REPEATED, Status.CONFLICTING)
        samples.append(Sample(f"{i}", f"{i}", f"/{digest if again else i}", None, label, status))
        facts.append(ImageFacts(Status.OK, width=width, height=1, pixel_digest=digest, phash=phash))
    return samples, facts


def always(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.ones(len(a), bool)


def never(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.zeros(len(a), bool)


def grouped(samples: list[Sample], facts: list[ImageFacts], same_picture: SamePicture) -> tuple[list[int], list[str]]:
    """The kept copy of each, and what kind of copy of it each is, in words."""
    kept, kind = group(samples, facts, same_picture)
    assert (kept.dtype, kind.dtype) == (np.int64, np.uint8)
    return kept.tolist(), [COPIES[place] for place in kind]


def test_exact_copies_keep_the_label_of_most_then_the_first():
    kept, kind = grouped(*crawl(("x", "dog"), ("y", "cat"), ("x", "cat"), ("x", "cat"), ("y", "cat")), never)
    assert kept == [2, 1, 2, 2, 1]
    assert kind == ["exact", "", "", "exact", "exact"]


def test_of_near_copies_the_largest_is_kept():
    kept, kind = grouped(*crawl(("a", "cat", 10, 0b1), ("b", "cat", 30, 0b11), ("c", "cat", 20, 0b111)), always)
    assert kept == [1, 1, 1]
    assert kind == ["near", "", "near"]


def test_labels_of_most_come_before_pixels():
    kept, _ = grouped(*crawl(("a", "cat", 99), ("b", "dog", 10), ("c", "dog", 20)), always)
    assert kept == [2, 2, 2]


def test_a_chain_is_no_group():
    hashes = [0, 0xFF, 0xFFFF, 0xFFFFFF]  # each 8 bits from the next
    samples, facts = crawl(*((str(i), "cat", 10 - i, h) for i, h in enumerate(hashes)))
    kept, _ = grouped(samples, facts, always)
    for i, keeper in enumerate(kept):
        assert (hashes[i] ^ hashes[keeper]).bit_count() <= MOST_BITS
    assert kept == [1, 1, 1, 3]


def test_only_usable_samples_take_part():
    samples, facts = crawl(
        ("x", None, 10, 0, Status.UNLABELED), ("x", "cat"), ("x", None, 10, 0, Status.UNLISTED), ("x", "cat")
    )
    facts[1] = ImageFacts(Status.TRUNCATED, "breaks off")
    assert grouped(samples, facts, always) == ([0, 1, 2, 3], ["", "", "", ""])


def test_rows_that_name_a_path_again_are_exact_copies_of_the_first():
    samples = [
        Sample("a", "a", "/a", None, "cat"),
        Sample("a#2", "a", "/a", None, "dog", Status.CONFLICTING),
        Sample("a#3", "a", "/a", None, "dog", Status.CONFLICTING),
        Sample("b", "b", "/b", None, "dog"),
        Sample("b#2", "b", "/b", None, "dog", Status.REPEATED),
        Sample("gone#2", "gone", "", None, "dog", Status.MISSING),
    ]
    blank = ImageFacts(Status.OK)
    facts = [ImageFacts(Status.OK, pixel_digest="a"), blank, blank, ImageFacts(Status.TRUNCATED, "x"), blank, blank]
    assert first_rows(samples) == {1: 0, 2: 0, 4: 3}
    kept, kind = grouped(samples, facts, never)
    assert kept == [0, 0, 0, 3, 4, 5]  # the rows' pixels are the first row's: it is the one kept
    assert kind == ["", "exact", "exact", "", "", ""]


def test_an_empty_crawl_has_no_groups():
    assert grouped([], [], always) == ([], [])


# --- close hashes ---------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(0, 11))
def test_close_hashes_finds_what_the_whole_matrix_finds(seed, n, max_distance):
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**64, 4, dtype=np.uint64)
    flips = np.uint64(1) << random.integers(0, 64, (n, 7), dtype=np.uint64)
    hashes = centres[random.integers(0, 4, n)] ^ np.bitwise_xor.reduce(flips * (random.random((n, 7)) < 0.5), axis=1)
    expected = {
        (i, j) for j in range(n) for i in range(j) if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= max_distance
    }
    found = [(i, j) for a, b in close_hashes(hashes, max_distance) for i, j in zip(a.tolist(), b.tolist(), strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize("kind", [np.uint64, np.int32])
def test_bits_are_counted_alike_whatever_numpy_offers(monkeypatch: pytest.MonkeyPatch, kind: type):
    numbers = np.random.default_rng(0).integers(0, np.iinfo(kind).max, 1000, dtype=kind)
    expected = [int(number).bit_count() for number in numbers]
    assert count_bits(numbers).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)  # numpy 1
    assert count_bits(numbers).tolist() == expected


def test_close_hashes_take_less_than_64_bytes_each():
    def peak(n: int) -> int:
        hashes = np.random.default_rng(0).integers(0, 2**64, n, dtype=np.uint64)
        tracemalloc.start()
        for _ in close_hashes(hashes, 2):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = 100_000, 300_000
    assert (peak(many) - peak(few)) / (many - few) < 64


def test_a_crowd_of_equal_hashes_takes_linear_time():
    n = 5000
    pairs = sum(len(a) for a, _ in close_hashes(np.zeros(n, np.uint64), MOST_BITS))
    assert n - 1 <= pairs <= CROWD * n


# --- the look at the pixels -----------------------------------------------------------------------------------------


def photo(seed: int) -> Image.Image:
    """Something with the detail of a photograph: noise at all scales, as clouds have it."""
    random, size = np.random.default_rng(seed), 192
    picture = np.zeros((size, size, 3))
    for side in (3, 6, 12, 24, 48, 96):
        layer = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        picture += np.asarray(layer.resize((size, size), Image.Resampling.BICUBIC), float) / side**0.7
    return Image.fromarray(((picture - picture.min()) * (255 / np.ptp(picture))).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return Image.open(out)


CHANGES = {
    "jpeg": lambda picture: jpeg(picture, 40),
    "resized": lambda picture: picture.resize((154, 154)),
    "cut": lambda picture: picture.crop((2, 2, 190, 190)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
}


def found_near(pictures: list[Image.Image], tmp_path) -> list[tuple[int, int]]:
    """Every copy and the one that is kept."""
    contents = []
    for i, picture in enumerate(pictures):
        out = io.BytesIO()
        picture.save(out, "PNG")
        contents.append((i, out.getvalue()))
    facts, pixels = inspect(contents, len(contents), tmp_path / "cache", 96, 0, silent)
    samples = [Sample(f"{i}", f"{i}", f"/{i}", None, "cat") for i in facts]
    kept, _ = grouped(samples, [facts[i] for i in range(len(facts))], picture_comparison(pixels.load))
    return [(i, keeper) for i, keeper in enumerate(kept) if i != keeper]


@pytest.mark.parametrize("change", CHANGES)
def test_light_changes_are_seen_through(tmp_path, change):
    originals = [photo(seed) for seed in range(30)]
    pairs = found_near([*originals, *map(CHANGES[change], originals)], tmp_path)
    assert all(abs(copy - keeper) == 30 for copy, keeper in pairs)  # no false merge
    assert len(pairs) >= 27


def test_plain_pictures_are_not_merged(tmp_path):
    """Blank pages with a little noise, and drawings that differ in one thing only, share their hashes."""
    random = np.random.default_rng(0)
    blanks = [Image.fromarray((250 + random.normal(0, 1, (96, 96, 3))).clip(0, 255).astype(np.uint8)) for _ in range(9)]
    drawings = []
    for colour in ("red", "green", "blue", "black"):
        for shape in ("ellipse", "rectangle"):
            drawing = Image.new("RGB", (96, 96), "white")
            getattr(ImageDraw.Draw(drawing), shape)((24, 24, 72, 72), fill=colour)
            drawings.append(drawing)
    assert found_near(blanks + drawings, tmp_path) == []


def test_thumbnails_of_flat_pictures_are_nothing():
    flat, full = np.full((1, 32, 32, 3), 128, np.uint8), np.asarray(photo(0).resize((32, 32)))[None]
    assert np.isnan(thumbnails(flat)).all()
    assert abs(thumbnails(full).mean()) < 1e-5
    assert thumbnails(full).std() == pytest.approx(1, abs=1e-4)


def test_facts_feed_the_grouping():
    out = io.BytesIO()
    photo(0).save(out, "PNG")
    facts = [inspect_one(out.getvalue())[0]] * 2
    samples = [Sample(f"{i}", "", f"/{i}", None, "cat") for i in range(2)]
    assert grouped(samples, facts, never) == ([0, 0], ["", "exact"])

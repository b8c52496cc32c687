"""Several ranks that share the files find what one finds, wherever they are stopped and however many go on. Here they
work one after the other in this process; `test_distributed.py` starts real ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cleanweb import cachefolder, distributed, images, imageworkers, inspection, journal, opening
from cleanweb.errors import CrawlError, MachineError
from cleanweb.pixelcache import PixelCache
from cleanweb.records import ImageFacts, Sample, Status, Unread, silent
from tests.test_imageworkers import crawl

N, SIDE = 32, 24
SQUARE = SIDE**2 * 3


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """30 pictures, one broken file, one that is gone, and a row that a reader has closed between them."""
    files = crawl(tmp_path / "crawl")
    found = [Sample(file.name, file.name, str(file), None, "ab"[i % 2]) for i, file in enumerate(files)]
    return [*found[:7], Sample("again", found[0].path, found[0].file, None, "a", Status.REPEATED), *found[7:]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened from now on."""
    names: list[str] = []

    def inspect_one(content: Path, *words: object, **more: object) -> object:
        names.extend([content.name] if isinstance(content, Path) else [])  # bytes: there was no room for the pixels
        return original(content, *words, **more)

    original = images.inspect_one
    monkeypatch.setattr(images, "inspect_one", inspect_one)
    return names


class Stop(Exception):
    pass


@contextmanager
def ranks(n: int, stop_after: int | None = None) -> Iterator[None]:
    """n ranks, the last one first; each of them is killed when it has noted so many files."""

    def share(here: distributed.Work, elsewhere: distributed.Work, items: range) -> None:
        stopped = False
        for rank in reversed(range(n)):
            work = elsewhere if rank else here
            try:
                work(items[rank::n])
            except Stop:
                stopped = True
        if stopped:
            raise Stop

    def add(book: journal.Journal, i: int, *found: object) -> None:
        if stop_after is not None and len(book.facts) == stop_after:
            raise Stop
        note(book, i, *found)

    note = journal.Journal.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "size", lambda: n)
        patch.setattr(distributed, "share", share)
        patch.setattr(journal.Journal, "add", add)
        yield


def inspected(samples: list[Sample], folder: Path, room: int | None = None) -> tuple[list[ImageFacts], PixelCache]:
    facts, cache = inspection.inspect(samples, folder, SIDE, 0, silent, room)
    cache.again = cachefolder.Again(samples, SIDE)
    return list(facts), cache


def assert_same(found: tuple[list[ImageFacts], PixelCache], alone: tuple[list[ImageFacts], PixelCache]) -> None:
    facts, cache = found
    assert facts == alone[0]
    readable = np.flatnonzero([fact.status == Status.OK for fact in facts])
    assert (cache.load(readable, SIDE) == alone[1].load(readable, SIDE)).all()


@pytest.mark.parametrize("n", [2, 3, 50])
def test_several_ranks_find_what_one_finds(n: int, samples: list[Sample], tmp_path: Path, opened: list[str]):
    alone = inspected(samples, tmp_path / "alone")
    before = opened.copy()
    opened.clear()
    with ranks(n):
        assert_same(inspected(samples, tmp_path / "shared"), alone)
    assert sorted(opened) == sorted([*before, "gone.png"])  # perhaps another rank did not see it
    assert [file.name for file in (tmp_path / "shared").glob("*.jsonl")] == ["facts.jsonl"]
    opened.clear()
    with ranks(n):
        assert_same(inspected(samples, tmp_path / "shared"), alone)
    assert opened == []


def test_no_file_of_pixels_is_written_by_two_ranks(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inspected(samples[:6], tmp_path / "shared")
    numbers: list[int] = []

    def note(book: journal.Journal, *_: object) -> None:
        numbers.extend(book.numbers[:100])  # of as many processes
        raise Stop

    monkeypatch.setattr(imageworkers, "inspect_into", note)
    with ranks(3), pytest.raises(Stop):
        inspected(samples, tmp_path / "shared")
    assert len(set(numbers)) == 3 * 100
    assert min(numbers) == 1  # 0 is there


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1), (1, 3), (3, 2, 1), (2, 3, 4)])
def test_a_killed_inspection_goes_on_with_any_number_of_ranks(
    sizes: tuple[int, ...], samples: list[Sample], tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(journal, "SHARD_FILES", 1)  # what was noted is on the disk
    alone = inspected(samples, tmp_path / "alone")
    opened.clear()
    for n in sizes[:-1]:
        with ranks(n, stop_after=5), pytest.raises(Stop):
            inspected(samples, tmp_path / "shared")
    with ranks(sizes[-1]):
        assert_same(inspected(samples, tmp_path / "shared"), alone)
    assert max(map(opened.count, opened)) <= 2  # what was opened and not noted when the kill came
    assert len(opened) - len(set(opened)) <= sum(sizes) + 1


def test_a_half_written_journal_of_another_rank_is_taken_as_far_as_it_is_whole(
    samples: list[Sample], tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
):
    alone = inspected(samples, tmp_path / "alone")
    monkeypatch.setattr(journal, "SHARD_FILES", 2)
    with ranks(2, stop_after=9), pytest.raises(Stop):
        inspected(samples, tmp_path / "shared")
    for beside in (tmp_path / "shared").glob("facts-*.jsonl"):
        beside.write_bytes(beside.read_bytes()[:-10])
    opened.clear()
    assert_same(inspected(samples, tmp_path / "shared"), alone)
    assert len(opened) == N - 2 * 8


def test_pixels_of_another_side_go_with_their_journals(samples: list[Sample], tmp_path: Path):
    with ranks(2, stop_after=9), pytest.raises(Stop):
        inspection.inspect(samples, tmp_path / "shared", SIDE // 2, 0, silent)
    assert_same(inspected(samples, tmp_path / "shared"), inspected(samples, tmp_path / "alone"))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_together_they_keep_no_more_than_may_be(n: int, samples: list[Sample], tmp_path: Path):
    room = 13 * SQUARE + 1
    with ranks(n, stop_after=3), pytest.raises(Stop):
        inspected(samples, tmp_path / "shared", room)
    with ranks(n):
        found = inspected(samples, tmp_path / "shared", room)
    kept = sum(file.stat().st_size for file in (tmp_path / "shared").glob("*.bin"))
    assert 13 - n < kept / SQUARE <= 13
    assert_same(found, inspected(samples, tmp_path / "alone"))


def test_what_only_rank_0_sees_is_opened_by_it(samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alone = inspected(samples, tmp_path / "alone")
    seen = opening.contents

    def contents(samples: list[Sample], which: Iterator[int]) -> Iterator[tuple[int, object]]:
        """Another machine's, on which the crawl does not lie."""
        for i, content in seen(samples, which):
            yield i, content if i < N // 2 else Unread(Status.MISSING, "the file is gone")

    share = inspection._Shares.inspect

    def inspect(self: inspection._Shares, ranks: range, *words: object, **more: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if ranks[0]:
                patch.setattr(opening, "contents", contents)
            share(self, ranks, *words, **more)

    monkeypatch.setattr(inspection._Shares, "inspect", inspect)
    with ranks(2):
        assert_same(inspected(samples, tmp_path / "shared"), alone)


def test_another_ranks_full_disk_is_said(samples: list[Sample], small_disk: Path):
    with ranks(2), pytest.raises(MachineError, match="Free some space"):
        inspection.inspect(samples * 40, small_disk / "cache", 64, 0, silent)


@pytest.mark.parametrize("statuses", [[], [Status.MISSING, Status.OUTSIDE]])
def test_a_crawl_without_a_file_to_open_is_refused_in_words(statuses: list[Status], tmp_path: Path):
    closed = [Sample(status, status, f"/{status}", None, "a", status) for status in statuses]
    with pytest.raises(CrawlError, match="No row of the crawl names a file"):
        inspection.inspect(closed, tmp_path / "cache", SIDE, 0, silent)


def test_a_crawl_of_which_nothing_can_be_read_is_refused_with_the_reasons(samples: list[Sample], tmp_path: Path):
    with pytest.raises(CrawlError, match=r"None of the 2 files can be read: .*HTML"):
        inspection.inspect(samples[-2:], tmp_path / "cache", SIDE, 0, silent)


def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    from cleanweb import machine

    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert machine.cores() == 12
    for ranks_here, each in ((1, 12), (4, 3), (5, 2), (24, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks_here))
        assert machine.cores() == each

"""What was inspected is not inspected again, whatever the journal ends with; what cannot be trusted is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cleanweb import journal, pixelcache
from cleanweb.errors import MachineError
from cleanweb.imageworkers import inspect
from cleanweb.journal import Journal
from cleanweb.pixelcache import Filling
from cleanweb.records import ImageFacts, Status, silent
from tests.test_imageworkers import crawl

FACTS = ImageFacts(Status.OK, "", "PNG", 40, 30, 99, "ab" * 32, "cd" * 16, 2**64 - 1, "nöte\udcff")


def filled(folder: Path, n: int, shard: int = 2) -> None:
    """n samples, so many a shard."""
    book, filling = Journal(folder, 4), Filling(folder, 0)
    for i in range(n):
        book.add(i, replace(FACTS, width=i), filling.append(np.full((4, 4, 3), i, np.uint8)))
        if i % shard == shard - 1:
            book.flush()
    book.flush()


def test_facts_come_back_as_they_were(tmp_path: Path):
    filled(tmp_path, 5)
    book = Journal(tmp_path, 4)
    assert book.facts == {i: replace(FACTS, width=i) for i in range(5)}
    assert book.places == {i: (0, 4, i * 48) for i in range(5)}
    assert isinstance(book.facts[0].status, Status)


@pytest.mark.parametrize("cut", range(1, 400, 23))
def test_half_a_line_is_dropped_and_the_next_is_whole(cut: int, tmp_path: Path):
    filled(tmp_path, 6)
    file = tmp_path / "facts.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    for _ in range(2):
        book = Journal(tmp_path, 4)
        assert set(book.facts) in ({0, 1, 2, 3}, {0, 1}, set())
        assert book.facts == {i: replace(FACTS, width=i) for i in book.facts}
    before = set(book.facts)
    book.add(7, FACTS, None)
    book.flush()
    assert set(Journal(tmp_path, 4).facts) == before | {7}


def test_a_line_that_was_changed_is_dropped_with_what_follows(tmp_path: Path):
    filled(tmp_path, 6)
    file = tmp_path / "facts.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"PNG", b"JPG", 1)
    file.write_bytes(b"".join(lines))
    assert set(Journal(tmp_path, 4).facts) == {0, 1}


def test_pixels_that_are_not_there_are_not_believed(tmp_path: Path):
    filled(tmp_path, 6)
    with pixelcache.pixel_file(tmp_path, 0).open("r+b") as stream:
        stream.truncate(48 * 3)
    assert set(Journal(tmp_path, 4).facts) == {0, 1}
    pixelcache.pixel_file(tmp_path, 0).unlink()
    assert not Journal(tmp_path, 4).facts


class Stop(Exception):
    pass


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_inspection_opens_only_what_is_left(workers: int, tmp_path: Path, caplog):
    files, seen = crawl(tmp_path / "crawl"), []
    whole, pixels = inspect(enumerate(files), len(files), tmp_path / "whole", 24, workers, silent)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 20:
            raise Stop

    with pytest.raises(Stop):
        inspect(enumerate(files), len(files), tmp_path / "cache", 24, workers, stop)
    caplog.set_level("INFO")
    again, kept = inspect(
        enumerate(files), len(files), tmp_path / "cache", 24, workers, lambda _, done, __: seen.append(done)
    )
    # the 20th may have come while the processes were being ended: it is inspected again
    kept_before = seen[0] - 1
    assert kept_before in ((20,) if workers == 0 else (19, 20))
    assert f"{kept_before} of 32 files are inspected already" in caplog.text
    assert seen == list(range(kept_before + 1, 33))
    assert again == whole
    assert np.array_equal(kept.load(range(30), 24), pixels.load(range(30), 24))


def test_a_kill_costs_a_shard_at_most(tmp_path: Path, monkeypatch):
    """Nothing runs after a kill, not even the last flush."""
    monkeypatch.setattr(journal, "SHARD_FILES", 8)
    files, seen = crawl(tmp_path / "crawl"), []

    def stop(stage: str, done: int, total: int) -> None:
        if done == 20:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "flush", lambda self, flush=Journal.flush: len(self._shard) == 8 and flush(self))
        with pytest.raises(Stop):
            inspect(enumerate(files), len(files), tmp_path / "cache", 24, 0, stop)
    inspect(enumerate(files), len(files), tmp_path / "cache", 24, 0, lambda _, done, __: seen.append(done))
    assert seen == list(range(17, 33))


def test_what_could_not_be_opened_is_tried_again_until_all_was_seen(tmp_path: Path):
    files = crawl(tmp_path / "crawl")
    away = files[3].rename(tmp_path / "away.png")

    def stop(stage: str, done: int, total: int) -> None:
        if done == 20:
            raise Stop

    with pytest.raises(Stop):
        inspect(enumerate(files), len(files), tmp_path / "cache", 24, 0, stop)
    away.rename(files[3])
    facts, pixels = inspect(enumerate(files), len(files), tmp_path / "cache", 24, 0, silent)
    assert facts[3].status == Status.OK
    assert pixels.index["side"][3] == 24
    files[4].unlink()
    facts, _ = inspect(enumerate(files), len(files), tmp_path / "cache", 24, 0, silent)
    assert facts[4].status == Status.OK  # as it was seen


def test_a_full_disk_is_said(small_disk: Path):
    files = crawl(small_disk.parent / "crawl")
    with pytest.raises(MachineError, match="Free some space"):
        inspect(enumerate(files * 30), 30 * len(files), small_disk / "cache", 64, 0, silent)

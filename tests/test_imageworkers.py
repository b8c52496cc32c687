"""Every file in worker processes: facts and squares, in the journal, again and in order; a crash costs one of them."""

import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleanweb import images, imageworkers, pixelcache
from cleanweb.errors import MachineError
from cleanweb.images import inspect_one
from cleanweb.imageworkers import inspect
from cleanweb.pixelcache import centre_square
from cleanweb.records import ImageFacts, Status, silent
from tests.test_images import NASTY, encoded, scene


def crawl(folder: Path, n: int = 30) -> list[Path]:
    folder.mkdir()
    for i in range(n):
        scene(40 + i, 90 - i, seed=i).save(folder / f"{i:02d}.png")
    (folder / "broken.png").write_bytes(b"<html>")
    return [*sorted(folder.iterdir()), folder / "gone.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_inspect_keeps_the_centre_squares(tmp_path, workers):
    files, calls = crawl(tmp_path / "crawl"), []
    facts, pixels = inspect(
        enumerate(files), len(files), tmp_path / "cache", 48, workers, lambda *call: calls.append(call)
    )
    assert calls == [("inspect", done, 32) for done in range(1, 33)]
    assert [facts[i].status for i in (30, 31)] == [Status.NOT_AN_IMAGE, Status.MISSING]
    sides = pixels.index["side"].tolist()
    assert sides[30:] == [0, 0]
    again = pickle.loads(pickle.dumps(pixels))
    for i in range(30):
        picture = Image.open(files[i])
        assert facts[i] == inspect_one(files[i], side_px=48)[0]
        assert sides[i] == min(48, *picture.size)
        expected = centre_square(picture, 48)
        assert np.array_equal(again.load([i], len(expected))[0], expected)
    assert again.load([3, 1, 3], 20).shape == (3, 20, 20, 3)
    assert again.load([], 20).shape == (0, 20, 20, 3)
    with pytest.raises(KeyError):
        again.load([30], 20)


def test_inspecting_again_takes_what_is_there(tmp_path):
    files, seen = crawl(tmp_path / "crawl", 3), []
    first, _ = inspect(enumerate(files), len(files), tmp_path / "cache", 16, 0, silent)
    again, _ = inspect(enumerate(files), len(files), tmp_path / "cache", 16, 0, lambda *call: seen.append(call))
    assert again == first
    assert not seen
    assert (tmp_path / "cache" / "pixels-000.bin").stat().st_size == 3 * 16 * 16 * 3
    inspect(enumerate(files), len(files), tmp_path / "cache", 8, 0, lambda *call: seen.append(call))
    assert len(seen) == len(files)  # squares of another side


def test_without_a_cache_there_are_facts_only(tmp_path):
    facts, pixels = inspect([(4, encoded(scene()))], 1, None, 32, 0, silent)
    assert pixels is None
    assert facts[4].status == Status.OK
    assert inspect([], 0, tmp_path, 32, 2, silent)[0] == {}


def test_a_process_that_fails_is_a_status_and_a_full_disk_an_error(tmp_path, monkeypatch):
    content = encoded(scene())
    monkeypatch.setattr(pixelcache, "pixel_file", lambda folder, number: folder / "gone" / "pixels.bin")
    with pytest.raises(MachineError, match="Free some space"):
        inspect([(0, content)], 1, tmp_path, 32, 0, silent)
    monkeypatch.setattr(images, "inspect_one", lambda *_, **__: 1 / 0)
    facts, _ = inspect([(0, content)], 1, None, 32, 0, silent)
    assert facts[0] == ImageFacts(Status.ERROR, "ZeroDivisionError: division by zero")


def crash_at_png(number):
    """What stands in for a decoder with a bug: one that takes its process with it, or never comes back."""
    act = imageworkers._squarer(32, number)

    def decode(file):
        if file.name == "crash.png":
            os.kill(os.getpid(), signal.SIGSEGV)
        return act(file)

    return decode


def test_squares_come_in_order_and_a_crash_costs_one_of_them(tmp_path, monkeypatch):
    files = crawl(tmp_path / "crawl", 12)
    files[5] = files[5].rename(tmp_path / "crash.png")
    monkeypatch.setattr(imageworkers, "partial", lambda *_: crash_at_png)
    found = list(imageworkers.squares(files, 32, 2))
    assert found[5] == (ImageFacts(Status.ERROR, "the decoder crashed (signal 11)"), None)
    assert [square is None for _, square in found] == [i in (5, 12, 13) for i in range(14)]
    for file, (facts, square) in zip(files, found, strict=True):
        if square is not None:
            assert facts == inspect_one(file, side_px=32)[0]
            assert square.shape == (32, 32, 3)
            assert np.array_equal(square, pixelcache.resized(centre_square(Image.open(file), 32), 32))


@pytest.mark.skipif(not NASTY.is_dir(), reason="the corpus of broken files is not beside the repository")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_nasty_corpus_comes_through(workers, capfd):
    files = sorted(NASTY.iterdir())
    facts, _ = inspect(enumerate(files), len(files), None, 64, workers, silent)
    assert capfd.readouterr() == ("", "")
    assert len(facts) == len(files)
    assert sum(f.status == Status.OK for f in facts.values()) == (70 if "AVIF" in Image.OPEN else 68)
    assert all(bool(f.error) == (f.status != Status.OK) for f in facts.values())

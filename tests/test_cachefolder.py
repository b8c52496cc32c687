"""The cache of decoded images: nothing is opened twice, nothing stale is taken, no more is kept than may be."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleanweb import cachefolder, images, inspection, pipeline, runlock
from cleanweb.errors import MachineError, RunError, UsageError
from cleanweb.pixelcache import PixelCache
from cleanweb.readers import read
from cleanweb.records import ImageFacts, Sample, Status, silent
from cleanweb.settings import Settings

SIDE = 16
SQUARE = SIDE**2 * 3


def crawl_of(folder: Path, n: int = 6) -> list[Sample]:
    rng = np.random.default_rng(0)
    for i in range(n):
        file = folder / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file)
    return list(read(folder).samples)


def inspected(folder: Path, samples: list[Sample], room: int | None = None) -> PixelCache:
    with cachefolder.kept(folder, samples, SIDE, room) as place:
        cache = inspection.inspect(samples, place, SIDE, 0, silent, room)[1]
    cache.again = cachefolder.Again(samples, SIDE)
    return cache


def test_the_second_time_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    samples = crawl_of(tmp_path / "crawl")
    first = inspected(tmp_path / "cache", samples).load(np.arange(6), SIDE)
    monkeypatch.setattr("cleanweb.images.inspect_one", lambda *_: pytest.fail("an image is opened again"))
    second = inspected(tmp_path / "cache", samples).load(np.arange(6), SIDE)
    assert (first == second).all()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_has_changed_is_opened_again(tmp_path: Path):
    samples = crawl_of(tmp_path / "crawl")
    before = inspected(tmp_path / "cache", samples).load(np.arange(6), SIDE)
    file = Path(samples[2].file)
    state = file.stat()
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after = inspected(tmp_path / "cache", samples).load(np.arange(6), SIDE)
    assert not after[2].any()
    assert (before != after).any((1, 2, 3)).tolist() == [False, False, True, False, False, False]


def test_what_could_not_be_opened_is_tried_again_in_a_new_run_but_not_in_one_that_goes_on(tmp_path: Path):
    samples = crawl_of(tmp_path / "crawl")

    def statuses(again: bool) -> list[Status]:
        with cachefolder.kept(tmp_path / "cache", samples, SIDE, None, again) as place:
            facts, _ = inspection.inspect(samples, place, SIDE, 0, silent)
        return [facts[i].status for i in range(6)]

    def busy(content: Path, *args: object, **named: object) -> tuple[ImageFacts, None]:
        return ImageFacts(Status.ERROR, "it took more than 60 s"), None

    def busy_at_2(content: Path, *args: object, **named: object) -> tuple[ImageFacts, np.ndarray | None]:
        return (busy if content == Path(samples[2].file) else inspect_one)(content, *args, **named)

    inspect_one = images.inspect_one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "inspect_one", busy_at_2)
        assert statuses(again=True)[2] == Status.ERROR
    assert statuses(again=False)[2] == Status.ERROR
    assert statuses(again=True) == [Status.OK] * 6


def test_other_sizes_and_other_crawls_have_caches_of_their_own(tmp_path: Path):
    samples = crawl_of(tmp_path / "crawl")
    inspected(tmp_path / "cache", samples)
    inspected(tmp_path / "cache", samples[:5])
    with cachefolder.kept(tmp_path / "cache", samples, SIDE + 1, None):
        pass
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_what_does_not_fit_is_decoded_each_time_to_the_same_pixels(tmp_path: Path):
    samples = crawl_of(tmp_path / "crawl")
    everything = inspected(tmp_path / "all", samples)
    some = inspected(tmp_path / "some", samples, room=4 * SQUARE + 1)
    assert np.count_nonzero(some.index["side"]) == 4
    assert sum(file.stat().st_size for file in (tmp_path / "some").rglob("*.bin")) == 4 * SQUARE
    assert (some.load(np.arange(6), SIDE) == everything.load(np.arange(6), SIDE)).all()
    none = inspected(tmp_path / "none", samples, room=0)
    assert (none.load(np.arange(6), 8) == everything.load(np.arange(6), 8)).all()


def test_what_does_not_fit_and_is_gone_is_told(tmp_path: Path):
    samples = crawl_of(tmp_path / "crawl")
    cache = inspected(tmp_path / "cache", samples, room=0)
    Path(samples[1].file).unlink()
    Path(samples[2].file).write_bytes(b"no picture")
    for i in (1, 2):
        with pytest.raises(MachineError, match="cache-size"):
            cache.load(np.array([i]), SIDE)


def test_what_was_used_longest_ago_makes_room_and_nothing_else_is_touched(tmp_path: Path):
    crawls = [crawl_of(tmp_path / name, 4) for name in ("one", "two", "three")]
    folder, limit = tmp_path / "cache", 4 * SQUARE * 2 + 4000  # pixels of two, and what is written beside them
    for age, samples in zip((30, 20), crawls, strict=False):
        inspected(folder, samples)
        place = max(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        os.utime(place, (place.stat().st_mtime - age, place.stat().st_mtime - age))
    (folder / "pixels of mine").write_text("not a cache")
    (folder / "notes").mkdir()
    oldest, second = sorted(folder.glob("pixels-*"), key=lambda p: p.stat().st_mtime)
    (folder / "pixels-of-mine").mkdir()
    inspected(folder, crawls[2], limit)
    assert not oldest.exists()
    assert second.exists()
    assert (folder / "pixels of mine").exists()
    assert (folder / "notes").exists()
    assert (folder / "pixels-of-mine").exists()


def test_what_others_work_with_stays(tmp_path: Path):
    one, two = crawl_of(tmp_path / "one", 4), crawl_of(tmp_path / "two", 4)
    inspected(tmp_path / "cache", one)
    [place] = (tmp_path / "cache").iterdir()
    with runlock.only_one(place, "fit"):
        inspected(tmp_path / "cache", two, 0)
        assert (place / "index.npy").exists()
        with pytest.raises(RunError, match="Another process"), cachefolder.kept(tmp_path / "cache", one, SIDE, None):
            pass


def test_a_cache_inside_the_crawl_is_refused(tmp_path: Path):
    crawl_of(tmp_path / "crawl")
    settings = Settings(tmp_path / "crawl", out=tmp_path / "run", cache_dir=tmp_path / "crawl" / "cache")
    with pytest.raises(UsageError, match="inside the crawl"):
        pipeline.fit(settings)
    assert not (tmp_path / "crawl" / "cache").exists()


def test_a_run_with_a_small_cache_ends_as_one_without(crawl: Path, tmp_path: Path):
    asked = {"backbone": "cnn5", "epochs": 1, "workers": 0, "device": "cpu", "hyperparameters": {"rounds": 1}}
    whole = pipeline.fit(Settings(crawl, out=tmp_path / "whole", **asked))
    small = pipeline.fit(Settings(crawl, out=tmp_path / "small", cache_dir=tmp_path / "c", cache_size=5e-5, **asked))
    for column in ("sample_id", "verdict", "reason", "final_label"):
        found, expected = (run.tables["images"][column].fillna("") for run in (small, whole))
        assert found.tolist() == expected.tolist()
    [place] = (tmp_path / "c").iterdir()
    assert 0 < sum(file.stat().st_size for file in place.glob("*.bin")) <= 50_000

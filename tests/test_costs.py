"""What measures the costs measures them rightly, and the crowd it is measured on is what it says."""

import json
import math
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cleanweb import opening, readers
from cleanweb.bench import crowd, ranks, scale, speed
from cleanweb.bench.sources import read_source
from cleanweb.cli import app
from cleanweb.errors import MachineError, UsageError
from cleanweb.images import inspect_one
from cleanweb.records import Status


def size(n: int, seconds: float, main_mb: float) -> dict[str, object]:
    return {"images": n, "stages": {"read": {"cpu_seconds": seconds, "peak_mb": 1.0, "main_mb": main_mb}}}


def test_exponents_are_those_of_the_growth():
    exponents = scale.growth([size(100_000, 200.0, 1), size(1_000, 2.0, 1), size(10_000, 4.0, 1)])["read"]
    assert exponents == pytest.approx([math.log10(2), math.log10(50)])
    assert scale.growth([size(10, 0.0, 1), size(100, 1.0, 1)])["read"] == [None]
    assert scale.bytes_an_image(size(1_000, 1, 100), size(1_001_000, 1, 300)) == pytest.approx(200 * 2**20 / 1e6)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux's books")
def test_each_stage_is_booked_with_its_time_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read() -> int:
        # of its own: what the heap has kept from earlier tests would be taken without growing
        held = mmap.mmap(-1, 30 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        np.frombuffer(held, np.uint8)[:] = 1
        time.sleep(0.5)
        return len(held)

    def compute() -> None:
        child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(0.8)
        child.kill()
        child.wait()

    class Place:
        first = staticmethod(read)
        second = staticmethod(lambda: Place.first() and compute())

    monkeypatch.setattr(scale, "STAGES", {"first": (Place, "first"), "second": (Place, "second")})
    with scale.books(tmp_path / "books.json") as kept:
        before, began = scale._anonymous_mb(), kept.since
        assert Place.second() is None
    found = kept.stages
    assert found["first"].seconds >= 0.5
    assert found["second"].seconds >= 0.8
    assert found["first"].cpu_seconds < 0.4
    assert 0.05 < found["second"].cpu_seconds <= found["second"].seconds + 0.1  # a child's
    took = time.perf_counter() - began
    assert sum(stage.seconds for stage in found.values()) <= took  # the first is not counted in the second, too
    assert found["first"].main_mb > before + 25
    assert found["first"].peak_mb >= found["first"].main_mb / 2
    assert Place.first is read


def test_pairs_are_run_in_turns_and_told_by_their_medians():
    order: list[str] = []
    rates = {"bare": iter([9, 1, 2, 4]), "ours": iter([9, 3, 8, 2])}

    def run(name: str) -> float:
        order.append(name)
        return next(rates[name])

    told = speed.paired(3, bare=lambda: run("bare"), ours=lambda: run("ours"))
    assert (told["ours"]["per_second"], told["ours"]["ratio"]) == (3, 3)  # of 3, 4 and 0.5
    assert told["bare"]["ratio"] == 1
    assert order == ["bare", "ours", "ours", "bare", "bare", "ours", "ours", "bare"]


def test_nothing_is_run_before_where_it_is_dear():
    told = speed.paired(1, False, bare=iter([2]).__next__, ours=iter([3]).__next__)
    assert told["ours"]["ratio"] == 1.5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name != "posix", reason="torchrun's signals")
def test_ranks_are_whole_runs_of_one_and_of_two(tmp_path: Path):
    told = ranks.scaling(1, tmp_path, "test_convnext", 40, 60, 1)
    for way, n, stages in (("head", 40, {"features"}), ("full", 60, set())):
        assert {name: told[way][name]["images"] for name in ("one", "two")} == {"one": n, "two": 2 * n}
        for found in (told[way]["one"], told[way]["two"]):
            assert set(found["stages"]) == {"start", "inspect", "train", "classifier"} | stages
            assert min(found["stages"].values()) >= 0
            assert sum(found["stages"].values()) == pytest.approx(found["seconds"])
            assert found["per_second"] == pytest.approx(found["images"] / found["seconds"], rel=0.1)
            assert 0 < found["busy"] < 4


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="torchrun's signals")
def test_a_run_that_ends_badly_is_no_figure(tmp_path: Path):
    with pytest.raises(MachineError, match="Nothing found at"):
        ranks._fit(tmp_path / "nothing", 1, ["--out", str(tmp_path / "run")])


def test_rows_of_a_made_manifest_are_what_a_manifest_takes(tmp_path: Path):
    told = speed.manifests(1, 1000, tmp_path)
    assert told["rows"] == 1000
    assert told["write"]["ours"]["per_second"] > 0
    assert told["sql"]["sql"]["per_second"] > 0


def test_a_crowd_is_a_crawl_of_variants_some_of_them_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crowd, "SHARD", 90)
    source = _clean(tmp_path / "clean")
    crowd.write(source, 200, 0, tmp_path / "crowd", 1)
    crawl = readers.read(tmp_path / "crowd")
    assert [file.name for file in sorted((tmp_path / "crowd").iterdir())] == [
        f"crawl-0000{k}.parquet" for k in range(3)
    ]
    assert len(crawl.samples) == 200
    found = [inspect_one(content)[0] for _, content in opening.contents(crawl.samples)]
    assert all(facts.status in (Status.OK, Status.TRUNCATED) for facts in found)
    digests = [facts.pixel_digest for facts in found if facts.status == Status.OK]
    assert len(set(digests)) == len(digests) > 150
    monkeypatch.setattr(crowd, "BROKEN", 1.0)
    broken = crowd._variant(Image.new("RGB", (32, 32), "red"), np.random.default_rng(0))
    assert inspect_one(broken)[0].status == Status.TRUNCATED
    with pytest.raises(UsageError, match="pictures"):
        crowd.write(source, 10_000, 0, tmp_path / "larger", 1)


def _clean(folder: Path):
    rng = np.random.default_rng(0)
    for i in range(30):
        place = folder / "abc"[i % 3] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((40, 40)).save(place)
    return read_source(folder)


def test_speed_speaks_json_and_knows_its_figures(tmp_path: Path):
    words = ["bench", "speed", "--only", "start", "--rounds", "1", "--json", "--out", str(tmp_path / "speed.json")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert set(told["figures"]) == {"start"}
    assert {"versions", "commit", "hardware"} <= set(told)
    assert json.loads((tmp_path / "speed.json").read_text()) == told
    assert CliRunner().invoke(app, ["bench", "speed", "--only", "nothing"]).exit_code == 2

"""Killed, stopped, out of disk, twice at once: a run goes on and ends as if nothing had been; nothing is lost."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import torch

from cleanweb import machine, manifest, pipeline
from cleanweb.errors import CrawlError, MachineError, RunError
from cleanweb.retagging import retag
from cleanweb.runfolder import RunFolder
from cleanweb.schema import TABLES
from cleanweb.settings import Settings
from tests.conftest import draw_crawl
from tests.killing import Moment, draw, kill_until_done, rows

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def settings(source: Path, out: Path, **more: object) -> Settings:
    return Settings(source=source, out=out, **{"backbone": "cnn5", "epochs": 2, "workers": 0, "device": "cpu"} | more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- killed ---------------------------------------------------------------------------------------------------------


class KillAt:
    """Kills the process with SIGKILL when a stage has come so far."""

    def __init__(self, stage: str, done: int):
        self.stage, self.done = stage, done

    def __call__(self, stage: str, done: int, total: int) -> None:
        if (stage, done) == (self.stage, self.done):
            os.kill(os.getpid(), signal.SIGKILL)


def killed_fit(asked: Settings, moment: tuple[str, int]) -> None:
    """A run that dies when a stage has come so far, or when a function is called."""
    torch.set_num_threads(1)  # a forked process has no others
    name, done = moment
    if done >= 0:
        pipeline.fit(asked, KillAt(name, done))
        return
    place, _, function = name.rpartition(".")
    owner, _, cls = place.rpartition(".")
    target = getattr(import_module(owner), cls) if cls[0].isupper() else import_module(place)
    setattr(target, function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    pipeline.fit(asked)


ON_CALL = -1
MOMENTS = [("cleanweb.resuming._pack", ON_CALL), ("inspect", 20), ("cleanweb.duplicates.group", ON_CALL),
           ("train", 1), ("train", 3), ("cleanweb.crossfit.believe", ON_CALL), ("score", 2),
           ("cleanweb.score.score", ON_CALL), ("cleanweb.deciding.judged", ON_CALL), ("classifier", 1),
           ("cleanweb.pipeline.save_classifier", ON_CALL),
           ("cleanweb.manifest._publish", ON_CALL), ("cleanweb.resuming.Unfinished.complete", ON_CALL),
           ("cleanweb.resuming.Unfinished.publish", ON_CALL), ("cleanweb.report.render", ON_CALL),
           ("cleanweb.resuming.Unfinished.discard", ON_CALL)]  # fmt: skip


HEAD = [("inspect", 20), ("features", 32), ("cleanweb.tune.FeatureBatches", ON_CALL), ("train", 1), ("train", 5),
        ("score", 3), ("cleanweb.score.score", ON_CALL), ("classifier", 1)]  # fmt: skip


@posix
@pytest.mark.parametrize(("tune", "moments"), [("full", MOMENTS), ("head", HEAD)])
def test_killed_in_every_stage_one_after_the_other_it_ends_alike(
    tune: str, moments: list[tuple[str, int]], crawl: Path, run: Path, tmp_path: Path
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["cleanweb.pipeline"])
    more = {"tune": tune, "backbone": "cnn5" if tune == "full" else f"local-dir:{run / 'classifier'}"}
    asked = settings(crawl, tmp_path / "killed", **more)
    for moment in moments:
        process = processes.Process(target=killed_fit, args=(asked, moment))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, moment
    told: list[tuple[str, int]] = []
    with machine.one_thread(torch.device("cpu")):  # as those that were killed: two add up in another order
        ended = pipeline.fit(asked, lambda stage, done, _: told.append((stage, done)))
        whole = pipeline.fit(settings(crawl, tmp_path / "whole", **more))
    told = [(stage, done) for stage, done in told if stage != "pictures"]  # those of the report
    if tune == "full":
        assert told == []  # all was done
    else:
        assert told[0] == ("score", 1)  # the heads are there, and what they believe; the classifier's last epoch is not
        assert {stage for stage, _ in told} == {"score", "classifier"}
    pd.testing.assert_frame_equal(ended.tables["images"], whole.tables["images"])
    assert set(contents(tmp_path / "killed")) - {".manifest.lock"} == set(contents(tmp_path / "whole"))


WORDS = ["--backbone", "cnn5", "--epochs", "2", "--image-size", "32", "--workers", "2", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@posix
@pytest.mark.parametrize("only_parent", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_commands_stopped_anywhere_end_alike(number: int, only_parent: bool, tmp_path: Path) -> None:
    """The whole process group or the parent alone, with worker processes; `python -m tests.killing` does it longer."""
    draw(tmp_path / "crawl", 50)
    common = ["fit", str(tmp_path / "crawl"), *WORDS]
    whole = pipeline.fit(settings(tmp_path / "crawl", tmp_path / "whole", image_size=32))
    moments: list[Moment] = [("", 1.0), ("inspect", 0.0), ("inspect", 0.2), ("train", 0.0), ("train", 1.0),
                             ("score", 0.1), ("classifier", 0.0), ("classifier", 0.5)]  # fmt: skip
    run = tmp_path / "run"
    wrong, _ = kill_until_done([*common, "--out", str(run)], run, moments, number, only_parent)
    assert not wrong
    pd.testing.assert_frame_equal(rows(run), rows(whole.folder))


def test_a_run_says_from_where_it_goes_on(crawl: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("train", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(settings(crawl, tmp_path / "run"), stop)
    words = ["fit", str(crawl), "--out", str(tmp_path / "run"), "--backbone", "cnn5", "--epochs", "2"]
    words += ["--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "cleanweb", *words], capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert said[0].startswith("note: Going on with the run that began at 20")
    assert said[1:] == [
        "note: 51 of 51 files are inspected already.",
        "note: Going on after epoch 1 of 2 (fold 2 of 9).",
    ]


# --- stopped --------------------------------------------------------------------------------------------------------

ASLEEP = """
import sys, time
from cleanweb.terminal import words_for_errors
with words_for_errors():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        if "--stubborn" in sys.argv:
            print("ready", flush=True)
            time.sleep(60)
"""


def asleep(*words: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", ASLEEP, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_how_to_go_on(number: int, code: int) -> None:
    process = asleep()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert "same command again to go on" in said
    assert "Traceback" not in said.split("Interrupted")[0]
    assert process.returncode == code or "Exit" in said  # outside of the command line Typer's exit is an exception


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(number: int) -> None:
    process = asleep("--stubborn")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "ready\n"  # it has caught the first and takes its time
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert time.monotonic() - began < 10
    assert said == ""


# --- no room --------------------------------------------------------------------------------------------------------


class Full:
    """No space is left from the n-th flush on."""

    def __init__(self, n: int, flush: Callable[[int], None]):
        self.left, self.flush = n, flush

    def __call__(self, handle: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.flush(handle)


@pytest.mark.parametrize("n", [0, 9, 40])
def test_a_disk_that_fills_up_leaves_the_old_run_and_what_was_learned(
    n: int, run: Path, crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(run, tmp_path / "run")
    before = contents(out)
    asked = settings(crawl, out, fresh=True, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Full(n, os.fsync))
        with pytest.raises(MachineError, match="No space left") as caught:
            pipeline.fit(asked)
    assert caught.value.exit_code == 5
    now = contents(out)
    assert {name: now.get(name) for name in before} == before
    assert all(name.startswith("unfinished/") for name in set(now) - set(before))
    pipeline.fit(asked)
    assert contents(out)["manifest.csv"] != before["manifest.csv"]


def test_a_small_disk_is_an_error_in_words(crawl: Path, small_disk: Path) -> None:
    with pytest.raises(MachineError, match="No space left on device"):
        pipeline.fit(settings(crawl, small_disk / "run"))


def test_a_run_folder_that_vanishes_is_an_error_in_words(crawl: Path, tmp_path: Path) -> None:
    def vanish(stage: str, done: int, total: int) -> None:
        if stage == "train":
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(MachineError, match="folder has vanished"):
        pipeline.fit(settings(crawl, tmp_path / "run"), vanish)
    assert not (tmp_path / "run").exists()


def test_a_fresh_fit_that_cannot_begin_leaves_the_old_run(run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(run, tmp_path / "run")
    before = contents(out)
    for label in ("a", "b"):
        (tmp_path / "crawl" / label).mkdir(parents=True)
        (tmp_path / "crawl" / label / "x.jpg").write_text("<html>")
    with pytest.raises(CrawlError):
        pipeline.fit(settings(tmp_path / "crawl", out, fresh=True))
    with pytest.raises(CrawlError):
        pipeline.fit(settings(tmp_path / "none", out, fresh=True))
    assert contents(out) == before


def test_a_fit_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "crawl" / label).mkdir(parents=True)
        (tmp_path / "crawl" / label / "x.jpg").write_text("<html>")
    with pytest.raises(CrawlError):
        pipeline.fit(settings(tmp_path / "crawl", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# --- twice at once --------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_in_a_run_folder(run: Path, crawl: Path, tmp_path: Path) -> None:
    out = shutil.copytree(run, tmp_path / "run")
    words = rf"Another process works on .*: fit, process {os.getpid()} on "
    with RunFolder(out).alone("fit"):
        with pytest.raises(RunError, match=words):
            pipeline.fit(settings(crawl, out, fresh=True))
        with pytest.raises(RunError, match=words):
            retag(out)
    retag(out)


# --- the crawl changes ----------------------------------------------------------------------------------------------


def test_files_that_vanish_or_shrink_while_it_learns_are_noted(tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    draw_crawl(crawl)

    def meddle(stage: str, done: int, total: int) -> None:
        if stage == "train":
            (crawl / "red" / "04.png").unlink(missing_ok=True)
            (crawl / "red" / "05.png").write_bytes(b"short")

    ended = pipeline.fit(settings(crawl, tmp_path / "run", epochs=1), meddle)
    images = ended.tables["images"].set_index("sample_id")
    assert images.at["red/04.png", "note"] == "the file has vanished since it was read"
    assert "has changed since it was read: 5 bytes" in images.at["red/05.png", "note"]
    assert images.loc[["red/04.png", "red/05.png"], "status"].eq("ok").all()
    assert images["note"].notna().sum() == 2
    assert "2 files have changed or vanished since they were read: see their note." in ended.notes


def test_a_parquet_file_that_vanishes_while_it_learns_is_noted(tmp_path: Path) -> None:
    crawl, shard = tmp_path / "crawl", tmp_path / "parquet" / "images.parquet"
    draw_crawl(crawl)
    shard.parent.mkdir()
    rows = [(file.read_bytes(), file.parent.name) for file in sorted(crawl.rglob("*.png"))]
    with duckdb.connect() as con:
        con.execute("CREATE TABLE t (image STRUCT(bytes BLOB, path VARCHAR), label VARCHAR)")
        con.executemany("INSERT INTO t VALUES ({'bytes': ?, 'path': NULL}, ?)", rows)
        con.execute(f"COPY t TO '{shard}' (FORMAT parquet)")

    def meddle(stage: str, done: int, total: int) -> None:
        if stage == "train":
            shard.unlink(missing_ok=True)

    images = pipeline.fit(settings(shard, tmp_path / "run", epochs=1), meddle).tables["images"]
    assert images["status"].eq("ok").all()
    assert images["note"].str.contains("images.parquet, has vanished since it was read").all()


def test_a_crawl_that_loses_files_between_runs_goes_on(tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    draw_crawl(crawl)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(settings(crawl, tmp_path / "run", epochs=1), stop)
    (crawl / "red" / "04.png").unlink()
    images = pipeline.fit(settings(crawl, tmp_path / "run", epochs=1)).tables["images"].set_index("sample_id")
    assert "vanished" in images.at["red/04.png", "note"]
    assert images.at["red/04.png", "verdict"] != "unusable"


# --- the same again -------------------------------------------------------------------------------------------------

MOMENT = {"runs": ["run_id", "started_at", "finished_at", "seconds", "settings", "fingerprint"], "epochs": ["seconds"]}


def test_two_runs_are_equal_in_every_table(crawl: Path, tmp_path: Path) -> None:
    """On a CPU --deterministic changes nothing."""
    one = pipeline.fit(settings(crawl, tmp_path / "one")).folder
    two = pipeline.fit(settings(crawl, tmp_path / "two", deterministic=True)).folder
    for table in TABLES:
        first, second = (manifest.read(run, table).drop(columns=MOMENT.get(table, []), errors="ignore")
                         for run in (one, two))  # fmt: skip
        pd.testing.assert_frame_equal(first, second)
    for name in ("manifest.csv", "manifest.parquet", "scores.npz", "classifier/model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name

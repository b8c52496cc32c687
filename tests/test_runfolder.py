"""The run folder: nothing finished is overwritten, nothing of anybody else is touched, scores come back whole."""

import contextlib
import errno
from dataclasses import fields, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from cleanweb.errors import MachineError, RunError, UsageError
from cleanweb.records import NO_CLASS, UNVERIFIED, Sample, Scores
from cleanweb.resuming import Unfinished
from cleanweb.runfolder import RunFolder
from cleanweb.settings import Settings, fingerprint

SAMPLES = [Sample(f"{i}.png", f"{i}.png", f"/crawl/{i}.png", None, "cat" if i % 2 else "dog") for i in range(4)]
SETTINGS = Settings(source=Path("crawl"))
CLASSES = ["Käse", "a,b", "猫", "it's"]


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def finished(path: Path) -> RunFolder:
    """A run folder as a finished run leaves it."""
    path.mkdir()
    folder = RunFolder(path)
    folder.save_scores(*scored(), CLASSES, None)
    for name in ("manifest.duckdb", "manifest.csv", "manifest.parquet"):
        (path / name).write_text("x")
    folder.classifier.mkdir()
    (folder.classifier / "model.safetensors").write_text("x")
    folder.save_record({"seconds": 1})
    return folder


def scored(n: int = 5) -> tuple[np.ndarray, Scores]:
    rng = np.random.default_rng(0)
    return np.arange(n) * 2, Scores(
        labels=np.array([0, -1, 2, 1, 3]),
        probs=rng.random((n, 4), np.float32),
        view_disagreement=rng.random(n, np.float32),
        js_clean=np.array([0.1, np.nan, 0.3, 0.4, 0.5], np.float32),
        neighbours=rng.integers(0, n, (n, 3)).astype(np.int32),
        similarity=rng.random((n, 3), np.float32),
        verified=np.array([UNVERIFIED, 2, NO_CLASS, UNVERIFIED, 3]),
    )


# --- beginning ------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_overwritten_unless_asked(tmp_path: Path):
    folder = finished(tmp_path / "run")
    before = tree(folder.path)
    with pytest.raises(RunError, match=r"finished run.*--fresh"):
        folder.refuse_finished(False)
    assert tree(folder.path) == before
    folder.refuse_finished(True)


def open_folder(path: Path, fresh: bool) -> None:
    folder = RunFolder(path)
    folder.refuse_finished(fresh)
    with folder.alone("fit"):
        Unfinished(path).begin(replace(SETTINGS, fresh=fresh), SAMPLES)


FOREIGN = ["holiday.jpg", "cache/holiday.jpg", "unfinished/x", "manifest.json", "classifier/x"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_of_something_else_is_refused(name: str, tmp_path: Path):
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        open_folder(tmp_path / "mine", False)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", FOREIGN)
def test_fresh_takes_nothing_from_a_folder_of_something_else(name: str, tmp_path: Path):
    """Refused or not."""
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with contextlib.suppress(RunError):
        open_folder(tmp_path / "mine", True)
    assert mine.exists()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_is_no_run_folder(fresh: bool, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="not a run folder"):
        open_folder(tmp_path / "file", fresh)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("inside", ["", "run", "a/b/run"])
def test_a_run_never_lies_inside_the_crawl(inside: str, tmp_path: Path):
    with pytest.raises(UsageError, match="inside the crawl"):
        RunFolder(tmp_path / "crawl" / inside).refuse_inside(tmp_path / "crawl")


def test_a_run_may_lie_beside_or_around_the_crawl(tmp_path: Path):
    RunFolder(tmp_path / "crawl-run").refuse_inside(tmp_path / "crawl")
    RunFolder(tmp_path).refuse_inside(tmp_path / "crawl")


def test_a_link_into_the_crawl_is_inside_it(tmp_path: Path):
    (tmp_path / "crawl" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "crawl" / "sub")
    with pytest.raises(UsageError):
        RunFolder(tmp_path / "link" / "run").refuse_inside(tmp_path / "crawl")


def test_fingerprints_are_the_same_for_the_same_and_different_for_others():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint([1, [2, 3]]) != fingerprint([1, 2, 3])


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, {"epsilon": 0.6, "tau": 0.95}])
def test_scores_come_back_as_they_were(rule: dict | None, tmp_path: Path):
    folder = RunFolder(tmp_path)
    rows, scores = scored()
    folder.save_scores(rows, scores, CLASSES, rule)
    found_rows, found, classes, found_rule = folder.load_scores()
    np.testing.assert_array_equal(found_rows, rows)
    assert classes == CLASSES
    assert all(type(name) is str for name in classes)
    assert found_rule == rule
    for field in fields(Scores):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(scores, field.name))
        assert getattr(found, field.name).dtype == getattr(scores, field.name).dtype
    assert set(tree(tmp_path)) == {"scores.npz"}


def test_scores_hold_no_pickle(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.save_scores(*scored(), CLASSES, None)
    with np.load(folder.scores, allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored)


def test_without_scores_the_user_is_told_what_to_do(tmp_path: Path):
    with pytest.raises(RunError, match="cleanweb fit"):
        RunFolder(tmp_path / "nothing").load_scores()


@pytest.mark.parametrize("damage", ["half", "empty", "text", "other"])
def test_damaged_scores_are_refused_in_words(damage: str, tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.save_scores(*scored(), CLASSES, None)
    stored = folder.scores.read_bytes()
    if damage == "other":
        np.savez(folder.scores, something=np.zeros(3))
    else:
        folder.scores.write_bytes({"half": stored[: len(stored) // 2], "empty": b"", "text": b"not scores"}[damage])
    with pytest.raises(RunError, match=r"scores\.npz"):
        folder.load_scores()


def test_scores_that_were_not_written_leave_the_last_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tmp_path)
    folder.save_scores(*scored(), CLASSES, None)
    before = folder.scores.read_bytes()

    def full(stream: BinaryIO, **arrays: np.ndarray) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(MachineError, match="No space"):
        folder.save_scores(*scored(), CLASSES, None)
    assert folder.scores.read_bytes() == before

"""The whole story on tiny crawls: nothing is lost, nothing is written into the crawl, a stopped run goes on."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from cleanweb import inspection, pipeline
from cleanweb.errors import CrawlError, MachineError, RunError, UsageError
from cleanweb.methods import Method
from cleanweb.settings import Settings
from tests.conftest import COLOURS, PER_CLASS, draw_crawl


def settings(source: Path, out: Path, **more: object) -> Settings:
    return Settings(source=source, out=out, **{"backbone": "cnn5", "epochs": 2, "workers": 0, "device": "cpu"} | more)


def digest(folder: Path) -> str:
    marks = [(str(p.relative_to(folder)), p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*.*"))]
    return hashlib.sha256(repr(marks).encode()).hexdigest()


def test_the_crawl_is_left_as_it_was(tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    draw_crawl(crawl)
    before = digest(crawl)
    pipeline.fit(settings(crawl, tmp_path / "run"))
    assert digest(crawl) == before


class Stop(Exception):
    pass


@pytest.mark.parametrize("recipe", ["auto", "paper"])
def test_a_stopped_run_goes_on_and_ends_alike(recipe: str, crawl: Path, tmp_path: Path) -> None:
    def stop_in_training(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == total - 1:
            raise Stop

    whole = pipeline.fit(settings(crawl, tmp_path / "whole", recipe=recipe))
    with pytest.raises(Stop):
        pipeline.fit(settings(crawl, tmp_path / "stopped", recipe=recipe), stop_in_training)
    assert (tmp_path / "stopped" / "unfinished" / "learning").exists()
    resumed = pipeline.fit(settings(crawl, tmp_path / "stopped", recipe=recipe))
    pd.testing.assert_frame_equal(resumed.tables["images"], whole.tables["images"])
    assert not (tmp_path / "stopped" / "unfinished").exists()


def test_what_is_planned_otherwise_by_now_is_learned_anew(
    crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a GPU or the hub was there when the run began."""

    def stop_at_last(stage: str, epoch: int, method: Method) -> None:
        raise Stop

    with pytest.raises(Stop):
        pipeline.fit(settings(crawl, tmp_path / "stopped"), watch=stop_at_last)
    monkeypatch.setattr(pipeline.plan, "FEW_IMAGES", 1)  # one round of networks instead of three
    resumed = pipeline.fit(settings(crawl, tmp_path / "stopped"))
    alone = pipeline.fit(settings(crawl, tmp_path / "alone"))
    pd.testing.assert_frame_equal(resumed.tables["images"], alone.tables["images"])


def test_two_images_are_enough_to_learn_from(tmp_path: Path) -> None:
    for label in [*COLOURS][:2]:
        (tmp_path / "crawl" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32), label).save(tmp_path / "crawl" / label / "1.png")
    images = pipeline.fit(settings(tmp_path / "crawl", tmp_path / "run")).tables["images"]
    assert (images["verdict"] != "unusable").all()


def test_the_last_fold_and_the_classifier_can_be_watched_and_are_not_disturbed(crawl: Path, tmp_path: Path) -> None:
    seen = []

    def watch(stage: str, epoch: int, method: Method) -> None:
        p, _ = method.predict(torch.zeros(2, 3, 32, 32))
        assert p.shape == (2, len(COLOURS))
        seen.append((stage, epoch))

    watched = pipeline.fit(settings(crawl, tmp_path / "watched"), watch=watch)
    alone = pipeline.fit(settings(crawl, tmp_path / "alone"))
    pd.testing.assert_frame_equal(watched.tables["images"], alone.tables["images"])
    assert seen == [("train", 1), ("train", 2), ("classifier", 1), ("classifier", 2)]


def test_an_unfinished_run_with_other_settings_is_refused(crawl: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        pipeline.fit(settings(crawl, tmp_path / "run"), stop)
    with pytest.raises(RunError, match="--fresh"):
        pipeline.fit(settings(crawl, tmp_path / "run", seed=1))
    pipeline.fit(settings(crawl, tmp_path / "run", seed=1, fresh=True))


def test_rows_and_files_of_every_kind_are_in_the_manifest(crawl: Path, tmp_path: Path) -> None:
    rows = [(f"{label}/{i:02d}.png", label) for label in COLOURS for i in range(PER_CLASS)]
    rows += [("red/00.png", "red"), ("red/01.png", "blue"), ("red/none.png", "red"), ("red/broken.jpg", "red")]
    rows[2] = (rows[2][0], "")
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows), encoding="utf-8")
    run = pipeline.fit(settings(crawl, tmp_path / "run", labels=table))
    images = run.tables["images"].set_index("sample_id")
    assert len(images) == len(rows) + 2  # two files of the folder have no row
    status = images["status"]
    assert status["red/00.png#2"] == "repeated"
    assert status["red/01.png#2"] == "conflicting"
    assert status["red/none.png"] == "missing"
    assert status["red/02.png"] == "unlabeled"
    assert status["red/copy of 00.png"] == status["blue/stray.png"] == "unlisted"
    useless = ["red/none.png", "red/02.png", "blue/stray.png", "red/broken.jpg"]
    assert (images.loc[useless, "verdict"] == "unusable").all()
    assert images["reason"].notna().all()
    assert "the model sees" in images.at["red/02.png", "reason"]
    assert images.at["red/00.png#2", "verdict"] == images.at["red/00.png", "verdict"]


def test_a_crawl_of_broken_files_is_an_error_in_words(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "crawl" / label).mkdir(parents=True)
        (tmp_path / "crawl" / label / "x.jpg").write_text("<html>")
    with pytest.raises(CrawlError, match="HTML"):
        pipeline.fit(settings(tmp_path / "crawl", tmp_path / "run"))


def test_more_classes_than_the_memory_holds_are_refused_before_anything_is_learned(
    crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "free_memory", lambda: 1000)
    inspection.refuse_too_many(10**6, 9)  # their probabilities lie on the disk
    monkeypatch.setattr(inspection.scratch, "room_bytes", lambda: 0)
    words = r"48 images of 3 classes need .* GB of memory at least, and 0\.0 GB are free"
    with pytest.raises(MachineError, match=words):
        pipeline.fit(Settings(source=crawl, out=tmp_path / "run", backbone="cnn5", workers=0, device="cpu"))
    monkeypatch.setattr(inspection, "free_memory", lambda: None)  # not told: it is tried
    inspection.refuse_too_many(10**9, 10**6)
    monkeypatch.setattr(inspection, "free_memory", lambda: 8 << 30)
    inspection.refuse_too_many(20_000, 10_000)


def test_one_class_among_the_readable_is_an_error_in_words(tmp_path: Path) -> None:
    draw_crawl(tmp_path / "crawl")
    for label in ("green", "blue"):
        for file in (tmp_path / "crawl" / label).iterdir():
            file.write_bytes(b"")
    with pytest.raises(CrawlError, match="at least two"):
        pipeline.fit(settings(tmp_path / "crawl", tmp_path / "run"))


def test_what_a_person_verified_is_never_overruled(crawl: Path, tmp_path: Path) -> None:
    table = tmp_path / "trusted.csv"
    said = {"red/00.png": "blue", "red/01.png": "red", "green/05.png": "", "blue/stray.png": "green"}
    table.write_text("path,label\n" + "".join(f"{k},{v}\n" for k, v in said.items()), encoding="utf-8")
    images = pipeline.fit(settings(crawl, tmp_path / "run", trusted=table)).tables["images"].set_index("sample_id")
    assert images.loc["red/00.png", ["verdict", "final_label"]].tolist() == ["relabeled", "blue"]
    assert images.loc["red/copy of 00.png", "final_label"] == "blue"  # the same picture
    assert images.loc["red/01.png", "verdict"] == "clean"
    assert images.loc["green/05.png", "verdict"] == "ood"
    assert images.loc[["red/00.png", "red/01.png", "green/05.png"], "confidence"].eq(1).all()
    assert images.loc["red/00.png", "reason"] == "verified by a person"
    assert images.loc["green/03.png", "final_label"] == images.loc["blue/stray.png", "final_label"] == "green"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("red/99.png,red", "red/99.png"),
        ("red/00.png,purple", "purple"),
        ("red/00.png,red\nred/00.png,blue", "two labels"),
    ],
)
def test_verified_labels_that_do_not_fit_the_crawl_are_refused(
    rows: str, words: str, crawl: Path, tmp_path: Path
) -> None:
    (tmp_path / "trusted.csv").write_text(f"path,label\n{rows}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        pipeline.fit(settings(crawl, tmp_path / "run", trusted=tmp_path / "trusted.csv"))

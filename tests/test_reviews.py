"""Decisions of people: stored at once, undone exactly, respected by everything that comes after; nothing is lost."""

import gzip
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import cleanweb
from cleanweb import carried, database, deciding, manifest, pipeline, reviews
from cleanweb.audit import Answer, answers, draw
from cleanweb.errors import RunError, UsageError
from cleanweb.records import Sample, Target
from cleanweb.retagging import retag
from cleanweb.schema import SCHEMA_VERSION, TABLES
from cleanweb.settings import Settings
from cleanweb.written import Written

WHAT = ("sample_id", *reviews.CHANGED)
COPIES = ("red/00.png", "red/copy of 00.png")


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A run of the test's own."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def rows(run: Path, sql: str) -> list[tuple]:
    return list(manifest.query(run, sql)[1])


def everything(run: Path) -> list[tuple]:
    return rows(run, "SELECT * FROM images ORDER BY rowid")


def said(run: Path, sample_id: str) -> dict[str, object]:
    [values] = rows(run, f"SELECT {', '.join(WHAT)} FROM images WHERE sample_id = '{sample_id}'")
    return dict(zip(WHAT, values, strict=True))


def labels(run: Path) -> dict[str, str | None]:
    return {sample_id: standing.label for sample_id, standing in reviews.current(run).items()}


def test_a_decision_is_one_row_and_the_verdict(own):
    old = said(own, "red/02.png")
    done = reviews.decide(own, ["red/02.png"], "relabeled", "blue", "ada")
    assert done == reviews.Done([1], ["red/02.png"], [])
    new = said(own, "red/02.png")
    assert new == {"sample_id": "red/02.png", "verdict": "relabeled", "suggested_label": "blue", "final_label": "blue",
                   "p_clean": 0, "p_id": 1, "p_ood": 0, "confidence": 1, "needs_review": False,
                   "reason": "verified by a person"}  # fmt: skip
    [row] = rows(own, "SELECT who, path, old_verdict, old_label, verdict, label, audit_id, undone_at FROM reviews")
    assert row == ("ada", "red/02.png", old["verdict"], old["final_label"], "relabeled", "blue", None, None)
    [(age,)] = rows(own, "SELECT epoch(now() AT TIME ZONE 'UTC') - epoch(decided_at) FROM reviews")
    assert 0 <= age < 60
    assert rows(own, "SELECT count(*) FROM relabeled WHERE sample_id = 'red/02.png'") == [(1,)]


def test_undoing_everything_in_any_order_brings_everything_back(own):
    before = everything(own)
    done = [reviews.decide(own, ["red/02.png", "blue/03.png"], "ood").review_ids]
    done.append(reviews.decide(own, ["red/02.png"], "relabeled", "green").review_ids)
    done.append(reviews.decide(own, [COPIES[1]], "ood").review_ids)
    done.append(reviews.decide(own, [COPIES[0]], "clean").review_ids)
    done.append(reviews.accept(own, ["green/01.png"]).review_ids)
    assert [len(ids) for ids in done] == [2, 1, 1, 1, 1]
    for ids in (done[0], done[3], done[1], done[4], done[2]):
        reviews.undo(own, ids)
    assert everything(own) == before
    assert reviews.current(own) == {}
    assert reviews.undo(own, [1, 2, 3]).review_ids == []


def test_after_undo_an_earlier_decision_holds_again(own):
    reviews.decide(own, ["red/02.png"], "ood")
    second = reviews.decide(own, ["red/02.png"], "clean")
    reviews.undo(own, second.review_ids)
    assert said(own, "red/02.png")["verdict"] == "ood"
    assert labels(own) == {"red/02.png": None}


def test_a_decision_holds_for_all_copies(own):
    reviews.decide(own, [COPIES[0]], "ood")
    done = reviews.decide(own, [COPIES[1]], "relabeled", "green")
    assert set(done.changed) == set(COPIES)
    assert labels(own) == dict.fromkeys(COPIES, "green")
    assert {said(own, key)["final_label"] for key in COPIES} == {"green"}


def test_a_copy_under_another_label_is_relabeled_where_the_picture_keeps_its_own(own):
    [(copy, given)] = rows(own, "SELECT sample_id, given_label FROM images WHERE sample_id IN ('blue/stray.png', "
                                "'green/03.png') AND duplicate_of IS NOT NULL")  # fmt: skip
    reviews.decide(own, ["green/03.png"], "relabeled", "green")
    assert {said(own, key)["final_label"] for key in ("blue/stray.png", "green/03.png")} == {"green"}
    assert said(own, "green/03.png")["verdict"] == "clean"
    assert said(own, "blue/stray.png")["verdict"] == "relabeled"
    assert "copy of" in said(own, copy)["reason"]
    both = reviews.decide(own, ["green/03.png", "blue/stray.png"], "clean")  # one picture cannot be both
    assert both.conflicts == ["blue/stray.png"]
    assert given in ("green", "blue")


def test_retag_makes_the_same_rows(own):
    reviews.decide(own, ["green/03.png"], "relabeled", "red", "ada")
    reviews.decide(own, [COPIES[1], "blue/01.png"], "ood", who="ada")
    reviews.decide(own, ["blue/stray.png", "red/05.png"], "clean")
    chosen = f"SELECT {', '.join(WHAT)} FROM images WHERE contains(reason, 'verified') ORDER BY rowid"
    before, stored = rows(own, chosen), rows(own, "SELECT * EXCLUDE (before) FROM reviews ORDER BY 1")
    assert len(before) == 6
    retag(own)
    assert rows(own, chosen) == before
    assert rows(own, "SELECT * EXCLUDE (before) FROM reviews ORDER BY 1") == stored


def test_undo_after_retag_brings_back_what_retag_says_without_it(own):
    retag(own, Target(keep=0.5))
    before = everything(own)
    retag(own)
    done = reviews.decide(own, ["green/03.png", "red/07.png"], "ood")
    retag(own, Target(keep=0.5))
    reviews.undo(own, done.review_ids)
    changed = {"green/03.png", "red/07.png", "blue/stray.png"}
    assert [row for row in everything(own) if row[0] in changed] == [row for row in before if row[0] in changed]
    retag(own, Target(keep=0.5))
    assert everything(own) == before  # what was calibrated by them too


def test_what_changed_since_it_was_seen_is_left_alone(own):
    def mark(key: str) -> str:
        standing = reviews.current(own).get(key)
        return reviews.mark(standing and standing.review_id, said(own, key)["verdict"], said(own, key)["final_label"])

    seen = {key: mark(key) for key in ("red/02.png", "red/03.png")}
    assert reviews.decide(own, ["red/02.png"], "ood", who="ada", seen=seen).conflicts == []
    late = reviews.decide(own, ["red/02.png", "red/03.png"], "clean", who="bob", seen=seen)
    assert late.conflicts == ["red/02.png"]
    assert late.changed == ["red/03.png"]
    assert said(own, "red/02.png")["verdict"] == "ood"
    assert reviews.decide(own, ["red/02.png"], "clean", seen={"red/02.png": mark("red/02.png")}).conflicts == []


@pytest.mark.parametrize(("ids", "verdict", "label", "words"), [
    (["red/02.png"], "relabeled", "cat", "'cat' is none of the 3 classes"),
    (["red/02.png"], "relabeled", None, "needs a label"),
    (["red/02.png"], "ood", "blue", "has none"),
    (["red/02.png"], "unusable", None, "cannot be decided"),
    (["red/02.png", "nowhere"], "ood", None, "no sample 'nowhere'"),
    (["red/02.png", "red/broken.jpg"], "ood", None, "cannot be used: not_an_image"),
])  # fmt: skip
def test_what_cannot_be_decided_changes_nothing(own, ids, verdict, label, words):
    before = everything(own)
    with pytest.raises(UsageError, match=words):
        reviews.decide(own, ids, verdict, label)
    assert everything(own) == before
    assert rows(own, "SELECT * FROM reviews") == []


def test_rows_keep_their_order_and_the_storage_its_version(own):
    order = "SELECT sample_id FROM images ORDER BY rowid"
    before = rows(own, order)
    reviews.decide(own, [key for (key,) in before[5:30]], "ood")
    assert rows(own, order) == before
    assert list(manifest.select(own, ["ood"])["sample_id"])
    manifest.settle(own)
    assert not (own / "manifest.duckdb.wal").exists()
    assert "v1.0.0" in rows(own, "SELECT tags FROM duckdb_databases() WHERE NOT internal")[0][0]["storage_version"]


def test_nothing_is_lost_where_the_process_is_killed_after_the_answer(own):
    """And what was not answered is there as a whole or not at all."""
    code = (
        "import sys; from pathlib import Path; from cleanweb import reviews\n"
        "for i in range(2, 14): print(reviews.decide(Path(sys.argv[1]), [f'red/{i:02d}.png'], 'ood'), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(own)], stdout=subprocess.PIPE) as process:
        for _ in range(3):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    decided = {key for (key,) in rows(own, "SELECT sample_id FROM reviews")}
    assert decided >= {"red/02.png", "red/03.png", "red/04.png"}
    assert decided == {
        key for (key,) in rows(own, "SELECT sample_id FROM images WHERE reason = 'verified by a person'")
    }


def test_many_at_once_do_not_lose_each_other(own):
    keys = [f"{colour}/{i:02d}.png" for colour in ("red", "green") for i in range(2, 8)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda key: reviews.decide(own, [key], "ood"), keys))
    assert sorted(i for d in done for i in d.review_ids) == list(range(1, 13))
    assert set(labels(own)) >= set(keys)


def test_a_reader_that_stays_is_waited_for_and_named(own, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE_S", 0.2)
    hold = "import duckdb, sys; con = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); input()"
    command = [sys.executable, "-c", hold, str(own / "manifest.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(RunError, match=r"another program has .* open; close it and try again"):
            reviews.decide(own, ["red/02.png"], "ood")
        other.communicate(b"\n")
    assert reviews.decide(own, ["red/02.png"], "ood").review_ids == [1]


# --- runs that are made anew ----------------------------------------------------------------------------------------


def refit(crawl: Path, out: Path, **more: object) -> cleanweb.Run:
    return cleanweb.fit(crawl, out=out, backbone="cnn5", epochs=1, workers=0, device="cpu", **more)


def test_a_fresh_fit_carries_decisions_over_and_learns_from_them(own, crawl):
    reviews.decide(own, ["red/02.png"], "relabeled", "blue", "ada")
    undone = reviews.decide(own, ["red/03.png"], "ood")
    reviews.undo(own, undone.review_ids)
    reviews.decide(own, [COPIES[1]], "ood")
    stored = rows(own, "SELECT * EXCLUDE (before) FROM reviews ORDER BY 1")
    fitted = refit(crawl, own, fresh=True)
    assert "2 decisions that people took in review were carried over, as verified labels." in fitted.notes
    assert rows(own, "SELECT * EXCLUDE (before) FROM reviews ORDER BY 1") == stored
    assert said(own, "red/02.png")["final_label"] == "blue"
    assert said(own, COPIES[0])["verdict"] == "ood"
    assert not list(own.glob("earlier*"))
    reviews.undo(own, [1, 3])
    alone = everything(own)
    retag(own)
    assert [row[0] for row in everything(own) if "verified" in str(row)] == []
    assert len(alone) == len(everything(own))


def test_a_fresh_fit_says_that_an_audit_is_gone_and_keeps_its_answers(own, crawl):
    drawn = draw.draw(own, 10)
    answers.answer(own, drawn.audit_id, dict.fromkeys(drawn.rows["sample_id"], Answer("class", "blue")), "ada")
    fitted = refit(crawl, own, fresh=True)
    assert "The audit spoke of verdicts that are no more, and is gone; cleanweb audit draws a new one." in fitted.notes
    assert rows(own, "SELECT count(*) FROM audits") == [(0,)]
    assert set(labels(own).values()) == {"blue"}
    assert draw.draw(own, 10).audit_id == drawn.audit_id + 1  # whose answers are others


def test_decisions_survive_a_fresh_fit_that_is_interrupted(own, crawl):
    reviews.decide(own, ["red/02.png"], "relabeled", "blue", "ada")

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "train":
            raise KeyboardInterrupt

    settings = Settings(crawl, out=own, backbone="cnn5", epochs=1, workers=0, device="cpu", fresh=True)
    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(settings, stop)
    assert labels(own) == {"red/02.png": "blue"}  # until the new run is complete the old one stands
    refit(crawl, own)
    assert labels(own) == {"red/02.png": "blue"}


def test_decisions_on_another_crawl_are_kept_aside(own, crawl, tmp_path):
    reviews.decide(own, ["red/02.png"], "ood")
    shutil.copytree(crawl, tmp_path / "other")
    fitted = refit(tmp_path / "other", own, fresh=True)
    assert [note for note in fitted.notes if "do not fit this crawl" in note]
    assert labels(own) == {}
    assert [path for path, *_ in reviews.standing(own / "earlier-1.duckdb")] == ["red/02.png"]


def test_of_pictures_of_one_path_decisions_stay_with_the_very_one(own: Path) -> None:
    """They went by the number of the row, which is another's when the rows lie otherwise."""
    reviews.decide(own, ["red/02.png"], "ood")
    [(root,)] = rows(own, "SELECT root FROM runs")
    [(file,)] = rows(own, "SELECT file FROM images WHERE sample_id = 'red/02.png'")
    here = Sample("red/02.png", "red/02.png", file, None, "red")
    there = Sample("red/02.png#2", "red/02.png", "/elsewhere/02.png", None, "red")

    def carried_over(*samples: Sample) -> list[str]:
        return [*carried.over(own / "manifest.duckdb", samples, Path(root), ["red"])["sample_id"]]

    assert carried_over(here, there) == ["red/02.png"]
    assert carried_over(replace(there, sample_id="red/02.png"), replace(here, sample_id="red/02.png#2")) == []
    assert carried_over(replace(there, sample_id="red/02.png")) == ["red/02.png"]  # of that path it is the only one


def test_another_run_speaks_of_the_very_picture(own: Path) -> None:
    """`retag --trusted RUN` knew the file alone, in which both lie."""
    with manifest.changing(own) as con:
        con.execute("UPDATE images SET path = '7.png', file = '/crawl/train.parquet', row_in_file = rowid "
                    "WHERE sample_id IN ('red/02.png', 'red/03.png')")  # fmt: skip
    reviews.decide(own, ["red/03.png"], "ood")
    samples = Written(own).samples()
    [(i, label)] = deciding.verified_labels(own, samples, own).items()
    assert (samples[i].sample_id, label) == ("red/03.png", None)


def test_a_run_is_taken_for_trusted_labels(own, crawl, tmp_path):
    reviews.decide(own, ["red/02.png"], "relabeled", "blue")
    reviews.decide(own, [COPIES[1]], "ood")
    refit(crawl, tmp_path / "second", trusted=own)
    refit(crawl, tmp_path / "third")
    retag(tmp_path / "third", verified=own / "manifest.duckdb")
    for run in (tmp_path / "second", tmp_path / "third"):
        assert said(run, "red/02.png")["final_label"] == "blue"
        assert said(run, COPIES[0])["verdict"] == "ood"
        assert labels(run) == {}
        retag(run)
        assert said(run, "red/02.png")["final_label"] == "blue"


# --- manifests of the version before --------------------------------------------------------------------------------


@pytest.fixture
def old(run: Path, tmp_path: Path) -> Path:
    """A run as the code before this table wrote it."""
    shutil.copytree(run, tmp_path / "old")
    stored = Path(__file__).parent / "data" / "manifest-1.duckdb.gz"
    (tmp_path / "old" / "manifest.duckdb").write_bytes(gzip.decompress(stored.read_bytes()))
    return tmp_path / "old"


def test_an_older_manifest_can_be_read_as_it_is(old):
    content = (old / "manifest.duckdb").read_bytes()
    assert rows(old, "SELECT schema_version FROM runs") == [(1,)]
    assert rows(old, "SELECT count(*) FROM reviews") == [(0,)]
    assert all(list(manifest.read(old, name).columns) == [c for c, _, _ in TABLES[name]] for name in TABLES)
    assert len(manifest.select(old, ["trainable"]))
    assert (old / "manifest.duckdb").read_bytes() == content


def test_an_older_manifest_can_be_changed(old):
    before = everything(old)
    done = reviews.decide(old, ["red/02.png"], "ood")
    assert rows(old, "SELECT schema_version FROM runs") == [(SCHEMA_VERSION,)]
    assert labels(old) == {"red/02.png": None}
    reviews.undo(old, done.review_ids)
    assert [row[: len(before[0])] for row in everything(old)] == before  # columns have been added


def test_retag_brings_an_older_manifest_up_to_date(old):
    retag(old)
    assert rows(old, "SELECT schema_version FROM runs") == [(SCHEMA_VERSION,)]

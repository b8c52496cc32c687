"""A manifest whose images lie in Parquet parts says the same as one in a single file, to every command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from cleanweb import exporting, manifest, parts, report, retagging, reviews
from cleanweb.audit import draw
from cleanweb.errors import RunError, UsageError
from cleanweb.review.store import Question, Store
from cleanweb.schema import TABLES
from tests.test_cli import cleanweb as command
from tests.test_manifest import FIVE, tables


@pytest.fixture
def split(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny run with its manifest in parts of seven rows, in a folder whose name DuckDB could take for several."""
    monkeypatch.setattr(parts, "MANY", 10)
    monkeypatch.setattr(parts, "ROWS", 7)
    folder = tmp_path / "it's, [1]*"
    shutil.copytree(run, folder)
    manifest.write(folder, {name: manifest.read(run, name) for name in TABLES})
    return folder


def files(run: Path) -> list[str]:
    return sorted(path.relative_to(run).as_posix() for path in (run / parts.FOLDER).rglob("*") if path.is_file())


def everything(run: Path) -> list[tuple]:
    return list(manifest.query(run, "SELECT * FROM images ORDER BY sample_id")[1])


def test_it_says_the_same(run: Path, split: Path) -> None:
    n = len(manifest.read(run, "images"))
    assert len(files(split)) == -(-n // 7)
    assert not (split / "manifest.parquet").exists()
    assert (split / "manifest.csv").read_bytes() == (run / "manifest.csv").read_bytes()
    for name in TABLES:
        assert manifest.read(split, name).equals(manifest.read(run, name)), name
    assert everything(split) == everything(run)
    for only in ("clean", "relabeled", "ood", "unusable", "trainable"):
        mine, theirs = (
            manifest.select(split, [only], "length(path) > 3"),
            manifest.select(run, [only], "length(path) > 3"),
        )
        assert mine.equals(theirs)
    for sql in ("SELECT count(*) FROM trainable", "FROM transitions", "DESCRIBE images"):
        assert [row[:2] for row in manifest.query(split, sql)[1]] == [row[:2] for row in manifest.query(run, sql)[1]]
    about = "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'images' AND comment IS NOT NULL"
    assert set(manifest.query(split, about)[1]) == set(manifest.query(run, about)[1])


def test_other_programs_open_it_in_its_folder(split: Path) -> None:
    code = "import duckdb; print(duckdb.connect('manifest.duckdb').execute('SELECT count(*) FROM clean').fetchall())"
    done = subprocess.run([sys.executable, "-c", code], cwd=split, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[({len(manifest.select(split, ['clean']))},)]"


def test_it_may_move(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(split)
    split.rename(tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    assert everything(tmp_path / "elsewhere") == before
    shutil.rmtree(tmp_path / "elsewhere" / parts.FOLDER)
    with pytest.raises(RunError):
        everything(tmp_path / "elsewhere")


def test_people_decide_and_take_back(run: Path, split: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    before = everything(split)
    written = [(split / file).read_bytes() for file in files(split)]
    for folder in (split, whole):
        first = reviews.decide(folder, ["red/02.png", "red/00.png"], "ood", who="ann")
        reviews.decide(folder, ["red/02.png"], "relabeled", "blue", who="bob")
    assert everything(split) == everything(whole) != before
    assert [(split / file).read_bytes() for file in files(split)] == written  # the parts stay
    store = Store(split, "ann")
    page = store.page(Question(where="verdict = 'relabeled'"), 0, 100)
    assert "red/02.png" in [row["sample_id"] for row in page["rows"]]
    retagging.retag(split)
    retagging.retag(whole)
    assert everything(split) == everything(whole)
    assert not list(manifest.query(split, "FROM image_changes")[1])  # they are in the parts now
    last = len(manifest.read(split, "reviews"))
    for folder in (split, whole):
        reviews.undo(folder, range(1, last + 1))
    assert everything(split) == everything(whole)
    assert first.review_ids


def test_every_command_works(split: Path, tmp_path: Path) -> None:
    shown = report.write(split, tmp_path / "r.html").read_text(encoding="utf-8")
    assert shown.count("data:image/jpeg") > 10
    assert exporting.export(split, "imagefolder", tmp_path / "out").written > 30
    assert len(draw.draw(split, 10, 0).rows) == 10
    for words in (["sql", "SELECT count(*) FROM images"], ["export", "--where", "confidence > 0"], ["retag"]):
        code, _, err = command(*words, "--run", split)
        assert code == 0, err


def test_sql_can_only_read_the_parts(split: Path, tmp_path: Path) -> None:
    part = split / files(split)[0]
    for sql in (f"COPY (SELECT 1) TO '{tmp_path}/x.csv'", "COPY (SELECT 1) TO '{0}'", "ATTACH '{0}'",
                "EXPORT DATABASE '{0}'", "CREATE TABLE x AS SELECT 1", "DELETE FROM image_changes",
                "SET allowed_paths = ['/etc/passwd']", "SELECT * FROM read_text('/etc/passwd')",
                "SELECT 1; COPY (SELECT 1) TO '{0}'"):  # fmt: skip
        with pytest.raises(UsageError):
            list(manifest.query(split, sql.format(str(part).replace("'", "''")))[1])
    assert len(everything(split)) > 10


def test_rules_hold_over_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MANY", 0)
    monkeypatch.setattr(parts, "ROWS", 2)
    for wrong in ({"final_label": "dog"}, {"sample_id": "0"}, {"duplicate_of": "gone", "duplicate_kind": "exact"}):
        with pytest.raises(ValueError, match="manifest"):
            manifest.write(tmp_path, tables(*FIVE, wrong))
        assert not list(tmp_path.iterdir())
    manifest.write(tmp_path, tables(*FIVE))
    assert manifest.read(tmp_path, "images")["sample_id"].tolist() == ["0", "1", "2", "3", "4"]


def test_parts_are_replaced_and_go_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MANY", 3)
    for _ in range(4):
        manifest.write(tmp_path, tables(*FIVE))
    assert (
        len(list((tmp_path / parts.FOLDER).iterdir())) == 2
    )  # those, and the last ones, which somebody may be reading
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            manifest.write(tmp_path, tables(*FIVE))
    assert len(manifest.read(tmp_path, "images")) == 5
    monkeypatch.setattr(parts, "MANY", 100)
    manifest.write(tmp_path, tables({}, {}))
    assert (tmp_path / "manifest.parquet").exists()
    with duckdb.connect(str(tmp_path / "manifest.duckdb")) as con:
        assert con.execute("SELECT count(*) FROM images").fetchall() == [(2,)]


def test_fit_keeps_them_where_it_is_told(crawl: Path, tmp_path: Path) -> None:
    code, _, err = command("fit", crawl, "--out", tmp_path / "run", "--backbone", "cnn5", "--epochs", 1, "--workers", 0,
                           "--device", "cpu", "--parts", "here")  # fmt: skip
    assert code == 0, err
    assert len(files(tmp_path / "run")) == 1
    before = everything(tmp_path / "run")
    retagging.retag(tmp_path / "run")
    assert len(files(tmp_path / "run")) == 2  # the old ones may still be read
    assert everything(tmp_path / "run") == before
    code, _, err = command("fit", crawl, "--out", tmp_path / "other", "--parts", "somewhere")
    assert code == 2
    assert "--parts is here" in err
    assert not os.path.exists(tmp_path / "other")  # noqa: PTH110


@pytest.mark.slow
def test_a_run_in_place_of_another_leaves_what_an_earlier_manifest_names(crawl: Path, split: Path) -> None:
    reviews.decide(split, ["red/02.png"], "ood", who="ann")
    code, _, err = command("fit", crawl, "--out", split, "--backbone", "cnn5", "--epochs", 1, "--workers", 0,
                           "--device", "cpu", "--fresh", "--label-column", "x")  # fmt: skip
    assert code == 2, err
    code, _, err = command("fit", crawl / "red", "--out", split, "--fresh")
    assert code == 3, err
    shutil.copytree(crawl, split.parent / "crawl")
    code, out, err = command("fit", split.parent / "crawl", "--out", split, "--backbone", "cnn5", "--epochs", 1,
                             "--workers", 0, "--device", "cpu", "--fresh")  # fmt: skip
    assert code == 0, err
    assert "earlier-1.duckdb" in out
    assert [row[:2] for row in reviews.standing(split / "earlier-1.duckdb")] == [("red/02.png", None)]
    retagging.retag(split)
    assert [row[:2] for row in reviews.standing(split / "earlier-1.duckdb")] == [("red/02.png", None)]

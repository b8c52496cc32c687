"""The Python API: the commands, as functions."""

import inspect
import shutil
import subprocess
import sys
import tarfile
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

import cleanweb
from cleanweb.errors import CleanwebError, RunError, UsageError
from cleanweb.settings import Settings
from tests.conftest import COLOURS, PER_CLASS

ROWS = len(COLOURS) * PER_CLASS + 3


@pytest.fixture
def opened(run: Path) -> cleanweb.Run:
    return cleanweb.load_run(run)


def test_fit_takes_every_setting_with_its_default() -> None:
    asked = inspect.signature(cleanweb.fit).parameters
    kept = {
        field.name: field.default for field in fields(Settings) if field.name not in ("origin", "strict", "copy_to")
    }
    assert asked.keys() - kept.keys() == {"progress"}
    assert kept.keys() <= asked.keys()
    for name in kept.keys() - {"source", "hyperparameters"}:
        default = asked[name].default
        assert (Path(default) if name == "out" else default) == kept[name], name


def test_all_names_are_there_and_documented() -> None:
    assert set(cleanweb.__all__) <= set(dir(cleanweb))
    for name in cleanweb.__all__:
        assert getattr(cleanweb, name).__doc__, name
    for name, method in inspect.getmembers(cleanweb.Run, inspect.isroutine):
        assert name.startswith("_") or method.__doc__, name
    with pytest.raises(AttributeError, match="nothing_such"):
        cleanweb.nothing_such  # noqa: B018


def test_looking_at_a_run_loads_no_torch(run: Path) -> None:
    code = ("import sys, cleanweb; r = cleanweb.load_run(sys.argv[1]); r.images('clean'); r.sql('SELECT 1');"
            "str(r.summary()); sys.exit('torch' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code, str(run)], check=False).returncode == 0


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(cleanweb.__file__).parent / "py.typed").exists()


def test_images_come_as_a_frame(opened: cleanweb.Run) -> None:
    images = opened.images()
    assert isinstance(images, pd.DataFrame)
    assert len(images) == ROWS
    parts = [opened.images(verdict) for verdict in ("clean", "relabeled", "ood", "unusable")]
    assert sum(map(len, parts)) == ROWS
    wide = images[images["width"] == 24]
    assert opened.images(where="width = 24")["sample_id"].tolist() == wide["sample_id"].tolist()
    with pytest.raises(UsageError, match="cleen"):
        opened.images("cleen")


def test_sql_gives_the_types_of_the_columns(opened: cleanweb.Run) -> None:
    counts = opened.sql("SELECT verdict, count(*) AS n, avg(confidence) AS sure FROM images GROUP BY 1")
    assert counts["n"].sum() == ROWS
    assert counts["n"].dtype.kind == "i"
    assert counts["sure"].dtype.kind == "f"
    for wrong in ("SELECT nothing FROM images", "", "DELETE FROM images"):
        with pytest.raises(UsageError):
            opened.sql(wrong)


def test_tables_and_summary(opened: cleanweb.Run) -> None:
    assert set(opened.table("classes")["label"]) == set(COLOURS)
    with pytest.raises(UsageError, match="Did you mean classes"):
        opened.table("clases")
    assert f"{ROWS} images" in str(opened.summary())
    assert sum(opened.summary().verdicts.values()) == ROWS


def test_what_can_be_done_with_a_run(run: Path, crawl: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    opened = cleanweb.load_run(str(own))
    before = len(opened.images("clean"))
    assert len(opened.retag(keep=0.25).images("clean")) < before
    assert len(cleanweb.retag(own).images("clean")) == before
    out = tmp_path / "clean.csv"
    assert opened.export(out, only=["clean"]) == before == len(pd.read_csv(out))
    with pytest.raises(UsageError, match="exists"):
        opened.export(out)
    with pytest.raises(UsageError, match="crawl"):
        opened.export(crawl / "clean.csv")
    assert opened.report() == own / "report.html"
    assert opened.report(tmp_path / "page.html").stat().st_size > 1000


def test_an_audit_by_table(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, own := tmp_path / "run")
    opened, sheet = cleanweb.load_run(own), tmp_path / "sheet.csv"
    drawn = opened.audit(20, seed=1, sheet=sheet)
    table = pd.read_csv(sheet, dtype=str)
    assert len(table) == len(drawn.rows) == 20
    assert "not known yet" in str(drawn)
    truth = table.assign(label=table["path"].str.split("/").str[0])
    truth.to_csv(sheet, index=False)
    judged = opened.audit(answers=sheet, who="ada")
    assert judged.to_json()["judged"] == 20
    assert opened.audit().rows.equals(judged.rows)  # goes on with the same
    assert set(opened.table("reviews")["who"]) == {"ada"}
    assert "Audit 1" in (own / "report.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="without n, seed and sheet"):
        opened.audit(30, answers=sheet)


def test_the_classifier_is_handed_over(opened: cleanweb.Run, tmp_path: Path) -> None:
    folder = opened.export_model(tmp_path / "net")
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    with pytest.raises(UsageError, match="exists"):
        opened.export_model(folder)


def test_predict_gives_a_row_per_file(opened: cleanweb.Run, crawl: Path) -> None:
    answers = opened.predict([crawl / "blue" / "00.png", str(crawl / "red" / "broken.jpg")])
    assert list(answers.columns) == ["path", "label", "probability", "error"]
    assert answers["label"][0] in COLOURS
    assert 0 <= answers["probability"][0] <= 1
    assert answers["label"].isna().tolist() == [False, True]
    assert "HTML" in answers["error"][1]
    assert len(opened.predict(str(crawl / "green"))) == PER_CLASS
    network, names = opened.classifier()
    assert names == sorted(COLOURS)
    assert not network.training


def test_a_tar_that_is_named_twice_is_predicted_twice(opened: cleanweb.Run, crawl: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for colour in COLOURS:
            tar.add(crawl / colour / "00.png", f"{colour}.png")
    once, twice = (opened.predict([tmp_path / "a.tar"] * n) for n in (1, 2))
    pd.testing.assert_frame_equal(twice, pd.concat([once, once], ignore_index=True))
    assert once["label"].nunique() > 1


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cleanweb fit"):
        cleanweb.load_run(tmp_path)
    with pytest.raises(cleanweb.CleanwebError) as error:
        cleanweb.fit(tmp_path, hyperparameters={"lr": "fast"})
    assert isinstance(error.value, CleanwebError)
    with pytest.raises(TypeError, match="epoch"):
        cleanweb.fit(tmp_path, epoch=3)


def test_fit_shows_progress_where_asked(crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cleanweb.fit(crawl, out=tmp_path / "run", backbone="cnn5", epochs=1, workers=0, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert {line.split(":")[0] for line in err.splitlines()} == {"inspect", "train", "score", "classifier", "pictures"}
    assert any(note.startswith("Backbone cnn5") for note in run.notes)
    assert run.folder == tmp_path / "run"

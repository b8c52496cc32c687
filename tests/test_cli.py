"""The commands as a user gives them: output, files, exit codes, and never a traceback."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from cleanweb.cli import app
from tests.conftest import COLOURS, PER_CLASS

ROWS = len(COLOURS) * PER_CLASS + 3


def cleanweb(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def test_every_sample_has_exactly_one_verdict(run: Path) -> None:
    code, out, _ = cleanweb("sql", "SELECT verdict, count(*) AS n FROM images GROUP BY 1", "--run", run, "-f", "csv")
    assert code == 0
    counts = {row["verdict"]: int(row["n"]) for row in csv.DictReader(out.splitlines())}
    assert sum(counts.values()) == ROWS
    assert counts["unusable"] == 1


def test_the_manifest_opens_in_plain_duckdb(run: Path) -> None:
    with duckdb.connect(str(run / "manifest.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM images").fetchone() == (ROWS,)
        assert con.execute("SELECT count(*) FROM epochs WHERE stage = 'classifier'").fetchone()[0] > 0


def test_the_broken_file_says_why(run: Path) -> None:
    _, out, _ = cleanweb("sql", "SELECT status, reason FROM unusable", "--run", run, "-f", "json")
    row = json.loads(out)
    assert row["status"] == "not_an_image"
    assert "HTML" in row["reason"]


def test_a_picture_under_two_labels_is_reported(run: Path) -> None:
    code, out, _ = cleanweb("retag", "--run", run, "--json")
    assert code == 0
    assert json.loads(out)["two_labels"] == 1
    assert json.loads(out)["duplicates"] == {"exact": 2, "near": 0}


def test_retag_changes_nothing_when_the_rule_is_the_same(run: Path) -> None:
    ask = ("sql", "SELECT * FROM images ORDER BY sample_id", "--run", run, "-f", "csv")
    before = cleanweb(*ask)
    assert cleanweb("retag", "--run", run, "--quiet")[0] == 0
    assert cleanweb(*ask) == before


def test_retag_takes_a_target_and_goes_back(run: Path) -> None:
    ask = ("sql", "SELECT verdict, count(*) AS n FROM images GROUP BY 1 ORDER BY 1", "--run", run, "-f", "csv")
    before = cleanweb(*ask)
    code, out, _ = cleanweb("retag", "--keep", 0.5, "--run", run, "--json")
    assert code == 0
    assert json.loads(out)["verdicts"]["clean"] < ROWS * 0.7
    _, out, _ = cleanweb("sql", "SELECT target FROM runs", "--run", run, "-f", "json")
    assert json.loads(json.loads(out)["target"])["keep"] == 0.5
    assert cleanweb("retag", "--run", run, "--quiet")[0] == 0
    assert cleanweb(*ask) == before


def test_retag_heeds_people_and_remembers_them(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    table = tmp_path / "seen.csv"
    table.write_text("path,label\nred/02.png,blue\nred/copy of 00.png,\n", encoding="utf-8")
    assert (
        f"2 labels that people have verified are heeded, of {table}."
        in cleanweb("retag", "--trusted", table, "--run", own)[1]
    )
    assert cleanweb("retag", "--run", own, "--quiet")[0] == 0  # what people said still holds
    ask = "SELECT path, verdict, final_label FROM images WHERE path IN ('red/00.png', 'red/02.png') ORDER BY path"
    _, out, _ = cleanweb("sql", ask, "--run", own, "-f", "csv")
    assert out.splitlines()[1:] == ["red/00.png,ood,", "red/02.png,relabeled,blue"]
    table.write_text("path,label\nnowhere.png,blue\n", encoding="utf-8")
    code, _, err = cleanweb("retag", "--trusted", table, "--run", own)
    assert (code, "nowhere.png" in err) == (2, True)


def test_retag_tells_its_own_time_and_how_far_it_is(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, own := tmp_path / "run")
    with duckdb.connect(str(own / "manifest.duckdb")) as con:
        con.execute("UPDATE runs SET seconds = 36000")
    code, out, err = cleanweb("retag", "--run", own, "--json")
    assert code == 0
    assert json.loads(out)["seconds"] < 300
    assert {line.split(":")[0] for line in err.splitlines()} == {"retag", "pictures"}
    assert f"{ROWS} images decided again in" in cleanweb("retag", "--run", own)[1]
    assert cleanweb("retag", "--run", own, "--quiet") == (0, "", "")


def test_retag_advises_no_option_it_lacks(run: Path, tmp_path: Path) -> None:
    (table := tmp_path / "seen.csv").write_text("where,what\nred/02.png,blue\n", encoding="utf-8")
    code, _, err = cleanweb("retag", "--trusted", table, "--run", run)
    assert code == 2
    assert "--path-column" not in err
    assert "Call the right ones 'path' and 'label'." in err


def test_report_says_how_far_it_is_and_can_be_quiet(run: Path, tmp_path: Path) -> None:
    assert "pictures: " in cleanweb("report", "--run", run, "--out", tmp_path / "a.html")[2]
    assert cleanweb("report", "--run", run, "--out", tmp_path / "b.html", "--quiet") == (0, "", "")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_is_for_programs_can_be_read_under_any_locale(run: Path, encoding: str) -> None:
    def said(*words: str) -> bytes:
        return subprocess.run([sys.executable, "-m", "cleanweb", *words, "--run", str(run)], check=True,
                              env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True).stdout  # fmt: skip

    text = "\u00e9 \u65e5 \U0001d518"
    query = f"SELECT '{text}' AS x, 'nan'::FLOAT AS y, 'inf'::FLOAT AS z"
    assert json.loads(said("sql", query, "--json")) == {"x": text, "y": None, "z": None}
    assert said("sql", query, "--format", "csv").decode("utf-8").splitlines()[1].startswith(text)


def test_json_loses_no_column_and_is_json_inside_too(run: Path) -> None:
    query = "SELECT 1 AS a, 2 AS a, 3 AS a_1, ['nan'::FLOAT, 4] AS b, {'c': 'inf'::FLOAT} AS d"
    code, out, _ = cleanweb("sql", query, "--json", "--run", run)
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail) == {"a": 1, "a_2": 2, "a_1": 3, "b": [None, 4], "d": {"c": None}}


def test_several_statements_are_not_answered_by_the_last(run: Path) -> None:
    code, out, err = cleanweb("sql", "SELECT 1; SELECT 2", "--run", run)
    assert (code, out) == (2, "")
    assert "several SQL statements" in err


@pytest.mark.parametrize("words", [("--keep", 1.5), ("--min-precision", 0), ("--keep", 0.5, "--min-precision", 0.9)])
def test_a_target_that_is_no_share_is_refused(run: Path, words: tuple[object, ...]) -> None:
    code, _, err = cleanweb("retag", *words, "--run", run)
    assert code == 2
    assert "--keep" in err or "--min-precision" in err


def test_retag_needs_no_torch(run: Path) -> None:
    code = ("import sys; from cleanweb.cli import app; import cleanweb.retagging as r; r.retag(sys.argv[1]);"
            "sys.exit('torch' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code, str(run)], check=False).returncode == 0


def test_export_csv_never_overwrites(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "clean.csv"
    assert cleanweb("export", "--only", "clean", "--out", target, "--run", run)[0] == 0
    first = target.read_bytes()
    code, _, err = cleanweb("export", "--only", "ood", "--out", target, "--run", run)
    assert (code, target.read_bytes()) == (2, first)
    assert str(target) in err


def test_export_without_a_name_takes_a_new_one(run: Path) -> None:
    names = {cleanweb("export", "--run", run, "--json")[1] for _ in range(2)}
    assert len({json.loads(name)["out"] for name in names}) == 2


def test_export_to_stdout(run: Path) -> None:
    code, out, _ = cleanweb("export", "--only", "trainable", "--out", "-", "--run", run)
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 0
    assert {row["label"] for row in rows} <= set(COLOURS)


def test_export_into_the_crawl_is_refused(run: Path, crawl: Path) -> None:
    before = sorted(crawl.rglob("*"))
    code, _, err = cleanweb("export", "--out", crawl / "x.csv", "--run", run)
    assert code == 2
    assert "crawl" in err
    assert sorted(crawl.rglob("*")) == before


def test_export_imagefolder_can_be_fitted_again(run: Path, tmp_path: Path) -> None:
    from cleanweb import readers

    out = tmp_path / "tree"
    assert cleanweb("export", "--format", "imagefolder", "--out", out, "--run", run)[0] == 0
    crawl = readers.read(out, out / "labels.csv")
    assert {sample.given_label for sample in crawl.samples} <= set(COLOURS)


def test_predict_names_a_class_or_says_why_not(run: Path, crawl: Path) -> None:
    code, out, err = cleanweb("predict", crawl / "blue", crawl / "red" / "broken.jpg", "nowhere.png", "--run", run)
    assert code == 0
    lines = [line.split("\t") for line in out.splitlines()]
    assert len(lines) == PER_CLASS + 1
    assert all(label in COLOURS and 0 <= float(p) <= 1 for _, label, p in lines)
    assert "HTML" in err
    assert "no such file" in err


def test_csv_on_the_screen_keeps_what_it_holds(run: Path) -> None:
    code, out, _ = cleanweb("sql", "SELECT 'a' || chr(13) || 'b' AS x, '=1' AS y, NULL AS z", "--format", "csv",
                            "--run", run)  # fmt: skip
    assert (code, out) == (0, 'x,y,z\n"a\rb",=1,\n')


def test_predict_of_nothing_readable_is_an_error(run: Path) -> None:
    code, out, err = cleanweb("predict", "nowhere.png", "--run", run)
    assert (code, out) == (3, "")
    assert "no such file" in err


def test_the_classifier_opens_in_timm(run: Path) -> None:
    import timm

    import cleanweb as package

    model, names = package.load_classifier(run / "classifier")
    assert names == sorted(COLOURS)
    again = timm.create_model(f"local-dir:{run / 'classifier'}", pretrained=True)
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_fit_refuses_a_finished_run_without_fresh(run: Path, crawl: Path) -> None:
    before = (run / "manifest.duckdb").read_bytes()
    code, _, err = cleanweb("fit", crawl, "--out", run)
    assert code == 6
    assert "--fresh" in err
    assert (run / "manifest.duckdb").read_bytes() == before


def test_a_run_inside_the_crawl_is_refused(crawl: Path) -> None:
    code, _, err = cleanweb("fit", crawl, "--out", crawl / "run")
    assert code == 2
    assert not (crawl / "run").exists()
    assert "inside the crawl" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fit", "no-such-folder"], 3, "no-such-folder"),
        (["fit", "."], 3, ""),
        (["sql", "SELECT 1", "--run", "no-such-run"], 6, "cleanweb fit"),
        (["retag", "--run", "no-such-run"], 6, "cleanweb fit"),
        (["export", "--run", "no-such-run"], 6, "cleanweb fit"),
        (["predict", "x.png", "--run", "no-such-run"], 6, "cleanweb fit"),
        (["fit"], 2, "SOURCE"),
        (["export", "--only", "everything"], 2, "everything"),
    ],
)
def test_mistakes_get_words_and_a_code(
    words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = cleanweb(*words)
    assert found == code, err
    assert said in out + err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--backbone", "no_such_net"], 2, "no_such_net"),
        (["--backbone", "local-dir:nowhere"], 5, "config.json"),
        (["--backbone", "cnn7", "--weights", "pretrained"], 2, "cnn7"),
        (["--device", "cuda:99"], 5, "cuda:99"),
        (["--method", "standard", "--recipe", "paper-c"], 2, "standard"),
        (["--tune", "head", "--backbone", "cnn5"], 2, "head"),
        (["--method", "jocor"], 2, "--noise-rate"),
        (["--method", "jocor", "--noise-rate", "1"], 2, "--noise-rate"),
        (["--noise-rate", "0.2"], 2, "--noise-rate"),
        (["--labels", "missing.csv"], 3, "missing.csv"),
    ],
)
def test_impossible_wishes_are_refused(options: list[str], code: int, said: str, crawl: Path, tmp_path: Path) -> None:
    found, _, err = cleanweb("fit", crawl, "--out", tmp_path / "run", *options)
    assert found == code, err
    assert said in err


def test_a_method_that_is_told_the_noise_rate(crawl: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said, err = cleanweb("fit", crawl, "--out", out, "--method", "coteaching+", "--noise-rate", 0.1,
                               "--backbone", "cnn5", "--epochs", 2, "--workers", 0, "--device", "cpu")  # fmt: skip
    assert code == 0, err
    assert "--method coteaching+ --recipe auto --noise-rate 0.1" in said
    _, found, _ = cleanweb("sql", "SELECT settings FROM runs", "--run", out, "-f", "json")
    assert json.loads(json.loads(found)["settings"])["noise_rate"] == 0.1


def test_sql_is_read_only(run: Path) -> None:
    code, _, err = cleanweb("sql", "DELETE FROM images", "--run", run)
    assert code == 2
    assert err.startswith("Error:")


def test_names_cannot_steer_the_terminal(run: Path) -> None:
    _, out, _ = cleanweb("sql", "SELECT 'a' || chr(27) || '[2Jb' AS name", "--run", run)
    assert "\x1b[2J" not in out


def test_help_starts_in_a_blink() -> None:
    heavy = "('torch', 'pandas', 'duckdb', 'timm')"
    code = f"import sys, cleanweb.cli; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ctrl_c_says_how_to_go_on(crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanweb import pipeline

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "fit", interrupt)
    code, _, err = cleanweb("fit", crawl, "--out", tmp_path / "run")
    assert code == 130
    assert "same command again" in err

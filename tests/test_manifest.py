"""The manifest keeps what it is given, explains itself, refuses contradictions and is never half written."""

import json
import os
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanweb import atomic, frames, manifest, parts, schema, spreadsheet
from cleanweb.errors import MachineError, RunError, UsageError
from cleanweb.records import Verdict

IMAGE = dict.fromkeys(name for name, _, _ in schema.TABLES["images"]) | {
    "path": "cat/1.jpg",
    "status": "ok",
    "given_label": "cat",
    "verdict": "clean",
    "final_label": "cat",
    "p_clean": 0.9,
    "p_id": 0.06,
    "p_ood": 0.04,
    "confidence": 0.9,
    "needs_review": False,
    "file": "/crawl/cat/1.jpg",
}
RELABELED = {"verdict": "relabeled", "suggested_label": "dog", "final_label": "dog"}
OOD = {"verdict": "ood", "final_label": None}
UNUSABLE = OOD | {"verdict": "unusable", "status": "missing", "p_clean": None, "p_id": None, "p_ood": None}
FIVE = (
    {},
    RELABELED | {"needs_review": True},
    OOD | {"given_label": "dog"},
    UNUSABLE | {"given_label": None},
    {"duplicate_of": "0", "duplicate_kind": "exact"},
)


def tables(*images: dict) -> dict[str, pd.DataFrame]:
    """Tables with the given rows of images (`IMAGE` where they are silent) and one row in every other table."""
    rows = [IMAGE | {"sample_id": str(n)} | image for n, image in enumerate(images)]
    classes = dict.fromkeys((name for name, _, _ in schema.TABLES["classes"]), 0) | {"label": "cat"}
    epochs = dict.fromkeys(name for name, _, _ in schema.TABLES["epochs"]) | {"stage": "train", "epoch": 0, "lr": 0.1}
    runs = dict.fromkeys(name for name, _, _ in schema.TABLES["runs"]) | {
        "run_id": "r",
        "started_at": "2026-11-21T10:00:00.5+02:00",
        "settings": json.dumps({"a": "'\"\n"}),
        "schema_version": schema.SCHEMA_VERSION,
    }
    return {
        "images": pd.DataFrame(rows, columns=list(IMAGE), dtype=object),
        "classes": pd.DataFrame([classes]),
        "transition_matrix": pd.DataFrame([{"true_label": None, "given_label": "cat", "images": 1.5, "p_given": 1.0}]),
        "epochs": pd.DataFrame([epochs]),
        "runs": pd.DataFrame([runs]),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("it's a run, #1 é")
    manifest.write(folder, tables(*FIVE))
    return folder


def rows(folder: Path, sql: str) -> list[tuple]:
    return list(manifest.query(folder, sql)[1])


# ------------------------------------------------------------------------------------------------------ round trips

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.sampled_from(
    ["a\nb", "a\r\nb", 'q"q', "q'q", "\0", "a\0b", "😀", "a,b", "=1+1", "-", "\u202eabc", "NULL", "None", "nan", " "]
)
FREE_TEXT = [name for name, sql_type, _ in schema.TABLES["images"] if sql_type == "VARCHAR"]
FREE_TEXT = [name for name in FREE_TEXT if not name.endswith("label") and name not in ("sha256", "phash")]
FREE_TEXT = [name for name in FREE_TEXT if not name.startswith("duplicate")]
ROW = st.fixed_dictionaries(dict.fromkeys(FREE_TEXT, st.none() | TEXT) | {"given_label": TEXT})


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=12))
def test_text_survives(tmp_path, images):
    written = tables(*(image | {"final_label": image["given_label"]} for image in images))
    manifest.write(tmp_path, written)
    names = [*FREE_TEXT, "given_label", "final_label"]
    expected = [tuple(row) for row in written["images"][names].itertuples(index=False)]
    assert rows(tmp_path, f"SELECT {', '.join(names)} FROM images ORDER BY rowid") == expected
    parquet = duckdb.execute(f"SELECT {', '.join(names)} FROM read_parquet('{tmp_path / 'manifest.parquet'}')")
    assert parquet.fetchall() == expected


def test_no_text_of_the_csv_runs_in_a_spreadsheet_and_every_one_comes_back(tmp_path):
    labels = ["=cmd|' /C calc'!A0", "-rf", "'=x", "\t@x", "cat"]
    manifest.write(tmp_path, tables(*({"path": f"+{i}.jpg", "given_label": label, "final_label": label}
                                      for i, label in enumerate(labels))))  # fmt: skip
    table = pd.read_csv(tmp_path / "manifest.csv", dtype=str, keep_default_na=False)
    assert not table.map(lambda cell: cell.startswith(("=", "+", "-", "@", "\t"))).any(axis=None)
    assert table.given_label.map(spreadsheet.unguard).tolist() == labels
    assert manifest.read(tmp_path, "images").given_label.tolist() == labels


def test_csv_and_parquet_say_the_same_as_the_database(run):
    database = manifest.read(run, "images")
    table = pd.read_csv(run / "manifest.csv")
    assert list(table.columns) == list(database.columns) == list(IMAGE)
    assert table.sample_id.astype(str).tolist() == database.sample_id.tolist()
    assert table.verdict.tolist() == database.verdict.tolist() == [*Verdict, "clean"]
    np.testing.assert_allclose(table.p_clean, database.p_clean.astype("float64"))
    parquet = duckdb.read_parquet(str(run / "manifest.parquet")).df()
    assert parquet.verdict.tolist() == database.verdict.tolist()
    assert parquet.p_clean.dtype == "float32"


def test_what_is_read_can_be_written_again(run, tmp_path):
    manifest.write(tmp_path, {name: manifest.read(run, name) for name in schema.TABLES})
    for name in schema.TABLES:
        assert rows(tmp_path, f"FROM {name}") == rows(run, f"FROM {name}")
    assert rows(run, "SELECT started_at::VARCHAR FROM runs") == [("2026-11-21 08:00:00.5",)]


def test_types_do_not_depend_on_what_is_missing(tmp_path):
    written = tables({}, {})
    images = written["images"]
    images["width"], images["bytes"] = [None, 3], [np.nan, 2.0]
    images["row_in_file"] = pd.array([None, 7], dtype="Int64")
    images["p_given"], images["confidence"] = np.array([np.nan, 0.5], np.float32), [None, pd.NA]
    images["needs_review"] = np.array([True, False])
    images["error"], images["reason"], images["note"] = [None, np.nan], [pd.NA, "x"], pd.Series([np.nan, np.nan])
    images["verdict"] = [Verdict.CLEAN, Verdict.CLEAN]
    images["status"] = pd.Categorical(["ok", "ok"])
    manifest.write(tmp_path, written)
    names = "width, bytes, row_in_file, p_given, confidence, needs_review, error, reason, note, verdict, status"
    assert rows(tmp_path, f"SELECT {names} FROM images") == [
        (None, None, None, None, None, True, None, None, None, "clean", "ok"),
        (3, 2, 7, 0.5, None, False, None, "x", None, "clean", "ok"),
    ]


def test_empty_text_is_null_and_a_lone_surrogate_is_escaped(tmp_path):
    manifest.write(tmp_path, tables({"error": "", "path": "caf\udce9.jpg"}, {"sample_id": "", "path": "", "file": ""}))
    found = rows(tmp_path, "SELECT sample_id, path, file, error FROM images")
    assert found == [("0", "caf\\udce9.jpg", "/crawl/cat/1.jpg", None), ("", "", None, None)]


def test_a_text_of_python_strings_is_checked_without_pyarrow(tmp_path):
    written = tables({"note": "caf\udce9"}, {"note": None})
    written["images"]["note"] = pd.array(["caf\udce9", None], dtype=pd.StringDtype("python"))
    manifest.write(tmp_path, written)
    assert rows(tmp_path, "SELECT note FROM images") == [("caf\\udce9",), (None,)]


def test_order_is_kept(tmp_path):
    ids = [f"{n * 7919 % 5003:04d}" for n in range(5003)]
    manifest.write(tmp_path, tables(*({"sample_id": i} for i in ids)))
    assert manifest.read(tmp_path, "images").sample_id.tolist() == ids
    assert manifest.select(tmp_path, ["clean"]).sample_id.tolist() == ids
    assert pd.read_csv(tmp_path / "manifest.csv", dtype=str).sample_id.tolist() == ids
    assert duckdb.read_parquet(str(tmp_path / "manifest.parquet")).df().sample_id.tolist() == ids


# -------------------------------------------------------------------------------------------------- it explains itself


def test_everything_is_commented(run):
    here = "NOT internal AND database_name = current_database()"
    assert rows(run, f"SELECT table_name, column_name FROM duckdb_columns() WHERE {here} AND comment IS NULL") == []
    named = f"SELECT table_name, comment FROM duckdb_tables() WHERE {here}"
    named += f" UNION ALL SELECT view_name, comment FROM duckdb_views() WHERE {here}"
    found = dict(rows(run, named))
    assert set(found) == {*schema.TABLES, *schema.SELECTIONS, "transitions"}
    assert all(found.values())


def test_columns_are_the_contract(run):
    for table, columns in schema.TABLES.items():
        assert manifest.query(run, f"SELECT * FROM {table}")[0] == [name for name, _, _ in columns]


def test_any_duckdb_since_1_0_opens_it(run):
    tags = rows(run, "SELECT tags FROM duckdb_databases() WHERE NOT internal")[0][0]
    assert "v1.0.0" in tags["storage_version"]


class OnePartAtATime:
    """Rows of images; of the parts that were made of them, none may be left when the next are."""

    def __init__(self, images: pd.DataFrame):
        self.images, self.made = images, list[weakref.ref]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> pd.DataFrame:
        assert all(made() is None for made in self.made)
        return self.images[rows]


@pytest.mark.parametrize("split", [False, True])
def test_one_part_of_the_images_is_in_memory_at_a_time(split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "_PART", 2)
    monkeypatch.setattr(parts, "wanted", lambda n, asked: parts.FOLDER if split else None)
    made = tables({}, {}, {}, {}, {})
    images, insert = OnePartAtATime(made["images"]), manifest._insert

    def noted(con: duckdb.DuckDBPyConnection, table: str, rows: pd.DataFrame, into: str | None = None) -> None:
        if table == "images":
            images.made.append(weakref.ref(rows))
        insert(con, table, rows, into)

    monkeypatch.setattr(manifest, "_insert", noted)
    manifest.write(tmp_path, made | {"images": images})
    assert len(images.made) == 3
    assert len(manifest.read(tmp_path, "images")) == 5


def test_views_partition_the_images(run):
    parts = [rows(run, f"SELECT sample_id FROM {verdict.value}") for verdict in Verdict]
    assert sorted(row for part in parts for row in part) == rows(run, "SELECT sample_id FROM images ORDER BY ALL")
    assert [len(part) for part in parts] == [2, 1, 1, 1]
    assert rows(run, "SELECT sample_id FROM trainable") == [("0",), ("1",)]


def test_transitions_are_counted_most_frequent_first(tmp_path):
    bird = RELABELED | {"suggested_label": "bird", "final_label": "bird"}
    manifest.write(tmp_path, tables(bird, RELABELED, {}, RELABELED))
    assert rows(tmp_path, "FROM transitions") == [("cat", "dog", 2), ("cat", "bird", 1)]


# --------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    "wrong",
    [
        {"final_label": "dog"},
        {"final_label": None},
        {"given_label": None},
        {"suggested_label": "dog"},
        RELABELED | {"final_label": "cat"},
        RELABELED | {"suggested_label": None, "final_label": None},
        RELABELED | {"given_label": "dog"},
        OOD | {"final_label": "cat"},
        UNUSABLE | {"suggested_label": "cat"},
        {"verdict": "dirty"},
        {"verdict": None},
        {"p_clean": 1.5, "p_id": -0.5, "p_ood": 0.0},
        {"p_clean": 0.5},
        {"p_clean": None},
        {"confidence": 1.01},
        {"noise": 1},
        {"duplicate_of": "0", "duplicate_kind": "exact"},
        {"duplicate_of": "gone", "duplicate_kind": "exact"},
        {"duplicate_kind": "near"},
        {"sha256": "abc"},
        {"phash": 12345678},
        {"width": 1.5},
        {"note": 3},
        {"path": None},
    ],
    ids=str,
)
def test_a_wrong_row_cannot_be_written(tmp_path, wrong):
    written = tables(IMAGE | wrong)
    written["images"] = pd.DataFrame([{"sample_id": "0"} | IMAGE | {"sample_id": "0"} | wrong])
    with pytest.raises(ValueError, match=r"manifest"):
        manifest.write(tmp_path, written)
    assert list(tmp_path.iterdir()) == []


def test_a_duplicate_of_a_duplicate_and_a_sample_twice_cannot_be_written(tmp_path):
    copy = {"duplicate_kind": "near"}
    with pytest.raises(ValueError, match="duplicate"):
        manifest.write(tmp_path, tables({}, copy | {"duplicate_of": "0"}, copy | {"duplicate_of": "1"}))
    with pytest.raises(ValueError, match="'x' is there twice"):
        manifest.write(tmp_path, tables({"sample_id": "x"}, {"sample_id": "x"}))


def test_images_have_no_index(run):
    """DuckDB holds it in memory while it is written: up to 95 bytes a row."""
    assert rows(run, "SELECT constraint_type FROM duckdb_constraints() WHERE table_name = 'images' "
                     "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE')") == []  # fmt: skip
    assert rows(run, "SELECT index_name FROM duckdb_indexes() WHERE table_name = 'images'") == []


def test_rounding_is_no_contradiction(tmp_path):
    manifest.write(tmp_path, tables({"p_clean": np.float32(1.0000001), "p_id": -1e-9, "p_ood": 0.0, "confidence": 1.0}))


def test_tables_and_columns_are_all_there_and_no_others(tmp_path):
    written = tables({})
    with pytest.raises(ValueError, match=r"missing tables \['epochs'\], unknown tables \['epoch'\]"):
        manifest.write(tmp_path, written | {"epoch": written.pop("epochs")})
    written = tables({})
    written["classes"] = written["classes"].rename(columns={"ood": "OOD"})
    with pytest.raises(ValueError, match=r"missing classes columns \['ood'\], unknown classes columns \['OOD'\]"):
        manifest.write(tmp_path, written)


# -------------------------------------------------------------------------------------------------- whole or not at all


def everything(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_interrupted_write_leaves_the_old_manifest(tmp_path, monkeypatch):
    manifest.write(tmp_path, tables(*FIVE))
    before = everything(tmp_path)
    assert set(before) == {"manifest.duckdb", "manifest.csv", "manifest.parquet"}

    def interrupt(*_):
        raise KeyboardInterrupt

    for place, step in ((manifest, "_check_duplicates"), (atomic, "sync")):
        with monkeypatch.context() as patch:
            patch.setattr(place, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                manifest.write(tmp_path, tables({}))
        assert everything(tmp_path) == before


def test_the_database_is_replaced_last(tmp_path, monkeypatch):
    manifest.write(tmp_path, tables(*FIVE))
    replace, seen = os.replace, []

    def refuse_the_database(draft, file):
        seen.append(Path(file).name)
        if file.suffix == ".duckdb":
            raise OSError("no")
        replace(draft, file)

    monkeypatch.setattr(os, "replace", refuse_the_database)
    with pytest.raises(MachineError, match="cannot write the manifest"):
        manifest.write(tmp_path, tables({}))
    assert seen[-1] == "manifest.duckdb"
    assert len(seen) == 3
    assert len(manifest.read(tmp_path, "images")) == 5
    assert len(list(tmp_path.iterdir())) == 3


def test_leftovers_of_a_crash_are_removed(tmp_path):
    (tmp_path / "manifest.writing.duckdb").write_text("half a database")
    (tmp_path / "manifest.writing.duckdb.wal").write_text("and its log")
    (tmp_path / "manifest.duckdb.wal").write_text("a log of another file")
    (tmp_path / "manifest.writing.spill").mkdir()
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / "manifest.writing.csv").symlink_to(tmp_path / "precious.txt")
    manifest.write(tmp_path, tables({}))
    assert set(everything(tmp_path)) == {"manifest.duckdb", "manifest.csv", "manifest.parquet", "precious.txt"}
    assert (tmp_path / "precious.txt").read_text() == "mine"
    assert len(manifest.read(tmp_path, "images")) == 1


def test_a_folder_duckdb_cannot_write_to_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"a \? in the path"):
        manifest.write(tmp_path / "what?", tables({}))
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot write the manifest"):
        manifest.write(tmp_path / "file" / "run", tables({}))


# --------------------------------------------------------------------------------------------------------- select


def test_select_gives_each_row_once_in_order(run):
    assert manifest.select(run, ["unusable", "clean", "trainable"]).sample_id.tolist() == ["0", "1", "3", "4"]
    assert manifest.select(run, ["trainable"], "needs_review OR false -- really").sample_id.tolist() == ["1"]
    assert manifest.select(run, ["clean"], "given_label = 'dog'").empty
    assert list(manifest.select(run, ["ood"]).columns) == list(IMAGE)


@pytest.mark.parametrize(
    ("only", "where", "message"),
    [
        (["dirty"], None, "unknown: dirty; choose from clean, relabeled, ood, unusable, trainable"),
        ([], None, "nothing to select"),
        (["clean"], "nope > 1", "nope"),
        (["clean"], "true); DROP TABLE images; SELECT (1", "syntax"),
        (["clean"], "true) OR (true", "syntax"),
        (["clean"], "true, true", "single expression"),
        (["clean"], "SELECT 1", "syntax"),
        (["clean"], "path IN (SELECT content FROM read_text('/etc/passwd'))", "disabled"),
        (["clean"], "EXISTS (FROM '/etc/passwd')", "passwd"),
        (["clean"], "getenv('HOME') IS NOT NULL", "getenv"),
    ],
)
def test_a_wrong_selection_is_explained(run, only, where, message):
    with pytest.raises(UsageError, match=message):
        manifest.select(run, only, where)


# --------------------------------------------------------------------------------------------------------- query


def test_query_gives_names_and_rows(run):
    names, found = manifest.query(run, "SELECT verdict, count(*) AS n FROM images GROUP BY 1 ORDER BY 1")
    assert names == ["verdict", "n"]
    assert list(found) == [("clean", 2), ("relabeled", 1), ("ood", 1), ("unusable", 1)]
    assert manifest.query(run, "SHOW TABLES")[0]
    assert len(rows(run, "FROM range(25000)")) == 25000


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM query('FROM read_text(''/etc/passwd'')')",
        "SELECT 1; SELECT * FROM read_text('/etc/passwd')",
        "SELECT getenv('HOME')",
        "CREATE SECRET s (TYPE s3)",
        "PRAGMA profiling_output = '{run}/profile.json'",
        "SET log_query_path = '{run}/log'",
        "RESET lock_configuration",
        "ATTACH ':memory:'",
        "IMPORT DATABASE '{run}'",
        "BEGIN; DELETE FROM images; COMMIT",
        "SELECT * FROM '{run}/manifest.csv'",
        "COPY images TO '{run}/copy.csv'",
        "ATTACH '{run}/other.duckdb'",
        "EXPORT DATABASE '{run}/copy'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "LOAD httpfs",
        "DELETE FROM images",
        "CREATE TABLE t AS SELECT 1",
        "SELECT * FROM rows",
        "SELEC",
        "SELECT nope FROM images",
        "SELECT path::INTEGER FROM images",
        "",
        "-- nothing",
    ],
)
def test_a_query_can_do_nothing_but_look(run, sql):
    before = everything(run)
    with pytest.raises(UsageError) as caught:
        rows(run, sql.format(run=str(run).replace("'", "''")))
    assert str(caught.value)
    assert "LINE 1" not in str(caught.value)
    assert everything(run) == before


def test_an_unsafe_query_may_read_and_write_but_not_change_the_manifest(run, tmp_path):
    (tmp_path / "other.csv").write_text("path,mine\na,1\n")
    before = everything(run)
    assert list(manifest.query(run, f"SELECT mine FROM read_csv('{tmp_path}/other.csv')", unsafe=True)[1]) == [(1,)]
    manifest.query(run, f"COPY (SELECT path FROM images) TO '{tmp_path}/paths.csv'", unsafe=True)
    assert (tmp_path / "paths.csv").exists()
    with pytest.raises(UsageError, match="read-only"):
        manifest.query(run, "DELETE FROM images", unsafe=True)
    assert everything(run) == before


@pytest.mark.parametrize("more", ["; DROP TABLE images", "; COPY images TO '{run}/x.csv'", " UNION ALL SELECT 1"])
def test_what_follows_a_condition_is_refused_or_ignored(run, more):
    before = everything(run)
    with suppress(UsageError):  # DuckDB 2 refuses it, DuckDB 1 reads up to there
        assert len(manifest.select(run, ["clean"], "true" + more.format(run=run))) == 2
    assert everything(run) == before


def test_a_condition_may_ask_what_it_likes_of_the_manifest(run):
    everyone = len(manifest.select(run, ["clean"]))
    for where in ("true -- and so on", "path IN (SELECT path FROM images)", "path NOT LIKE '%;%'", "rowid >= 0"):
        assert len(manifest.select(run, ["clean"], where)) == everyone


def test_an_unread_query_holds_nothing_open(run, tmp_path):
    manifest.query(run, "FROM images")
    manifest.write(run, {name: manifest.read(run, name) for name in schema.TABLES})


def test_no_manifest(tmp_path):
    with pytest.raises(RunError, match=r"no manifest in .*; run cleanweb fit first or give --run"):
        manifest.query(tmp_path, "SELECT 1")
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(RunError, match=r"its run is unfinished. Give the same cleanweb fit again"):
        manifest.read(tmp_path, "images")
    with pytest.raises(RunError, match="no manifest in nowhere"):
        manifest.read(Path("nowhere"), "images")


@pytest.mark.parametrize("content", [b"", b"<html>" * 1000], ids=["empty", "html"])
def test_a_file_that_is_no_database(tmp_path, content):
    (tmp_path / "manifest.duckdb").write_bytes(content)
    with pytest.raises(RunError, match=r"cannot read .*manifest.duckdb; if it is damaged, run cleanweb fit --fresh"):
        manifest.select(tmp_path, ["clean"])


def test_a_truncated_manifest(run, tmp_path):
    content = (run / "manifest.duckdb").read_bytes()
    (tmp_path / "manifest.duckdb").write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="cannot read"):
        manifest.read(tmp_path, "images")


def test_a_database_that_is_no_manifest(tmp_path):
    with duckdb.connect(tmp_path / "manifest.duckdb") as con:
        con.execute("CREATE TABLE images AS SELECT 1 AS a")
    with pytest.raises(RunError, match="no manifest: it has no table classes"):
        manifest.query(tmp_path, "SELECT 1")


def test_a_manifest_of_another_schema(tmp_path):
    with duckdb.connect(tmp_path / "manifest.duckdb") as con:
        for table in schema.TABLES:
            con.execute(f"CREATE TABLE {table} AS SELECT 'clean' AS verdict")
    with pytest.raises(RunError, match="has not the columns of this version of cleanweb"):
        manifest.read(tmp_path, "images")


def test_a_manifest_that_another_program_is_writing(tmp_path):
    manifest.write(tmp_path, tables({}))
    hold = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('open', flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "manifest.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(RunError, match=r"another program has .* open for writing; close it and try again"):
            manifest.read(tmp_path, "images")
        other.communicate(b"\n")
    assert len(manifest.read(tmp_path, "images")) == 1


def test_looking_loads_neither_torch_nor_pandas(run):
    look = (
        "import sys; from pathlib import Path; from cleanweb import manifest;"
        "print(list(manifest.query(Path(sys.argv[1]), 'SELECT count(*) FROM images')[1]));"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules), 'loaded'"
    )
    assert subprocess.check_output([sys.executable, "-c", look, str(run)]) == b"[(5,)]\n"

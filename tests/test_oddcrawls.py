"""The whole `fit` on crawls that are odd, and on files that kill the process that opens them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cleanweb import manifest
from tests.test_cli import cleanweb

COLOURS = [(200, 40, 40), (40, 190, 60), (50, 60, 210)]
NAMES = ["007", '😀 two\nlines, "quoted"', "z" * 1000]  # of the three classes that can be learned
FIT = ("--backbone", "cnn5", "--epochs", 2, "--workers", 0, "--device", "cpu")


def paint(file: Path, colour: tuple[int, int, int], rng: np.random.Generator) -> None:
    Image.fromarray(np.clip(rng.normal(colour, 40, (24, 24, 3)), 0, 255).astype(np.uint8)).save(file)


def odd_crawl(folder: Path) -> Path:
    """14 pictures each of three classes, then labels of every odd kind."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = [NAMES[i % 3] for i in range(42)]
    labels += ["7", "nan", "None", "only once", "Two Spellings", "two  spellings", "", "  ", "b" * 1_000_000]
    rows = []
    for i, label in enumerate(labels):
        paint(folder / f"{i}.png", COLOURS[i % 3], rng)
        rows.append({"path": f"{i}.png", "label": label})
    rows += [
        {"path": "0.png", "label": NAMES[0]},
        {"path": "0.png", "label": "7"},
        {"path": "nowhere.png", "label": "7"},
    ]
    table = folder.parent / "labels.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"path": "41.png", "label": None}]))
    return table


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(run, what fit said)."""
    folder = tmp_path_factory.mktemp("odd")
    table = odd_crawl(folder / "crawl")
    code, out, err = cleanweb("fit", folder / "crawl", "--labels", table, "--out", folder / "run", *FIT)
    assert code == 0, err
    return folder / "run", out


def test_every_row_has_its_label_as_written_and_one_status(odd: tuple[Path, str]) -> None:
    images = manifest.read(odd[0], "images")
    given = images.set_index("sample_id")["given_label"]
    assert [given[f"{i}.png"] for i in range(48)] == [NAMES[i % 3] for i in range(42)] + [
        "7", "nan", "None", "only once", "Two Spellings", "two  spellings"
    ]  # fmt: skip
    assert given[["48.png", "49.png", "50.png", "41.png#2"]].isna().all()
    assert images["status"].value_counts().to_dict() == {
        "ok": 48, "unlabeled": 4, "repeated": 1, "conflicting": 1, "missing": 1
    }  # fmt: skip
    assert (images["verdict"] == "unusable").sum() == 5
    assert set(manifest.read(odd[0], "classes")["label"]) == set(given.dropna())


def test_what_cannot_be_judged_is_to_be_looked_at(odd: tuple[Path, str]) -> None:
    images = manifest.read(odd[0], "images").set_index("sample_id")
    alone = images.loc[[f"{i}.png" for i in range(42, 48)]]
    assert alone["needs_review"].all()
    assert (alone["verdict"] == "clean").all()  # kept: a class of one image says nothing of it


def test_files_beside_the_database_say_the_same(odd: tuple[Path, str], tmp_path: Path) -> None:
    images = manifest.read(odd[0], "images")
    written = duckdb.sql(f"SELECT given_label FROM '{odd[0] / 'manifest.parquet'}'").fetchall()
    assert [label for (label,) in written] == images["given_label"].astype(object).where(
        images["given_label"].notna(), None
    ).tolist()
    with (odd[0] / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        csv.field_size_limit(10_000_000)
        assert [row["given_label"] or None for row in csv.DictReader(stream)] == [
            None if pd.isna(label) else label for label in images["given_label"]
        ]
    for words in (["export", "--format", "imagefolder", "--out", tmp_path / "tree"], ["retag"], ["report"],
                  ["sql", "SELECT * FROM images"], ["export", "--out", tmp_path / "t.csv"]):  # fmt: skip
        code, _, err = cleanweb(*words, "--run", odd[0])
        assert code == 0, err


def test_what_is_odd_is_told(odd: tuple[Path, str]) -> None:
    said = odd[1]
    assert "'Two Spellings', 'two  spellings' (--merge-labels makes them one)" in said
    assert "4 images have no label" in said
    assert max(map(len, said.splitlines())) < 250  # labels of 1,000 characters are cut


@pytest.mark.slow
def test_spellings_are_one_class_where_asked(tmp_path: Path) -> None:
    table = odd_crawl(tmp_path / "crawl")
    code, out, err = cleanweb("fit", tmp_path / "crawl", "--labels", table, "--out", tmp_path / "run", *FIT,
                              "--merge-labels")  # fmt: skip
    assert code == 0, err
    images = manifest.read(tmp_path / "run", "images")
    assert images["given_label"].str.startswith("Two", na=False).sum() == 2
    assert "labels merged into 'Two Spellings'" in out


KILLERS = """
import os, signal, PIL.Image as pil

decode = pil.open

def deadly(fp, *words, **more):
    data = fp.getvalue()
    if data.endswith(b"SEGFAULT"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(b"KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith(b"EXIT"):
        os._exit(1)
    if data.endswith(b"EAT"):
        bytearray(1 << 45)
    return decode(fp, *words, **more)

pil.open = deadly
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_files_that_kill_their_process_cost_a_row_each(crawl: Path, tmp_path: Path) -> None:
    """Stand-ins for decoders with a hole: none of the files of the fuzzer kills this Pillow."""
    shutil.copytree(crawl, tmp_path / "crawl")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLERS)
    whole = (tmp_path / "crawl" / "red" / "05.png").read_bytes()
    endings = {b"SEGFAULT": "crashed (signal 11)", b"KILLED": "killed (signal 9)", b"EXIT": "ended (exit code 1)",
               b"EAT": "not enough memory"}  # fmt: skip
    for ending in endings:
        for label in ("red", "blue"):
            (tmp_path / "crawl" / label / f"{ending.decode()}.png").write_bytes(whole + ending)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1])])}
    command = [sys.executable, "-m", "cleanweb", "fit", "crawl", "--out", "run", *map(str, FIT), "--workers", "2"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    images = manifest.read(tmp_path / "run", "images").set_index("path")
    for ending, words in endings.items():
        for label in ("red", "blue"):
            row = images.loc[f"{label}/{ending.decode()}.png"]
            assert (row["status"], row["verdict"]) == ("error", "unusable")
            assert words in row["error"]
    assert (images["status"] == "ok").sum() == 50

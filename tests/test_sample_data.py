"""The sample crawl is what its script draws, holds what its header says, and tells the truth about itself."""

import csv
import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

SAMPLE = Path(__file__).parent.parent / "sample_data"
CLASSES = {"car", "fish", "house", "star", "sun", "tree"}


def draw(out: Path, seed: int) -> Path:
    subprocess.run([sys.executable, SAMPLE / "draw.py", "--out", out, "--seed", str(seed)], check=True)
    return out


def table(name: str, folder: Path = SAMPLE) -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels(file: Path) -> np.ndarray | None:
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), float)
    except (UnidentifiedImageError, OSError):
        return None


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("crawl"), seed=0)


def test_the_script_draws_the_crawl_that_is_kept(redrawn):
    kept = {file.name for file in (SAMPLE / "crawl").iterdir()}
    assert kept == {file.name for file in (redrawn / "crawl").iterdir()}
    for name in sorted(kept):
        ours, again = pixels(SAMPLE / "crawl" / name), pixels(redrawn / "crawl" / name)
        assert (ours is None) == (again is None), name
        if ours is not None:
            assert ours.shape == again.shape, name
            assert np.abs(ours - again).mean() < 3, name  # encoders and line joints differ a little between Pillows
    for name in ("labels.csv", "truth.csv"):
        assert table(name) == table(name, redrawn), name


def test_another_seed_draws_another_crawl_of_the_same_kind(tmp_path):
    other = draw(tmp_path / "new", seed=1)
    assert len(table("truth.csv", other)) == len(table("truth.csv"))
    assert table("truth.csv", other) != table("truth.csv")
    again = subprocess.run([sys.executable, SAMPLE / "draw.py", "--out", other], capture_output=True, check=False)
    assert again.returncode != 0  # it never writes over a crawl that is there


def test_counts_are_as_the_script_says():
    truth, files = table("truth.csv"), list((SAMPLE / "crawl").iterdir())
    assert len(files) == 480 + 80 + 28 + 5 + 2  # classes, foreign, copies, broken, without a row or a label
    assert len(truth) == 480 + 80 + 28
    assert sum(file.stat().st_size for file in SAMPLE.rglob("*") if file.is_file()) < 5e6
    assert {row["label"] for row in truth} == CLASSES
    assert {row["truth"] for row in truth} == CLASSES | {""}
    foreign = sum(row["truth"] == "" for row in truth) / len(truth)
    wrong = np.mean([row["truth"] != row["label"] for row in truth if row["truth"]])
    assert 0.12 < foreign < 0.15
    assert 0.18 < wrong < 0.22
    assert min(Counter(row["label"] for row in truth).values()) > 60


def test_the_tables_agree_with_the_files_and_with_each_other():
    truth, labels = table("truth.csv"), table("labels.csv")
    files = {file.name for file in (SAMPLE / "crawl").iterdir()}
    first = {row["path"]: row["label"] for row in reversed(labels)}
    assert len({row["path"] for row in truth}) == len(truth)
    for row in truth:
        assert first[row["path"]] == row["label"]
        assert pixels(SAMPLE / "crawl" / row["path"]) is not None, row
    assert len(files - set(first)) == 1  # a file without a row
    assert len(set(first) - files) == 1  # a row without a file
    assert sum(row["label"] == "" for row in labels) == 1
    twice = [path for path, count in Counter(row["path"] for row in labels).items() if count == 2]
    assert sorted(len({row["label"] for row in labels if row["path"] == path}) for path in twice) == [1, 2]


def test_it_holds_the_oddities_of_the_web():
    files = sorted((SAMPLE / "crawl").iterdir())
    facts, broken = {}, []
    for file in files:
        if pixels(file) is None:
            broken.append(file)
            continue
        with Image.open(file) as image:
            facts[file] = (image.format, image.mode, image.getexif().get(0x0112), getattr(image, "n_frames", 1))
    assert len(broken) == 5
    assert sum(file.stat().st_size == 0 for file in broken) == 1
    assert sum(file.read_bytes().startswith(b"\xff\xd8") for file in broken) == 2  # JPEGs that break off
    assert {kind for kind, *_ in facts.values()} == {"JPEG", "PNG", "WEBP", "GIF"}
    assert {"RGB", "CMYK", "L", "P", "RGBA"} <= {mode for _, mode, *_ in facts.values()}
    assert sum(turn == 6 for _, _, turn, _ in facts.values()) == 1
    assert sum(frames > 1 for *_, frames in facts.values()) == 1
    assert [file.name for file, (kind, *_) in facts.items() if kind == "PNG" and file.suffix == ".jpg"] != []
    assert any(" " in file.name and not file.name.isascii() for file in files)


def test_some_pictures_are_there_twice_a_few_under_two_labels():
    same_bytes, same_pixels = {}, {}
    for row in table("truth.csv"):
        file = SAMPLE / "crawl" / row["path"]
        same_bytes.setdefault(hashlib.sha256(file.read_bytes()).digest(), []).append(row)
        same_pixels.setdefault(pixels(file).tobytes(), []).append(row)
    pairs = [rows for rows in same_pixels.values() if len(rows) > 1]
    assert sum(len(rows) > 1 for rows in same_bytes.values()) == 10
    assert len(pairs) >= 16
    assert all(len({row["truth"] for row in rows}) == 1 for rows in pairs)
    assert any(len({row["label"] for row in rows}) > 1 for rows in pairs)

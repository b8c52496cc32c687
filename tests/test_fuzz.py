"""A small fixed budget of `python -m tests.fuzz`, the bombs that chance does not find, and what it once found."""

import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import duckdb
import pytest

from cleanweb import images, imageworkers, readers
from cleanweb.classifier import load_classifier
from cleanweb.errors import CleanwebError, RunError
from cleanweb.records import ImageFacts, Status, silent
from cleanweb.runfolder import RunFolder
from tests.fuzz import TARGETS, _scores, fuzz
from tests.imageseeds import picture, saved, seeds

NASTY = Path(__file__).parents[2] / "shared" / "data" / "nasty"
BUDGET = {
    "images": 2000,
    "tables": 150,
    "tars": 1500,
    "checkpoints": 50,
    "classifiers": 300,
    "manifests": 60,
    "scores": 500,
}


@pytest.mark.parametrize("target", TARGETS)
def test_damage_ends_in_a_status_or_in_words(target: str) -> None:
    report = fuzz(target, BUDGET[target])
    assert not report.findings
    assert report.outcomes.total() == BUDGET[target]
    assert len(report.outcomes) > 1  # neither everything is refused nor everything is read
    assert report.slowest[0] < 20
    assert report.peak_bytes < 2 << 30


@pytest.mark.skipif(not NASTY.is_dir(), reason="the corpus of broken files is not beside the repository")
def test_damaged_files_of_an_image_librarys_own_tests() -> None:
    assert not fuzz("images", 1000, corpus=NASTY).findings


def test_every_format_that_is_opened_is_damaged() -> None:
    with images.quiet():
        opened = {images.inspect_one(content)[0].format.upper() for content in seeds().values()}
        assert all(images.inspect_one(content)[0].status == Status.OK for content in seeds().values())
    assert opened == {*images._formats(), "MPO"}


# --- bombs ----------------------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(name: bytes, start: bytes) -> bytes:
    """A small PNG with a chunk that unpacks to 100 MB."""
    whole = saved("PNG")
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    return whole[:33] + chunk(name, start + packed) + whole[33:]


def flat_png(side: int, kind: int, bits: int, channels: int, rows: int) -> bytes:
    """side × side pixels by its header, all zero; only some rows of them are there."""
    data = zlib.compress(bytes(1 + side * channels * bits // 8) * rows)
    header = struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def many_frames(n: int) -> bytes:
    whole = saved("GIF", "P")
    start = whole.index(b",\0\0\0\0", 13)
    return whole[:start] + whole[start:-1] * n + b";"


def many_strips() -> bytes:
    """A TIFF of 24 × 24 that names two million strips."""
    n = 2_000_000
    tags = [(256, 4, 1, 24), (257, 4, 1, 24), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, n, 200),
            (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, n, 200)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + bytes(4 * n + 200)


def with_size(whole: bytes, sign: bytes, after: int, size: bytes) -> bytes:
    at = whole.index(sign) + after
    return whole[:at] + size + whole[at + len(size) :]


BOMBS = {
    "png zTXt": lambda: png_with(b"zTXt", b"Comment\0\0"),
    "png iTXt": lambda: png_with(b"iTXt", b"Comment\0\1\0\0\0"),
    "png iCCP": lambda: png_with(b"iCCP", b"icc\0\0"),
    "png pixels": lambda: flat_png(20_000, 0, 8, 1, 100),
    "png RGBA": lambda: flat_png(13_000, 6, 8, 4, 200),
    "png 16-bit": lambda: flat_png(13_000, 0, 16, 1, 13_000),
    "gif frames": lambda: many_frames(50_000),
    "tiff strips": many_strips,
    "webp pixels": lambda: with_size(saved("WEBP", save_all=True, append_images=[picture(seed=1)]), b"VP8X", 12,
                                     b"\xff" * 6),
    "jpeg pixels": lambda: with_size(saved("JPEG"), b"\xff\xc0", 5, struct.pack(">HH", 13_000, 13_000)),
    "bmp header": lambda: saved("BMP")[:18] + struct.pack("<ii", 2_000_000_000, 2_000_000_000) + saved("BMP")[26:],
    "ico of a bomb": lambda: struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, 10**6, 22)
                             + flat_png(20_000, 0, 8, 1, 100),
}  # fmt: skip


@pytest.fixture(scope="module")
def spent() -> dict[str, ImageFacts]:
    """Every bomb between two whole pictures, in one process that may take 512 MiB: its facts."""
    contents = [saved("PNG")]
    for make in BOMBS.values():
        contents += [make(), saved("PNG")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imageworkers, "memory_share", lambda workers: 512 << 20)
        facts, _ = imageworkers.inspect(enumerate(contents), len(contents), None, 64, 1, silent)
    assert all(facts[i].status == Status.OK for i in range(0, len(contents), 2))  # the others go on
    return {name: facts[2 * k + 1] for k, name in enumerate(BOMBS)}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_one_row(spent: dict[str, ImageFacts], bomb: str) -> None:
    harmless = {"gif frames", "jpeg pixels"}  # its first frame alone is decoded; at an eighth of its scale
    assert (spent[bomb].status == Status.OK) == (bomb in harmless), spent[bomb]


# --- what was found -------------------------------------------------------------------------------------------------


def test_postscript_in_an_iptc_file_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow opens what an IPTC file holds with any decoder: also with that for PostScript, which runs Ghostscript."""
    from PIL import EpsImagePlugin

    ran = []
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **_: ran.append(words))
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\nshowpage\n"
    side = struct.pack(">H", 24)
    fields = [((3, 60), b"\1\0"), ((3, 65), b"\1"), ((3, 20), side), ((3, 30), side), ((3, 120), b"\5"),
              ((8, 10), drawing)]  # fmt: skip
    content = b"".join(b"\x1c" + bytes(at) + struct.pack(">H", len(data)) + data for at, data in fields)
    assert images.inspect_one(content)[0].status != Status.OK
    assert not ran


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('["blue"', "[" * 3000 + '["blue"'),
        ('["blue", "green", "red"]', '{"blue": 1}'),
        ('["blue", "green", "red"]', "7"),
        ('"blue"', "null"),
        ('"input_size": [3, 32, 32]', '"input_size": [3, 64000, 16]'),
        ('"input_size": [3, 32, 32]', '"input_size": [3, 1000000, 1000000]'),
        ('"input_size": [3, 32, 32]', '"input_size": null'),
        ('"mean": [', '"mean": ["x", '),
    ],
)
def test_the_configuration_of_a_classifier_is_checked(run: Path, tmp_path: Path, old: str, new: str) -> None:
    shutil.copytree(run / "classifier", tmp_path / "classifier")
    config = tmp_path / "classifier" / "config.json"
    text = json.dumps(json.loads(config.read_text(encoding="utf-8")))
    assert old in text
    config.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(RunError, match="not the configuration"):
        load_classifier(tmp_path / "classifier")


@pytest.mark.parametrize("kind", ["VARCHAR", "STRUCT(bytes BLOB, path VARCHAR)"])
@pytest.mark.parametrize("name", ["image_abcd", "label"])
def test_names_in_parquet_that_are_not_utf_8(tmp_path: Path, name: str, kind: str) -> None:
    """DuckDB's Python side raised RuntimeError for such a column, and its own error where it was asked about images."""
    value = "'a.png'" if kind == "VARCHAR" else "{'bytes': 'x'::BLOB, 'path': 'a.png'}"
    table = tmp_path / "t.parquet"
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT {value}::{kind} AS image_abcd, 'cat' AS label) TO '{table}' (FORMAT parquet)")
    damaged = name[:-2].encode() + b"\xff" + name[-1:].encode()
    table.write_bytes(table.read_bytes().replace(name.encode(), damaged))
    with pytest.raises(CleanwebError):
        readers.read(table)


def test_scores_that_numpy_chokes_on_are_damaged_scores(tmp_path: Path) -> None:
    """A ZIP whose flags name an encryption made zipfile raise NotImplementedError."""
    folder = RunFolder(tmp_path)
    folder.save_scores(*_scores())
    whole = folder.scores.read_bytes()
    entry = whole.index(b"PK\1\2")
    for flags in (1 << 5, 1 << 6, 1):
        folder.scores.write_bytes(whole[: entry + 8] + struct.pack("<H", flags) + whole[entry + 10 :])
        with pytest.raises(RunError, match="damaged"):
            folder.load_scores()

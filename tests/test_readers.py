"""Every source becomes the same list of samples; nothing disappears; what is wrong is said with its place."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from cleanweb import opening, readers
from cleanweb.columns import choose
from cleanweb.errors import CrawlError, UsageError
from cleanweb.opening import contents, embedded_images, read_bytes
from cleanweb.packed import Samples
from cleanweb.readers import READERS, read
from cleanweb.records import Sample, Status

CIFAR = Path(__file__).parents[2] / "shared" / "data" / "cifar100"


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def rows(crawl: readers.Crawl) -> list[tuple]:
    return [(s.sample_id, s.given_label, s.status.value) for s in crawl.samples]


def table(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def parquet(file: Path, select: str) -> Path:
    file.parent.mkdir(exist_ok=True, parents=True)
    literal = str(file).replace("'", "''")
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({select}) TO '{literal}' (FORMAT parquet)")
    return file


EMBEDDED = """SELECT {'bytes': encode(c || r), 'path': c || '/' || r || '.png'} AS image, c AS label, r AS label_id
              FROM (VALUES ('cat'), ('dog')) AS classes(c), range(3) AS numbers(r)"""


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_per_class(tmp_path):
    files(tmp_path, "dog/a.jpg", "dog/deep/er/b.php", "cat/a.jpg", "loose.jpg", "readme.txt")
    files(tmp_path, ".hidden/x.jpg", "cat/.DS_Store", "cat/Thumbs.db", "__MACOSX/x.jpg", "cat/._a.jpg")
    (tmp_path / "empty").mkdir()
    crawl = read(tmp_path)
    assert crawl.root == tmp_path
    assert rows(crawl) == [
        ("loose.jpg", None, "unlabeled"),
        ("cat/a.jpg", "cat", "ok"),
        ("dog/a.jpg", "dog", "ok"),
        ("dog/deep/er/b.php", "dog", "ok"),
    ]
    assert crawl.notes[0] == "1 image has no label"
    assert any("readme.txt" in note for note in crawl.notes)
    assert any("empty" in note for note in crawl.notes)
    assert [(i, path.read_bytes()) for i, path in contents(crawl.samples)] == [
        (i, s.path.encode()) for i, s in enumerate(crawl.samples)
    ]


def test_links_are_followed_once_and_loops_end(tmp_path):
    files(tmp_path / "crawl", "cat/a.jpg", "dog/b.jpg")
    files(tmp_path / "elsewhere", "c.jpg")
    (tmp_path / "crawl/cat/loop").symlink_to(tmp_path / "crawl")
    (tmp_path / "crawl/dog/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "crawl/dog/lost.jpg").symlink_to(tmp_path / "nothing")
    crawl = read(tmp_path / "crawl", allow_outside=True)
    found = rows(crawl)
    assert ("dog/more/c.jpg", "dog", "ok") in found
    assert ("dog/lost.jpg", "dog", "missing") in found
    assert len(found) == len(set(found)) < 10


def test_a_link_to_itself_and_a_pipe_are_rows_and_take_nothing_with_them(tmp_path):
    files(tmp_path, *(f"{label}/{i}.jpg" for label in ("cat", "dog") for i in range(5)))
    for folder in ("cat", "."):
        (tmp_path / folder / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(tmp_path / "dog/pipe.jpg")
    crawl = read(tmp_path)
    found = rows(crawl)
    assert len(found) == 13
    assert ("cat/self.jpg", "cat", "missing") in found
    assert ("dog/pipe.jpg", "dog", "ok") in found  # opening it tells
    assert not any("cannot be read" in note for note in crawl.notes)
    with pytest.raises(CrawlError, match="not a regular file"):
        read_bytes(str(tmp_path / "dog/pipe.jpg"), None)


def test_links_that_lead_out_of_the_crawl_are_not_followed(tmp_path):
    files(tmp_path / "crawl", "cat/a.jpg", "dog/b.jpg", "dog/deep/c.jpg")
    files(tmp_path / "elsewhere", "secret.jpg", "more/secret.jpg")
    (tmp_path / "crawl/cat/link.jpg").symlink_to(tmp_path / "elsewhere/secret.jpg")
    (tmp_path / "crawl/cat/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "crawl/cat/lost.jpg").symlink_to(tmp_path / "elsewhere/nothing")
    (tmp_path / "crawl/cat/up.jpg").symlink_to("../../elsewhere/secret.jpg")
    (tmp_path / "crawl/rat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "crawl/loose.jpg").symlink_to(tmp_path / "elsewhere/secret.jpg")
    (tmp_path / "crawl/dog/within.jpg").symlink_to(tmp_path / "crawl/cat/a.jpg")
    (tmp_path / "crawl/dog/through").symlink_to(tmp_path / "crawl/dog/deep")
    (tmp_path / "crawl/cat/chain.jpg").symlink_to("link.jpg")
    (tmp_path / "near").symlink_to(tmp_path / "crawl")  # the crawl itself may be given by a link
    crawl = read(tmp_path / "near")
    out = {s.path: s for s in crawl.samples if s.status == Status.OUTSIDE}
    assert set(out) == {"cat/link.jpg", "cat/folder", "cat/lost.jpg", "cat/up.jpg", "rat", "loose.jpg", "cat/chain.jpg"}
    assert {s.path for s in crawl.samples} - set(out) == {"cat/a.jpg", "dog/b.jpg", "dog/deep/c.jpg", "dog/within.jpg"}
    assert all(s.file == "" for s in out.values())  # nothing later can open it
    assert "elsewhere" in out["rat"].note
    assert not [content for _, content in contents(crawl.samples) if content.read_bytes().endswith(b"secret.jpg")]
    assert any("7 images lie outside" in note and "--allow-outside" in note for note in crawl.notes)
    everything = read(tmp_path / "near", allow_outside=True)
    assert sum(s.status == Status.OK for s in everything.samples) == 11
    assert all(s.status in (Status.OK, Status.MISSING, Status.UNLABELED) for s in everything.samples)


def test_class_folders_that_all_lead_out_are_explained(tmp_path):
    files(tmp_path / "real", "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "crawl").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "crawl" / name).symlink_to(tmp_path / "real" / name)
    with pytest.raises(CrawlError, match="--allow-outside"):
        read(tmp_path / "crawl")
    assert len(read(tmp_path / "crawl", allow_outside=True).samples) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text")
def test_names_that_are_not_text_are_written_as_escapes(tmp_path):
    files(tmp_path, "cat/a.jpg", "dog/b.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/caf\xe9.jpg")).write_bytes(b"x")
    crawl = read(tmp_path)
    assert all(s.path.encode() for s in crawl.samples)
    assert dict(contents(crawl.samples))[1].read_bytes() == b"x"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.jpg", "b.jpg"], "--labels"),
        (["a.jpg", "labels.csv"], "Did you mean --labels"),
        (["cat/a.jpg"], "only the class 'cat'"),
        (["train/cat/a.jpg", "test/cat/b.jpg"], "splits"),
        ([], "--labels"),
    ],
)
def test_a_folder_that_cannot_be_learned_from(tmp_path, names, words):
    with pytest.raises(CrawlError, match=words):
        read(files(tmp_path, *names))


def test_there_must_be_something(tmp_path):
    with pytest.raises(CrawlError, match="Nothing found"):
        read(tmp_path / "gone")
    with pytest.raises(CrawlError, match="Nothing found"):
        read(tmp_path, tmp_path / "gone.csv")
    with pytest.raises(CrawlError, match="Unpack"):
        read(table(tmp_path, b"PK\x03\x04" + bytes(50), "crawl.zip"))
    with pytest.raises(UsageError, match="together with --labels"):
        read(table(tmp_path, "path,label"), table(tmp_path, "path,label"))
    with pytest.raises(UsageError, match="--path-column"):
        read(files(tmp_path, "cat/a.jpg"), path_column="path")


# --- tables: the samples --------------------------------------------------------------------------------------------


def test_nothing_disappears(tmp_path):
    files(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e f.jpg", "sub/g.jpg", "notes.txt")
    labels = table(
        tmp_path,
        "path,label\na.jpg,cat\nb.jpg,dog\na.jpg,cat\n./a.jpg,dog\nc.jpg,\ngone.jpg,cat\n"
        f"sub/../b.jpg,dog\n{tmp_path}/b.jpg,dog\ne f.jpg,  \ngone.jpg,\n,cat\n",
    )
    crawl = read(tmp_path, labels)
    assert rows(crawl) == [
        ("a.jpg", "cat", "ok"),
        ("b.jpg", "dog", "ok"),
        ("a.jpg#2", "cat", "repeated"),
        ("a.jpg#3", "dog", "conflicting"),
        ("c.jpg", None, "unlabeled"),
        ("gone.jpg", "cat", "missing"),
        ("b.jpg#2", "dog", "repeated"),
        ("b.jpg#3", "dog", "repeated"),
        ("e f.jpg", None, "unlabeled"),
        ("gone.jpg#2", None, "missing"),
        ("", "cat", "missing"),
        ("d.jpg", None, "unlisted"),
        ("sub/g.jpg", None, "unlisted"),
    ]
    assert crawl.notes == [
        "2 images have no label",
        "2 files of the folder are named by no row of the table",
        "3 rows repeat an earlier one",
        "1 row gives another label to a path named before",
        "3 rows name a file that does not exist",
    ]
    assert all(s.note for s in crawl.samples if s.status != Status.OK)
    opened = dict(contents(crawl.samples))
    assert sorted(opened) == [0, 1, 4, 8, 11, 12]
    assert read_bytes(crawl.samples[12].file, None) == b"sub/g.jpg"


def test_an_empty_label_does_not_stand_in_the_way_of_a_label(tmp_path):
    labels = table(files(tmp_path, "a.jpg", "b.jpg"), "path,label\na.jpg,\na.jpg,cat\nb.jpg,dog\n")
    assert [s.status.value for s in read(labels).samples] == ["unlabeled", "ok", "ok"]


def test_paths_are_found_beside_the_table_too_and_outside(tmp_path):
    files(tmp_path, "images/a.jpg", "tables/b.jpg", "c.jpg")
    labels = table(
        tmp_path / "tables", f"path,label\na.jpg,cat\nb.jpg,dog\n{tmp_path}/c.jpg,cat\n../images/a.jpg,cat\n"
    )
    crawl = read(tmp_path / "images", labels, allow_outside=True)
    outside = [f"{tmp_path.as_posix()}/{name}" for name in ("tables/b.jpg", "c.jpg")]
    assert [s.path for s in crawl.samples] == ["a.jpg", *outside, "a.jpg"]
    assert crawl.samples[3].status == Status.REPEATED


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_cannot_lead_out_of_the_crawl_folder(tmp_path, kind):
    files(tmp_path, "crawl/a.jpg", "crawl/b.jpg", "crawl/sub/c.jpg", "secret.jpg", "crawl-too/d.jpg")
    (tmp_path / "crawl/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "crawl/all").symlink_to(tmp_path)
    inside = ["a.jpg", f"{tmp_path}/crawl/b.jpg", "sub/../sub/c.jpg", "all/crawl/sub/c.jpg"]
    beyond = ["../secret.jpg", f"{tmp_path}/secret.jpg", "link.jpg", "all/secret.jpg", "sub/../../secret.jpg",
              "/etc/passwd", "../crawl-too/d.jpg", "..\\secret.jpg", " /etc/passwd"]  # fmt: skip
    named = [(path, "cat" if i % 2 else "dog") for i, path in enumerate(inside + beyond)]
    where = tmp_path / f"crawl/labels.{kind}"
    if kind == "parquet":
        values = ", ".join(f"('{path}', '{label}')" for path, label in named)
        parquet(where, f"SELECT * FROM (VALUES {values}) AS t(path, label)")
    elif kind == "csv":
        where.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in named))
    else:
        where.write_text("".join(json.dumps({"path": p, "label": name}) + "\n" for p, name in named))
    crawl = read(tmp_path / "crawl", where)
    assert [s.status for s in crawl.samples[: len(inside)]] == [Status.OK] * len(inside)
    assert [s.status for s in crawl.samples[len(inside) : len(named)]] == [Status.OUTSIDE] * len(beyond)
    assert len({s.sample_id for s in crawl.samples}) == len(crawl.samples)
    assert [content.name for _, content in contents(crawl.samples)] == ["a.jpg", "b.jpg", "c.jpg", "c.jpg"]
    assert all(s.file == "" for s in crawl.samples if s.status == Status.OUTSIDE)
    free = read(tmp_path / "crawl", where, allow_outside=True)
    assert not [s for s in free.samples if s.status == Status.OUTSIDE]


def test_a_table_alone_may_name_images_anywhere_by_absolute_paths(tmp_path):
    """It says where they are, and nobody said where they should be; .. and links still lead nowhere."""
    files(tmp_path, "images/a.jpg", "images/b.jpg", "tables/x", "tables/c.jpg")
    (tmp_path / "tables/link.jpg").symlink_to(tmp_path / "images/b.jpg")
    labels = table(tmp_path / "tables", f"path,label\n{tmp_path}/images/a.jpg,cat\nc.jpg,dog\n../images/b.jpg,cat\n"
                                        "link.jpg,dog\n")  # fmt: skip
    assert [s.status.value for s in read(labels).samples] == ["ok", "ok", "outside", "outside"]
    with pytest.raises(CrawlError, match=r"No image lies in the crawl folder.*leads to .*b\.jpg.*--allow-outside"):
        read(table(tmp_path / "tables", "path,label\n../images/b.jpg,cat\nlink.jpg,dog\n"))


def test_parquet_files_that_lead_out_of_their_folder(tmp_path):
    """As in the cache of the Hugging Face hub: links to blobs that lie elsewhere."""
    parquet(tmp_path / "blobs/1234", EMBEDDED)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/train.parquet").symlink_to(tmp_path / "blobs/1234")
    with pytest.raises(CrawlError, match="--allow-outside"):
        read(tmp_path / "snapshot")
    assert len(read(tmp_path / "snapshot", allow_outside=True).samples) == 6
    assert len(read(tmp_path / "snapshot/train.parquet").samples) == 6  # given by name


def test_a_path_through_another_link_is_the_same_path(tmp_path):
    files(tmp_path / "real", "a.jpg", "b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    labels = table(tmp_path, f"path,label\na.jpg,cat\n{tmp_path}/link/a.jpg,cat\n{tmp_path}/link/b.jpg,dog\n")
    assert rows(read(tmp_path / "real", labels)) == [
        ("a.jpg", "cat", "ok"),
        ("a.jpg#2", "cat", "repeated"),
        ("b.jpg", "dog", "ok"),
    ]


def test_odd_spellings_of_paths(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Ünïcode/é ü.jpg") for form in ("NFC", "NFD"))
    files(tmp_path, apart, "win/b.jpg", " c.jpg", 'it\'s;here,"d".jpg')
    labels = table(
        tmp_path,
        f"path,label\n{composed},cat\n{apart},cat\nwin\\b.jpg,dog\n c.jpg,dog\nwin/b.jpg ,dog\n"
        '"it\'s;here,""d"".jpg",dog\n',
    )
    assert rows(read(tmp_path, labels)) == [
        (apart, "cat", "ok"),
        (apart + "#2", "cat", "repeated"),
        ("win/b.jpg", "dog", "ok"),
        (" c.jpg", "dog", "ok"),
        ("win/b.jpg#2", "dog", "repeated"),
        ('it\'s;here,"d".jpg', "dog", "ok"),
    ]


def test_sample_ids_are_unique_whatever_files_are_called(tmp_path):
    files(tmp_path, "a.jpg", "a.jpg#2")
    labels = table(tmp_path, "path,label\na.jpg#2,cat\na.jpg,dog\na.jpg,dog\na.jpg#2,cat\na.jpg,dog\n")
    ids = [s.sample_id for s in read(tmp_path, labels).samples]
    assert len(set(ids)) == 5


def test_no_file_found_at_all(tmp_path):
    with pytest.raises(CrawlError, match=r"None of the files.*'x/a.jpg'"):
        read(table(tmp_path, "path,label\nx/a.jpg,cat\nx/b.jpg,dog\n"))
    with pytest.raises(CrawlError, match="download"):
        read(table(tmp_path, "image,label\nhttps://example.org/a.jpg,cat\n"))


# --- tables: the formats --------------------------------------------------------------------------------------------

PLAIN = "path,label\na.jpg,007\nsub/b.jpg,dog\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", PLAIN),
        ("t.csv", "\ufeff" + PLAIN),
        ("t.csv", PLAIN.replace("\n", "\r\n")),
        ("t.csv", PLAIN.replace("\n", "\r")),
        ("t.csv", PLAIN.replace(",", ";")),
        ("t.csv", PLAIN.replace(",", "|")),
        ("t.csv", PLAIN.replace("\n", "\n\n")),
        ("t.csv", '"path","label"\n"a.jpg","007"\n"sub/b.jpg","dog"'),
        ("t.tsv", PLAIN.replace(",", "\t")),
        ("t.txt", PLAIN.replace(",", "\t")),
        ("t.csv", PLAIN.encode("utf-16")),
        ("t.csv", "id,File Name,CLASS,note\n1,a.jpg,007,x\n2,sub/b.jpg,dog,\n"),
        ("t.csv", "path;label;note\na.jpg;007;1,2,3\nsub/b.jpg;dog;1,2,3\n"),
        ("t.jsonl", '{"path": "a.jpg", "label": "007"}\n{"label": "dog", "path": "sub/b.jpg", "x": [1]}\n'),
        ("t.json", '[{"path": "a.jpg", "label": "007"},\n {"label": "dog", "path": "sub/b.jpg"}]'),
        ("t.csv", '{"path": "a.jpg", "label": "007"}\r\n\r\n{"label": "dog", "path": "sub/b.jpg"}'),
    ],
)
def test_tables_of_all_kinds(tmp_path, name, content):
    files(tmp_path, "a.jpg", "sub/b.jpg")
    crawl = read(tmp_path, table(tmp_path, content, name))
    assert rows(crawl) == [("a.jpg", "007", "ok"), ("sub/b.jpg", "dog", "ok")]
    assert rows(read(tmp_path / name)) == rows(crawl)


@pytest.mark.parametrize("first", ["PK", "BZ", "pk", "7z", "Rar"])
def test_a_column_that_is_called_like_an_archive_is_a_column(tmp_path, first):
    labels = table(files(tmp_path, "a.jpg", "b.jpg"), f"{first},path,label\n1,a.jpg,cat\n2,b.jpg,dog\n")
    assert rows(read(labels)) == [("a.jpg", "cat", "ok"), ("b.jpg", "dog", "ok")]


@pytest.mark.parametrize("pack", ["zip", "tar", "gztar", "bztar"])
def test_an_archive_is_no_table(tmp_path, pack):
    archive = shutil.make_archive(str(tmp_path / "crawl"), pack, files(tmp_path / "in", "a.txt"))
    with pytest.raises(CrawlError, match="Unpack other archives"):
        read(Path(archive).rename(tmp_path / "crawl.packed"))


def test_a_parquet_table(tmp_path):
    files(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    values = "(VALUES ('a.jpg', 7.0), ('b.jpg', 8.0), ('c.jpg', NULL), ('d.jpg', 'nan'::DOUBLE)) AS t(path, label)"
    file = parquet(tmp_path / "it's odd [1]*.parquet", f"SELECT * FROM {values}")
    assert rows(read(tmp_path, file)) == [
        ("a.jpg", "7", "ok"),
        ("b.jpg", "8", "ok"),
        ("c.jpg", None, "unlabeled"),
        ("d.jpg", None, "unlabeled"),
    ]


def test_labels_are_text_as_written(tmp_path):
    files(tmp_path, *"abcdef")
    labels = ['"007"', "7", "7.0", "7.5", "true", "null"]
    lines = "".join(f'{{"file": "{name}", "target": {label}}}\n' for name, label in zip("abcdef", labels, strict=True))
    crawl = read(table(tmp_path, lines, "t.jsonl"))
    assert [s.given_label for s in crawl.samples] == ["007", "7", "7", "7.5", "true", None]
    crawl = read(table(tmp_path, "file,target\na, 1\nb,1.0\nc,NaN\n"))
    assert [s.given_label for s in crawl.samples] == [" 1", "1.0", "NaN"]


def test_labels_that_differ_in_spelling_are_told(tmp_path):
    crawl = read(table(files(tmp_path, *"ab"), "file,label\na,Polar Bear\nb,polar bear\n"))
    assert crawl.notes == [
        "labels that differ only in spelling: 'Polar Bear', 'polar bear' (--merge-labels makes them one)"
    ]


def test_labels_that_differ_in_spelling_are_merged_where_asked(tmp_path):
    text = "path,label\na,Cat\nb,cat\nc,cat\nd,Polar Bear\ne,polar  bear\nf,caf\u00e9\ng,cafe\u0301\na,CAT\nb,dog\n"
    crawl = read(table(files(tmp_path, *"abcdefg"), text), merge_labels=True)
    assert [s.given_label for s in crawl.samples] == [
        *["cat"] * 3, *["Polar Bear"] * 2, *["cafe\u0301"] * 2, "cat", "dog"
    ]  # fmt: skip
    assert [s.status.value for s in crawl.samples[7:]] == ["repeated", "conflicting"]
    assert "labels merged into 'cat': 'CAT', 'Cat', 'cat'" in crawl.notes
    with pytest.raises(CrawlError, match="only the class 'Cat'"):
        read(table(tmp_path, "path,label\na,cat\nb,Cat\n"), merge_labels=True)
    many = "".join(f"a,x{i}\nb,X{i}\n" for i in range(100))
    assert len(read(table(tmp_path, f"path,label\n{many}")).notes) < 30


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("path,label\na.jpg,cat\nb.jpg,caf\xe9\n".encode("latin1"), r"line 3: the byte 0xe9 .*iconv"),
        ("path,label\na.jpg,cat\nb.jpg,dog,big\n", "line 3: 3 fields"),
        ("path,label\na.jpg,cat\nb.jpg\n", "line 3: 1 fields"),
        ('path,label\na.jpg,cat\n"b.jpg,dog\nc.jpg,dog\n', "line 3: a quote"),
        ("path,label\na.jpg,c\0t\n", "line 2: a NUL"),
        ("", "is empty"),
        ('{"path": "a.jpg", "label": "cat"}\n{"path": "b.jpg"\n', "line 2: not JSON"),
        ('{"path": "a.jpg", "label": "cat"}\n[1]\n', "line 2: .*is no object"),
        ('[\n{"path": "a.jpg"},\n{"path" "b.jpg"}]', "line 3: not JSON"),
        (b"PAR1" + bytes(100), "cannot be read as Parquet"),
    ],
)
def test_a_broken_table_is_named_with_its_line(tmp_path, content, words):
    with pytest.raises(CrawlError, match=words):
        read(table(files(tmp_path, "a.jpg", "b.jpg"), content))


def test_values_that_are_no_text(tmp_path):
    with pytest.raises(UsageError, match="not a text"):
        read(table(tmp_path, '{"path": "a.jpg", "label": ["cat", "dog"]}\n'))


# --- which column ---------------------------------------------------------------------------------------------------

T = Path("t.csv")


@pytest.mark.parametrize(
    ("columns", "path", "label"),
    [
        (["path", "label"], "path", "label"),
        (["image", "label", "label_id", "coarse_id", "coarse_label"], "image", "label"),
        (["id", "fileName", "className"], "fileName", "className"),
        (["Image Path", "Category", "width"], "Image Path", "Category"),
        (["image_id", "image_width", "img_url", "file_name", "y"], "file_name", "y"),
        (["photo_file", "class_id", "class_name"], "photo_file", "class_name"),
        (["path", "file_name", "noisy_label"], "path", "noisy_label"),
        (["PATH", "image_label", "label"], "PATH", "label"),
    ],
)
def test_columns_are_guessed(columns, path, label):
    assert choose(columns, "path", None, T) == path
    assert choose(columns, "label", None, T) == label


@pytest.mark.parametrize(
    ("columns", "what", "given", "words"),
    [
        (
            ["file", "image", "label"],
            "path",
            None,
            "several columns that could be the path: file, image.*--path-column",
        ),
        (["path", "class", "category"], "label", None, "class, category.*--label-column"),
        (["a.jpg", "cat"], "path", None, "'a.jpg', 'cat'.*--path-column"),
        (["path", "x"], "label", None, "no column that is called like a label"),
        (["path", "x"], "label", "z", "no column 'z'.*'path', 'x'"),
        (["path", "x", "x"], "label", "x", "several columns 'x'"),
    ],
)
def test_a_guess_that_is_not_unique_lists_the_columns(columns, what, given, words):
    with pytest.raises(UsageError, match=words):
        choose(columns, what, given, T)


def test_where_neither_column_is_clear_both_options_are_named_at_once(tmp_path):
    file = table(files(tmp_path, "a", "b"), "Bilddatei,Kategorie\na,u\nb,v\n")
    with pytest.raises(UsageError, match=r"'Bilddatei', 'Kategorie'.*--path-column and --label-column"):
        read(file)
    with pytest.raises(UsageError, match=r"called like a label.*with --label-column"):
        read(file, path_column="Bilddatei")
    with pytest.raises(UsageError, match=r"called like a path.*with --path-column"):
        read(file, label_column="Kategorie")


def test_columns_can_be_given(tmp_path):
    file = table(files(tmp_path, "a", "b"), "file,image,class,category\na,x,1,u\nb,y,2,v\n")
    with pytest.raises(UsageError):
        read(file)
    crawl = read(file, path_column="FILE", label_column="category")
    assert rows(crawl) == [("a", "u", "ok"), ("b", "v", "ok")]


def test_no_two_samples_have_one_name_whatever_files_are_called(tmp_path):
    """A file called like the second row of another, and one like another's escaped name, ended the fit when it was to
    be written down."""
    files(tmp_path / "crawl", "000.png", "000.png#2", "1.png")
    labels = table(tmp_path, "path,label\n000.png,cat\n000.png,cat\n1.png,dog\n")
    assert rows(read(tmp_path / "crawl", labels)) == [
        ("000.png", "cat", "ok"), ("000.png#2", "cat", "repeated"), ("1.png", "dog", "ok"),
        ("000.png#2#2", None, "unlisted"),
    ]  # fmt: skip
    files(tmp_path / "folder", "cat/x.png", "dog/x\\udce4.png")
    (tmp_path / "folder" / os.fsdecode(b"dog/x\xe4.png")).write_bytes(b"x")
    samples = read(tmp_path / "folder").samples
    assert len({sample.sample_id for sample in samples}) == len(samples) == 3


# --- embedded images ------------------------------------------------------------------------------------------------


def test_parquet_with_embedded_images(tmp_path):
    file = parquet(tmp_path / "train.parquet", EMBEDDED)
    crawl = read(file)
    second = crawl.samples[1]
    assert (second.sample_id, second.given_label, second.row) == ("cat/1.png", "cat", 1)
    assert {i: content.decode() for i, content in contents(crawl.samples)} == {
        i: s.path.removesuffix(".png").replace("/", "") for i, s in enumerate(crawl.samples)
    }
    assert read_bytes(crawl.samples[4].file, 4) == b"dog1"
    with pytest.raises(CrawlError, match="row 99"):
        read_bytes(str(file), 99)


def test_images_in_a_tar_whose_name_is_no_text_are_found_again(tmp_path):
    """An export left all of them out."""
    with tarfile.open(tmp_path / os.fsdecode(b"caf\xe9.tar"), "w") as tar:
        for k, label in enumerate(["cat", "dog"]):
            for name, content in ((f"{k}.png", b"picture"), (f"{k}.cls", label.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    samples = read(tmp_path).samples
    told = str(tmp_path / "caf\\udce9.tar")
    assert [content for _, content in embedded_images(told, [s.row for s in samples])] == [b"picture", b"picture"]


def test_single_embedded_images_are_those_of_the_file_that_is_there_now(tmp_path):
    """The file is kept open between reads."""
    file = parquet(tmp_path / "train.parquet", EMBEDDED)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: read_bytes(str(file), row), [0, 1, 2, 3, 4, 5] * 20))
    assert found == list(dict(embedded_images(str(file), range(6))).values()) * 20
    file.unlink()
    with pytest.raises(CrawlError, match="cannot be read"):
        read_bytes(str(file), 0)
    parquet(file, "SELECT {'bytes': 'another'::BLOB, 'path': 'p'} AS image, r AS label FROM range(9) AS t(r)")
    assert read_bytes(str(file), 0) == b"another"


def test_a_parquet_file_that_is_damaged_inside_is_told(tmp_path):
    file = parquet(tmp_path / "train.parquet", EMBEDDED)
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + bytes(len(whole) // 2 - 4) + whole[len(whole) // 2 :])
    with pytest.raises(CrawlError, match="cannot be read as Parquet"):
        list(embedded_images(str(file), range(6)))
    with pytest.raises(CrawlError, match="cannot be read as Parquet"):
        read_bytes(str(file), 0)


def test_a_folder_of_parquet_files(tmp_path):
    for shard in range(2):
        parquet(tmp_path / f"data/train-{shard}.parquet", EMBEDDED)
    files(tmp_path, "README.md", ".gitattributes")
    crawl = read(tmp_path)
    assert len({s.sample_id for s in crawl.samples}) == 12
    assert crawl.samples[6].sample_id == "cat/0.png#2"
    assert crawl.samples[6].status == Status.OK  # the same name, but an image of its own
    assert [i for i, _ in contents(crawl.samples)] == list(range(12))
    whole = dict(contents(crawl.samples))
    assert list(contents(crawl.samples, [3, 7, 10])) == [(i, whole[i]) for i in (3, 7, 10)]
    assert crawl.root == tmp_path
    assert "read 2 Parquet files" in crawl.notes[0]


def test_embedded_images_without_names_or_without_bytes(tmp_path):
    files(tmp_path, "a.jpg")
    image = "{'bytes': b::BLOB, 'path': p::VARCHAR}"
    values = (
        "(VALUES ('x', NULL, 'cat'), (NULL, 'a.jpg', 'dog'), (NULL, NULL, 'dog'), ('y', '', NULL)) AS t(b, p, label)"
    )
    crawl = read(parquet(tmp_path / "t.parquet", f"SELECT {image} AS img, label FROM {values}"))
    assert rows(crawl) == [
        ("t.parquet/0", "cat", "ok"),
        ("a.jpg", "dog", "ok"),
        ("", "dog", "missing"),
        ("t.parquet/3", None, "unlabeled"),
    ]
    assert {i: c if isinstance(c, bytes) else c.name for i, c in contents(crawl.samples)} == {
        0: b"x",
        1: "a.jpg",
        3: b"y",
    }


def test_bare_bytes_and_several_images(tmp_path):
    file = parquet(
        tmp_path / "t.parquet", "SELECT 'x'::BLOB AS jpg, 'h'::BLOB AS hash, r AS label FROM range(2) AS t(r)"
    )
    assert [(i, c) for i, c in contents(read(file).samples)] == [(0, b"x"), (1, b"x")]
    struct = "{'bytes': 'x'::BLOB, 'path': 'p'}"
    file = parquet(
        tmp_path / "u.parquet", f"SELECT {struct} AS image, {struct} AS mask, r AS label FROM range(2) AS t(r)"
    )
    assert read(file).samples[1].row == 1
    assert read(file, path_column="image").samples[1].row == 1
    with pytest.raises(UsageError, match=r"Only image is read.*COPY \(SELECT mask,"):
        read(file, path_column="mask")


@pytest.mark.parametrize(
    ("asked", "copied"), [(None, "left_eye"), ("left_eye", "left_eye"), ("right_eye", "right_eye")]
)
def test_of_several_images_none_is_guessed_and_no_option_is_promised(tmp_path, asked, copied):
    struct = "{'bytes': 'x'::BLOB, 'path': 'p'}"
    select = f"SELECT {struct} AS left_eye, {struct} AS right_eye, r AS label FROM range(2) AS t(r)"
    words = rf"several images in a row: left_eye, right_eye\. .*COPY \(SELECT {copied}, "
    with pytest.raises(UsageError, match=words) as told:
        read(parquet(tmp_path / "t.parquet", select), path_column=asked)
    assert "--path-column" not in str(told.value)


@pytest.mark.skipif(not CIFAR.is_dir(), reason="CIFAR-100 is not beside the repository")
def test_cifar():
    crawl = read(CIFAR / "test-00000-of-00001.parquet")
    assert len(crawl.samples) == 10_000
    assert len({s.given_label for s in crawl.samples}) == 100
    stream = contents(crawl.samples)
    index, content = next(stream)
    stream.close()
    assert content[:4] == b"RIFF"
    assert content == read_bytes(crawl.samples[index].file, crawl.samples[index].row)


# --- the shelf ------------------------------------------------------------------------------------------------------


def test_readers_are_modules_of_one_shape():
    from importlib import import_module

    for module in READERS.values():
        assert callable(import_module(module).sniff)
        assert callable(import_module(module).read)


def test_a_folder_crawl_loads_neither_torch_nor_pandas_nor_duckdb_until_needed():
    code = "import sys, cleanweb.readers, cleanweb.images, cleanweb.duplicates; print([m for m in sys.modules])"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True).replace("'", '"'))
    assert not {"torch", "pandas", "duckdb", "pyarrow"} & set(loaded)


def test_contents_of_many_shards_are_looked_for_in_few_bytes_an_image(monkeypatch):
    def nothing(file: str, rows: object):
        yield from ()

    n, in_a_shard = 100_000, 1_000
    samples = Samples(Sample(f"{i}", f"{i}", f"/{i // in_a_shard}.parquet", i % in_a_shard, "cat") for i in range(n))
    monkeypatch.setattr(opening, "embedded_images", nothing)
    tracemalloc.start()
    found = sum(1 for _ in contents(samples))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == n
    assert most / n < 20

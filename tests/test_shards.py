"""Tar shards and what img2dataset wrote: every image is found, hostile and damaged ones are rows with a reason.

data/shards.zip was written by webdataset 0.2.111 and img2dataset 1.47.0: nine coloured squares of three classes, and
three addresses that gave no image.
"""

import io
import random
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cleanweb
from cleanweb import exporting, inspection, manifest, opening, readers, shards, tarmembers
from cleanweb.errors import CrawlError, UsageError
from cleanweb.records import Status, silent
from tests.test_cli import cleanweb as command

SQUARES = [("red", "green", "blue")[i % 3] for i in range(9)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    with zipfile.ZipFile(Path(__file__).parent / "data" / "shards.zip") as packed:
        packed.extractall(folder)
    return folder


def tar(file: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=format) as stream:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content) if info.isreg() else 0
            stream.addfile(info, io.BytesIO(content))
    return file


def labelled(*keys: str) -> list[tuple[str, bytes]]:
    """Every key with an image and a class, of which there are two."""
    return [part for i, key in enumerate(keys)
            for part in ((f"{key}.jpg", key.encode()), (f"{key}.cls", (b"cat", b"dog")[i % 2]))]  # fmt: skip


def rows(crawl: readers.Crawl) -> dict[str, tuple[str, str | None]]:
    return {s.sample_id: (s.status.value, s.given_label) for s in crawl.samples}


def pictures(crawl: readers.Crawl) -> dict[str, bytes]:
    """What can be opened, by sample, in both of the ways."""
    streamed = {crawl.samples[i].sample_id: c.read_bytes() if isinstance(c, Path) else c
                for i, c in opening.contents(crawl.samples)}  # fmt: skip
    for sample in crawl.samples:
        if isinstance(found := streamed.get(sample.sample_id), bytes):
            assert opening.read_bytes(sample.file, sample.row) == found
    return streamed


# --- what the tools themselves wrote --------------------------------------------------------------------------------


def test_shards_that_webdataset_wrote(written: Path) -> None:
    crawl = readers.read(written / "wds")
    assert [s.given_label for s in crawl.samples] == SQUARES  # numbers, named by classnames.txt
    found = pictures(crawl)
    assert list(found.values()) == [(written / "web" / f"{i}.jpg").read_bytes() for i in range(9)]
    assert crawl.root == written / "wds"
    assert "the labels are the .cls of 2 shards" in crawl.notes
    by_field = readers.read(written / "wds", label_column="label")
    assert rows(by_field) == rows(crawl)


@pytest.mark.parametrize("format", ["webdataset", "files", "parquet", "untouched"])
def test_what_img2dataset_wrote(written: Path, format: str) -> None:
    crawl = readers.read(written / format)
    addresses = (written / "urls.csv").read_text().splitlines()[1:]
    assert Counter((s.url, s.given_label) for s in crawl.samples) == Counter(
        tuple(line.split(",")[:2]) for line in addresses
    )
    failed = {Path(s.url).name: s.note for s in crawl.samples if s.status == Status.NOT_DOWNLOADED}
    assert failed == {
        "gone.jpg": "failed to download: HTTP Error 404: File not found",
        "html.jpg": "failed to resize: Image decoding error",
        "refused.jpg": "failed to download: <urlopen error [Errno 111] Connection refused>",
    }
    assert "3 images could not be downloaded" in crawl.notes
    whole = [s for s in crawl.samples if s.status == Status.OK]
    assert len(whole) == len(pictures(crawl)) == 9
    assert all(len(s.sha256) == 64 for s in whole)


@pytest.mark.parametrize("format", ["webdataset", "files"])
def test_two_files_of_one_name_are_two_rows(written: Path, tmp_path: Path, format: str) -> None:
    crawl = shutil.copytree(written / format, tmp_path / "crawl")
    before = readers.read(crawl)
    first = next(s for s in before.samples if s.status == Status.OK)
    again = Path(first.path).with_suffix(".png")
    if format == "files":
        (crawl / again).write_bytes(b"another")
    else:
        with tarfile.open(first.file, "a") as stream:
            info = tarfile.TarInfo(again.name)
            info.size = len(b"another")
            stream.addfile(info, io.BytesIO(b"another"))
    after = readers.read(crawl)
    assert rows(after) == rows(before) | {again.as_posix(): ("unlisted", None)}
    assert pictures(after) == pictures(before) | {again.as_posix(): b"another"}


def test_labels_by_key_and_by_address(written: Path) -> None:
    addresses = (written / "urls.csv").read_text().splitlines()[1:]
    (written / "urls-only.csv").write_text("url,label\n" + "".join(
        f"{line.split(',')[0]},{'xy'[i % 2]}\n" for i, line in enumerate(addresses)))  # fmt: skip
    crawl = readers.read(written / "webdataset", written / "urls-only.csv")
    assert len(crawl.samples) == 12
    assert {s.given_label for s in crawl.samples} == {"x", "y"}
    assert sum(s.status == Status.NOT_DOWNLOADED for s in crawl.samples) == 3
    (written / "keys.csv").write_text("key,label\n0000,x\n0001,y\n0001,y\n0002,x\n0002,y\n9999,x\n0003,\n")
    crawl = readers.read(written / "wds", written / "keys.csv")
    named = "wds-000000.tar/{}.jpg".format
    assert rows(crawl) == {
        named("0000"): ("ok", "x"),
        named("0001"): ("ok", "y"),
        named("0002"): ("ok", "x"),
        named("0003"): ("unlabeled", None),
        **{f"wds-{i // 5:06d}.tar/{i:04d}.jpg": ("unlisted", None) for i in range(4, 9)},
        named("0001") + "#2": ("repeated", "y"),
        named("0002") + "#2": ("conflicting", "y"),
        "9999": ("missing", "x"),
    }


def test_an_empty_label_takes_no_label_away_and_hides_no_image(tmp_path: Path) -> None:
    crawl, table = tar(tmp_path / "s.tar", labelled("0", "1", "2")), tmp_path / "labels.csv"
    table.write_text("key,label\n0,cat\n0,\n1,\n1,dog\n2,\n2,\n")
    found = readers.read(crawl, table)
    assert rows(found) == {
        "s.tar/0.jpg": ("ok", "cat"),
        "s.tar/1.jpg": ("ok", "dog"),
        "s.tar/2.jpg": ("unlabeled", None),
        "s.tar/0.jpg#2": ("repeated", None),
        "s.tar/2.jpg#2": ("repeated", None),
    }
    assert pictures(found) == {f"s.tar/{key}.jpg": key.encode() for key in "012"}


@pytest.mark.parametrize("spelling", ["{}", "./{}", "{}.jpg", "./{}.jpg", "s.tar/{}.jpg", "./s.tar/{}"])
def test_a_table_names_images_of_shards_as_it_names_files(tmp_path: Path, spelling: str) -> None:
    crawl, table = tar(tmp_path / "s.tar", labelled("0", "1")), tmp_path / "labels.csv"
    table.write_text(f"key,label\n{spelling.format('0')},x\n{spelling.format('1')},y\n")
    assert rows(readers.read(crawl, table)) == {"s.tar/0.jpg": ("ok", "x"), "s.tar/1.jpg": ("ok", "y")}


def test_a_key_that_several_shards_have_is_not_guessed(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        tar(tmp_path / "crawl" / name, labelled("1", "2"))
    table = tmp_path / "labels.csv"
    table.write_text("key,label\n1,x\n2,y\n")
    with pytest.raises(UsageError, match=r"'1', which is a key in several shards. Write shard.tar/1"):
        readers.read(tmp_path / "crawl", table)
    table.write_text("key,label\na.tar/1,x\nb.tar/2.jpg,y\na.tar/2.jpg,x\nb.tar/1,y\n")
    assert {s.given_label for s in readers.read(tmp_path / "crawl", table).samples} == {"x", "y"}


# --- which shards, which labels -------------------------------------------------------------------------------------


def test_patterns_folders_and_single_shards(tmp_path: Path) -> None:
    for i in range(4):
        tar(tmp_path / "crawl" / f"s-{i:02d}.tar", labelled(f"{i}a", f"{i}b"))
    (tmp_path / "crawl" / "README.md").write_text("what this is")
    whole = readers.read(tmp_path / "crawl")
    assert len(whole.samples) == 8
    assert rows(readers.read(tmp_path / "crawl" / "s-{00..03}.tar")) == rows(whole)
    assert rows(readers.read(tmp_path / "crawl" / "s-*.tar")) == rows(whole)
    assert rows(readers.read(tmp_path / "{crawl,none}" / "s-0[0-3].tar")) == {
        f"crawl/{key}": value for key, value in rows(whole).items()
    }
    assert len(readers.read(tmp_path / "crawl" / "s-02.tar").samples) == 2
    some = readers.read(tmp_path / "crawl" / "s-{03..04}.tar")
    assert [(s.path, s.status) for s in some.samples][-1] == ("s-04.tar", Status.MISSING)
    with pytest.raises(CrawlError, match="Nothing found"):
        readers.read(tmp_path / "crawl" / "t-{00..03}.tar")
    with pytest.raises(UsageError, match="at most 1,000,000"):
        readers.read(tmp_path / "crawl" / "s-{0..99999999}.tar")
    (tmp_path / "crawl" / "photo.jpg").write_bytes(b"x")  # then it is a folder of images, beside which tars lie
    with pytest.raises(CrawlError, match="sub-folders"):
        readers.read(tmp_path / "crawl")


@pytest.mark.parametrize(
    ("parts", "label_column", "found"),
    [
        ({"cls": b"3", "txt": b"a cat", "json": b'{"label": "x"}'}, None, "3"),
        ({"cls": b"3", "txt": b"a cat", "json": b'{"label": "x"}'}, "txt", "a cat"),
        ({"cls": b"3", "json": b'{"label": "x", "species": 7}'}, "species", "7"),
        ({"json": b'{"label": "x", "url": "u"}', "txt": b"a cat"}, None, "x"),
        ({"txt": b" cat \n"}, None, "cat"),
        ({"txt": b"caf\xe9"}, None, "caf\\xe9"),
        ({"cls": b""}, None, None),
        ({"cls": b"x" * 2000}, None, None),
        ({"json": b'{"label": ["x"]}'}, None, None),
        ({"json": b'{"label": '}, None, None),
        ({"json": b"[" * 5000}, None, None),
        ({"json": b"[1]"}, None, None),
        ({}, None, None),
    ],
)
def test_what_the_label_is(
    tmp_path: Path, parts: dict[str, bytes], label_column: str | None, found: str | None
) -> None:
    last = [("0.jpg", b"picture"), *((f"0.{ending}", content) for ending, content in parts.items())]
    others = [(f"{i}.{ending}", b'{"label": "o%d", "species": "o%d"}' % (i, i) if ending == "json" else b"o%d" % i)
              for i in (1, 2) for ending in {"jpg": 0, **parts}]  # fmt: skip
    if not parts:
        others += [("1.cls", b"o1"), ("2.cls", b"o2")]
    crawl = readers.read(tar(tmp_path / "s.tar", others + last), label_column=label_column)
    [sample] = [s for s in crawl.samples if s.path == "s.tar/0.jpg"]
    assert sample.given_label == found
    assert (sample.status == Status.OK) == (found is not None)
    assert bool(sample.note) == (found is None)


@pytest.mark.parametrize("without", [[], [0], [0, 1, 2], [3, 5]])
def test_a_json_without_the_label_does_not_hide_those_of_the_others(tmp_path: Path, without: list[int]) -> None:
    said = [b'{"width": 9}' if i in without else b'{"label": "%s"}' % (b"cat", b"dog")[i % 2] for i in range(6)]
    shard = [(f"{i}.{ending}", content) for i in range(6)
             for ending, content in (("jpg", b"%d" % i), ("txt", b"photo %d" % i), ("json", said[i]))]  # fmt: skip
    crawl = readers.read(tar(tmp_path / "s.tar", shard))
    assert [s.given_label for s in crawl.samples] == [None if i in without else ("cat", "dog")[i % 2] for i in range(6)]
    assert "the labels are the field 'label' of the .json of 1 shard" in crawl.notes


def test_a_label_that_no_json_says_is_not_looked_for_to_the_end(tmp_path: Path) -> None:
    n = shards.MOST_ASKED
    shard = [(f"{i}.{ending}", content) for i in range(n + 2)
             for ending, content in (("jpg", b"%d" % i), ("txt", (b"cat", b"dog")[i % 2]),
                                     ("json", b'{"label": "x"}' if i == n + 1 else b'{"width": 9}'))]  # fmt: skip
    assert {s.given_label for s in readers.read(tar(tmp_path / "s.tar", shard)).samples} == {"cat", "dog"}


def test_numbers_of_classes_are_named(tmp_path: Path) -> None:
    shard = [(f"{i}.{e}", content) for i, label in enumerate((b"0", b"1", b"2", b"-1", b"x"))
             for e, content in (("jpg", b"p%d" % i), ("cls", label))]  # fmt: skip
    tar(tmp_path / "s.tar", shard)
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    assert [s.given_label for s in readers.read(tmp_path).samples] == ["cat", "dog", None, None, "x"]
    (tmp_path / "classes.json").write_text('["cat", "dog"')
    with pytest.raises(CrawlError, match="list of the classes"):
        readers.read(tmp_path)


@pytest.mark.parametrize(("name", "text"), [("classes.txt", "cat\ndog\n"), ("classes.json", '["cat", "dog"]')])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_mark_before_the_list_of_classes_belongs_to_no_name(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    tar(tmp_path / "s.tar", [("0.jpg", b"0"), ("0.cls", b"0"), ("1.jpg", b"1"), ("1.cls", b"1")])
    (tmp_path / name).write_text(text, encoding)
    assert [s.given_label for s in readers.read(tmp_path).samples] == ["cat", "dog"]


def test_names_with_several_dots(tmp_path: Path) -> None:
    """WebDataset cuts names at the first dot; photos are called 2021.05.17.jpg all the same."""
    members = [
        *labelled("x/2021.05.17", "x/2021.05.18"), ("7.jpg", b"7"), ("7.mask.png", b"m"), ("7.cls", b"cat"),
        ("8.left.jpg", b"l"), ("8.right.jpg", b"r"), ("8.cls", b"dog"),
    ]  # fmt: skip
    assert rows(readers.read(tar(tmp_path / "s.tar", members))) == {
        "s.tar/x/2021.05.17.jpg": ("ok", "cat"),
        "s.tar/x/2021.05.18.jpg": ("ok", "dog"),
        "s.tar/7.jpg": ("ok", "cat"),
        "s.tar/7.mask.png": ("unlabeled", "cat"),
        "s.tar/8.left.jpg": ("ok", "dog"),
        "s.tar/8.right.jpg": ("ok", "dog"),
    }


# --- hostile ones ---------------------------------------------------------------------------------------------------


def member(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def test_members_that_are_no_files_or_lead_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    hostile = [
        member("l.jpg", tarfile.SYMTYPE, str(secret)), member("h.jpg", tarfile.LNKTYPE, "../secret.jpg"),
        member("c.jpg", tarfile.CHRTYPE), member("b.jpg", tarfile.BLKTYPE), member("f.jpg", tarfile.FIFOTYPE),
        member("d.jpg", tarfile.DIRTYPE), ("../../up.jpg", b"up"), ("/abs.jpg", b"abs"), ("a/../../x.jpg", b"x"),
        ("same.jpg", b"first"), ("same.jpg", b"second"), ("alone.cls", b"cat"), ("._0.jpg", b"mac"), ("noending", b"n"),
        (".jpg", b"hidden"), ("a\nb\x1b[2J.jpg", b"steers")]  # fmt: skip
    file = tar(tmp_path / "crawl" / "s.tar", [*labelled("0", "1", "2"), *hostile, ("same.cls", b"cat")])
    crawl = readers.read(file)
    found = rows(crawl)
    assert {name: found[f"s.tar/{name}"][0] for name in ("l.jpg", "h.jpg", "c.jpg", "b.jpg", "f.jpg")} == dict.fromkeys(
        ("l.jpg", "h.jpg", "c.jpg", "b.jpg", "f.jpg"), "missing"
    )
    assert {path for path, (status, _) in found.items() if status == "outside"} == {
        "s.tar/../../up.jpg", "s.tar//abs.jpg", "s.tar/a/../../x.jpg"}  # fmt: skip
    assert found["s.tar/same.jpg#2"] == ("repeated", "cat")
    assert found["s.tar/alone"] == ("missing", "cat")
    opened = pictures(crawl)
    assert opened["s.tar/same.jpg"] == b"first"
    assert b"secret" not in opened.values()
    assert not {b"up", b"abs", b"x", b"second", b"mac", b"hidden"} & set(opened.values())
    assert all(s.note for s in crawl.samples if s.status != Status.OK)
    assert {b"up", b"abs", b"x"} <= set(pictures(readers.read(file, allow_outside=True)).values())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "t.tar").symlink_to(file)
    with pytest.raises(CrawlError, match="--allow-outside"):
        readers.read(tmp_path / "other")


def resized(whole: bytes, name: str, size: bytes) -> bytes:
    """The tar with another size in a member's header, and its check sum right."""
    at = whole.index(name.encode() + b"\0")
    header = bytearray(whole[at : at + 512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return whole[:at] + header + whole[at + 512 :]


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80\0\0\0\x7f" + b"\xff" * 7]
)
def test_sizes_that_cannot_be(tmp_path: Path, size: bytes) -> None:
    file = tar(tmp_path / "s.tar", labelled("0", "1", "2", "3"), tarfile.USTAR_FORMAT)
    file.write_bytes(resized(file.read_bytes(), "3.jpg", size))
    crawl = readers.read(file)
    assert [rows(crawl)[f"s.tar/{i}.jpg"] for i in range(3)] == [("ok", "cat"), ("ok", "dog"), ("ok", "cat")]
    assert [s.status for s in crawl.samples[3:]] in ([Status.TRUNCATED], [Status.ERROR])
    assert len(pictures(crawl)) == 3


def test_pax_headers_that_lie(tmp_path: Path) -> None:
    long, odd = tarfile.TarInfo("x" * 300 + "/é.jpg"), tarfile.TarInfo("odd.jpg")
    odd.pax_headers = {"size": "1" + "0" * 14, "comment": "c" * 1000}
    small = tarfile.TarInfo("small.jpg")
    small.pax_headers = {"size": "3"}
    file = tar(tmp_path / "s.tar", [*labelled("0", "1"), (long, b"long"), (small, b"longer than it says")])
    found = rows(readers.read(file))
    assert found[f"s.tar/{'x' * 300}/é.jpg"] == ("unlabeled", None)
    assert found["s.tar/small.jpg"] == ("missing", None)
    file = tar(tmp_path / "s.tar", [*labelled("0", "1"), (odd, b"odd")])
    assert rows(readers.read(file))["s.tar/odd.jpg"] == ("missing", None)
    for size in (2 << 20, 50):
        broken = tarfile.TarInfo("pax")
        broken.type = tarfile.XHDTYPE
        broken.size = size
        with file.open("wb") as stream:
            stream.write(tar(tmp_path / "t.tar", labelled("0", "1")).read_bytes()[:4096])
            stream.write(broken.tobuf(tarfile.USTAR_FORMAT) + b"9999999999 path=x\n" * 20)
        crawl = readers.read(file)
        assert crawl.samples[-1].status == Status.ERROR
        assert "header" in crawl.samples[-1].note


def test_a_cut_shard_gives_what_came_before_the_cut(tmp_path: Path) -> None:
    file = tar(tmp_path / "s.tar", labelled(*"01234567"), tarfile.USTAR_FORMAT)
    whole = file.read_bytes()
    complete = rows(readers.read(file))
    for at in random.Random(0).sample(range(4096, 8 * 2048 + 100), 60):
        file.write_bytes(whole[:at])
        crawl = readers.read(file)
        found = rows(crawl)
        for path, row in complete.items():
            begins = int(path[6]) * 2048
            assert (found.get(path) == row) == (at >= begins + 2048 - 509), (at, path)  # its label is 3 bytes long
        assert crawl.samples[-1].status in (Status.ERROR, Status.OK)
        assert (crawl.samples[-1].status == Status.ERROR) == (at < 8 * 2048 + 512) or at % 512
        pictures(crawl)


def test_no_tar_at_all_is_told(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", labelled("0", "1"))
    for name, content in (("b", b""), ("c", b"<html>" * 1000), ("d", bytes(1024)), ("e", b"x" * 100)):
        (tmp_path / f"{name}.tar").write_bytes(content)
    crawl = readers.read(tmp_path)
    assert {s.path: s.status for s in crawl.samples if s.status != Status.OK} == dict.fromkeys(
        ("b.tar", "c.tar", "e.tar"), Status.ERROR
    )
    assert "3 shards cannot be read, or not to their ends" in crawl.notes
    with pytest.raises(CrawlError):
        readers.read(tmp_path / "c.tar")


def test_a_shard_that_is_another_by_now(tmp_path: Path) -> None:
    file = tar(tmp_path / "s.tar", labelled("0", "1"))
    crawl = readers.read(file)
    file.write_bytes(b"x" * 5000)
    assert all(content.status == Status.ERROR for _, content in opening.contents(crawl.samples))
    with pytest.raises(CrawlError, match="not what it was"):
        opening.read_bytes(str(file), crawl.samples[0].row)
    file.unlink()
    assert len(list(opening.contents(crawl.samples))) == 2


NAMES = st.text("abé./-_0\u202e", min_size=1, max_size=30) | st.text("ab/", min_size=90, max_size=300)


@settings(max_examples=150, deadline=None)
@given(
    files=st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=8),
    format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_python_finds(tmp_path_factory, files: list[tuple[str, bytes]], format: int) -> None:
    file = tmp_path_factory.mktemp("tars") / "s.tar"
    try:
        tar(file, files, format)
    except ValueError:  # ustar has no place for the name
        return
    with tarfile.open(file) as reference, file.open("rb") as stream:
        expected = [(m.name.rstrip("/"), reference.extractfile(m).read()) for m in reference if m.isreg()]
        found = [m for m in tarmembers.members(stream, file.stat().st_size) if not m.kind]
        assert [(m.name.rstrip("/"), tarmembers.read(stream, m.place)) for m in found] == expected


# --- the whole way --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny crawl as two shards in the order of its rows, and a run on them."""
    folder = tmp_path_factory.mktemp("sharded")
    images = manifest.read(run, "images")
    parts = [[], []]
    for i, row in enumerate(images.itertuples()):
        name = row.path.rsplit(".", 1)
        parts[i >= 25] += [(row.path, Path(row.file).read_bytes()), (f"{name[0]}.cls", row.given_label.encode())]
    for i, members in enumerate(parts):
        tar(folder / "crawl" / f"s-{i:06d}.tar", members)
    (folder / "crawl" / "s-000002.tar").write_bytes(b"<html>")
    cleanweb.fit(folder / "crawl", out=folder / "run", backbone="cnn5", epochs=3, workers=0, device="cpu")
    return folder / "crawl", folder / "run"


def test_shards_give_the_verdicts_of_a_folder(run: Path, sharded: tuple[Path, Path]) -> None:
    same = ["status", "given_label", "verdict", "final_label", "p_clean", "sha256", "duplicate_kind"]
    ours, theirs = (manifest.read(folder, "images") for folder in (sharded[1], run))
    assert ours[same].iloc[:-1].equals(theirs[same])
    assert ours["path"].str.replace(r"^s-00000\d.tar/", "", regex=True).tolist()[:-1] == theirs["path"].tolist()
    last = ours.iloc[-1]
    assert (last["path"], last["status"], last["verdict"]) == ("s-000002.tar", "error", "unusable")
    assert "is no tar file" in last["error"]


@pytest.mark.parametrize("format", ["imagefolder", "webdataset", "huggingface", "csv", "coco"])
def test_exports_from_shards(sharded: tuple[Path, Path], tmp_path: Path, format: str) -> None:
    done = exporting.export(sharded[1], format, tmp_path / "out")
    assert done.written == done.selected > 30
    assert not done.left_out


def test_every_command_works_on_a_run_of_shards(sharded: tuple[Path, Path], tmp_path: Path) -> None:
    crawl, run = sharded
    for words in (["report", "--out", tmp_path / "r.html"], ["retag"], ["audit", "--sheet", tmp_path / "audit.csv"],
                  ["export", "--out", tmp_path / "clean.csv"], ["predict", crawl / "s-000000.tar"],
                  ["sql", "SELECT count(row_in_file) FROM images"]):  # fmt: skip
        code, out, err = command(*words, "--run", run)
        assert code == 0, err
        assert out
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("data:image/jpeg") > 10
    again = readers.read(crawl, tmp_path / "clean.csv")
    exported = (tmp_path / "clean.csv").read_text().count("\n") - 1
    assert sum(s.status == Status.OK for s in again.samples) == exported


def test_pictures_for_review_are_found(sharded: tuple[Path, Path]) -> None:
    from cleanweb.review.pictures import Pictures

    row = manifest.read(sharded[1], "images").iloc[3]
    pictures = Pictures()
    tag = pictures.tag(row.file, int(row.row_in_file), row.status, None, "small")
    assert pictures.jpeg(tag, row.file, int(row.row_in_file), "small").startswith(b"\xff\xd8")


def test_what_was_exported_is_a_crawl_again(run: Path, tmp_path: Path) -> None:
    exporting.export(run, "webdataset", tmp_path / "out", only=("clean", "relabeled"))
    crawl = readers.read(tmp_path / "out")
    images = manifest.select(run, ["clean", "relabeled"])
    expected = Counter(
        (Path(file).read_bytes(), label) for file, label in zip(images["file"], images["final_label"], strict=True)
    )
    found = pictures(crawl)
    assert Counter((found[s.sample_id], s.given_label) for s in crawl.samples) == expected
    assert {s.status for s in crawl.samples} == {Status.OK}


def test_images_that_are_not_what_was_downloaded_are_noted(written: Path, tmp_path: Path) -> None:
    """But not where all are, since the crawler has resized them."""
    for format, told in (("webdataset", {}), ("untouched", {0})):
        samples = list(readers.read(written / format).samples)
        samples[0] = replace(samples[0], sha256="0" * 64) if told else samples[0]
        facts, _ = inspection.inspect(samples, tmp_path / format, 24, 0, silent)
        assert inspection.not_as_downloaded(samples, facts).keys() == set(told)


def test_the_columns_are_in_the_manifest(written: Path, tmp_path: Path) -> None:
    cleanweb.fit(written / "untouched", out=tmp_path / "run", backbone="cnn5", epochs=1, workers=0, device="cpu")
    images = manifest.read(tmp_path / "run", "images")
    assert images["url"].str.startswith("http://127.0.0.1:").all()
    fetched = images[images["status"] == "ok"]
    assert len(fetched) == 9
    assert fetched["downloaded_sha256"].tolist() == fetched["sha256"].tolist()
    reasons = images.loc[images["status"] == "not_downloaded", "error"]
    assert reasons.str.startswith("failed to ").all()

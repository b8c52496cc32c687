"""Every writer: round trip, whole or absent, never overwrites. The image folder: safe names that never collide."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb import atomic, drafts, exporting, labeltree, safenames, spreadsheet, writers
from cleanweb.errors import MachineError, UsageError
from cleanweb.settings import FORMATS, LINKS

AWKWARD = [
    "../../x", "/etc", "..", ".", "", " ", "CON", "con.txt", "nul", "COM1", "LPT¹", "a/b", "a\\b", "a_b", "a:b",
    "trailing.", "trailing", "trailing ", "trailing. .", "x" * 300, "x" * 299 + "y", "é" * 300, "\u202egnp.exe",
    "\u200e", "👩\u200d🔬", "😀", "Cat", "cat", "CAT", "straße", "strasse", "e\u0301", "é", "_ood", "_unusable",
    "__ood", "_OOD", "labels.csv", "Labels.CSV", ".hidden", "__pycache__", "~", "-rf", "$(rm)", "a\nb", "a\0b",
    "tab\t", "*?", "a b", "🇩🇪", "日本", "\U0010ffff", "NULL", "nan", "=1+1", 'q"uote', "com,ma",
]  # fmt: skip


def sample(path: str, label: str | None = "cat", **other) -> dict:
    """A row of the manifest's images, clean unless said otherwise."""
    row = {"sample_id": path, "path": path, "format": "JPEG", "width": 4, "height": 3, "given_label": label}
    row |= {"verdict": "clean", "final_label": label, "confidence": 0.1, "file": "/gone", "row_in_file": None}
    return row | other


def frame(*samples: dict) -> pd.DataFrame:
    """As the manifest gives them: DuckDB turns integers with gaps into floats."""
    rows = pd.DataFrame(samples, columns=list(sample("")))
    return writers.labelled(rows.astype({"confidence": "float32", "row_in_file": "float64"}))


def write(name: str, rows: pd.DataFrame, out: Path, link: str = "copy") -> writers.Written:
    """The rows as they are exported; split where the format needs it, every third image into val."""
    splits = ()
    if hasattr(writers.load(name), "SPLIT"):
        splits = ("train", "val")
        rows = rows.assign(split=[splits[i % 3 == 2] for i in range(len(rows))])
    return writers.write(name, writers.Export(rows, out, link, exporting.contents, splits=splits))


every_writer = pytest.mark.parametrize("name", writers.WRITERS)
TABLES = writers.TABLES
IMAGES = [name for name in writers.WRITERS if name not in TABLES]


def test_the_command_line_offers_every_writer():
    assert tuple(writers.WRITERS) == FORMATS


@pytest.fixture
def crawl(tmp_path) -> pd.DataFrame:
    """Five samples, three of them with files: two of the same name, and one of no class."""
    for name in ("a/1.jpg", "b/1.JPG", "b/2.jpg"):
        (tmp_path / "crawl" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "crawl" / name).write_bytes(name.encode())
    at = (tmp_path / "crawl").as_posix()
    return frame(
        sample("a/1.jpg", file=f"{at}/a/1.jpg"),
        sample("b/1.JPG", "dog", verdict="relabeled", final_label="cat", file=f"{at}/b/1.JPG"),
        sample("b/2.jpg", "dog", verdict="ood", final_label=None, file=f"{at}/b/2.jpg", confidence=None),
        sample("b/3.jpg", "dog", verdict="unusable", final_label=None, file=f"{at}/b/3.jpg"),
        sample('c/"4", four.jpg', "=dog", file=f"{at}/c"),
    )


def everything(folder: Path) -> dict[str, bytes | None]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


# -------------------------------------------------------------------------------------------------- every writer


def written_table(out: Path) -> pd.DataFrame:
    """The table of labels in an export, whatever its kind."""
    if out.suffix == ".parquet":
        return duckdb.read_parquet(str(out)).df()
    if out.suffix == ".jsonl":
        return pd.DataFrame(map(json.loads, out.read_text(encoding="utf-8").splitlines()), columns=COLUMNS)
    return pd.read_csv(out / "labels.csv" if out.is_dir() else out, keep_default_na=False, na_values={"confidence": ""})


COLUMNS = [name for name in writers.COLUMNS if name != "split"]


@pytest.mark.parametrize("name", [*TABLES, "imagefolder"])
def test_round_trip(name, crawl, tmp_path):
    out = tmp_path / "deep" / f"out put's{writers.load(name).SUFFIX}"
    n = write(name, crawl, out).images
    table = written_table(out)
    assert list(table.columns) == COLUMNS
    assert n == len(table) == (3 if name == "imagefolder" else 5)
    expected = crawl[:n]
    assert table.sample_id.tolist() == expected.sample_id.tolist()
    assert (
        table.label.map(spreadsheet.unguard, na_action="ignore").fillna("").tolist()
        == expected.label.fillna("").tolist()
    )
    assert table.file.tolist() == expected.file.tolist()
    assert table.confidence.isna().tolist() == expected.confidence.isna().tolist()
    assert table.confidence[0] == pytest.approx(0.1)
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@every_writer
def test_an_export_of_nothing(name, crawl, tmp_path):
    out = tmp_path / f"out{writers.load(name).SUFFIX}"
    assert write(name, crawl[:0], out) == (0, {})
    assert out.exists()


@every_writer
@pytest.mark.parametrize("link", LINKS)
def test_what_is_missing_is_counted(name, link, crawl, tmp_path):
    written, left_out = write(name, crawl, tmp_path / "out", link)
    if name in TABLES:
        assert (written, left_out) == (5, {})
    elif writers.load(name).LABELLED:
        assert (written, left_out) == (2, {"of no class": 2, "missing or unreadable": 1})
    else:
        assert (written, left_out) == (3, {"missing or unreadable": 2})


@pytest.mark.parametrize("name", IMAGES)
def test_images_embedded_in_parquet_are_handed_over(name, tmp_path):
    """A row that embeds nothing, one that is not there, a file that is gone and one that is no Parquet are left out."""
    pictures = [b"\x89PNG %d" % i for i in range(5)]
    shard, broken = tmp_path / "train.parquet", tmp_path / "broken.parquet"
    con = duckdb.connect()
    con.register("t", pd.DataFrame({"b": [*pictures, None]}))
    con.execute(f"COPY (SELECT {{'bytes': b::BLOB, 'path': 'x'}} AS image FROM t) TO '{shard}' (FORMAT parquet)")
    broken.write_bytes(shard.read_bytes()[:40])
    own = tmp_path / "own.png"
    own.write_bytes(b"\x89PNG own")
    places = [(shard, 3), (own, None), (shard, 5), (shard, 1), (shard, 99), (broken, 0), (tmp_path / "gone.parquet", 0)]
    rows = frame(*(sample(f"train.parquet/{n}", format="PNG", file=str(file), row_in_file=row)
                   for n, (file, row) in enumerate(places)))  # fmt: skip
    written, left_out = write(name, rows, tmp_path / "out")
    assert (written, left_out) == (3, {"missing or unreadable": 4})
    found = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert pictures[3] in found
    assert pictures[1] in found
    assert pictures[0] not in found
    assert (b"\x89PNG own" in found) or name in ("coco", "fiftyone", "labelstudio")


@pytest.mark.parametrize("name", IMAGES)
def test_awkward_names_stay_inside_and_never_meet(name, tmp_path):
    """Whatever labels and files are called, all images are there and nothing lies outside the export."""
    (tmp_path / "crawl").mkdir()
    images = []
    for n, text in enumerate(AWKWARD):
        file = tmp_path / "crawl" / f"{n}.jpg"
        file.write_bytes(b"image %d." % n)
        images.append(sample(f"{n}/{text}", text, file=str(file)))
        images.append(sample(text.replace("/", "//") + ".jpg", text, file=str(file)))
    out = tmp_path / "out"
    assert write(name, frame(*images), out) == (len(images), {})
    assert {p.name for p in tmp_path.iterdir()} == {"crawl", "out"}
    assert len(everything(tmp_path / "crawl")) == len(AWKWARD)
    for path in out.rglob("*"):
        assert path.resolve().is_relative_to(out.resolve())
        assert all(folder_is_safe(part.removesuffix(".jpg")) for part in path.relative_to(out).parts), path
    if name in ("imagefolder", "huggingface", "yolo"):
        found = [p.read_bytes() for p in out.rglob("*.jpg")]
        assert sorted(found) == sorted(2 * [b"image %d." % n for n in range(len(AWKWARD))])


@every_writer
def test_a_link_that_somebody_has_planted_is_not_followed(name, crawl, tmp_path, monkeypatch):
    """Someone may write where we write, and know the name of the draft."""
    (tmp_path / "precious").mkdir()
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda n: "known")
    (tmp_path / f".cleanweb-{os.getpid()}-known").symlink_to(tmp_path / "precious", target_is_directory=True)
    with pytest.raises(MachineError, match="Cannot write"):
        write(name, crawl, tmp_path / "out")
    assert not list((tmp_path / "precious").iterdir())
    assert not (tmp_path / "out").exists()


@every_writer
@pytest.mark.parametrize("obstacle", ["file", "folder", "link", "dangling"])
def test_nothing_is_overwritten(name, obstacle, crawl, tmp_path):
    out, precious = tmp_path / "out", tmp_path / "precious"
    precious.mkdir()
    match obstacle:
        case "file":
            out.write_text("precious")
        case "folder":
            out.mkdir()
            (out / "file").write_text("precious")
        case "link":
            out.symlink_to(precious)
        case "dangling":
            out.symlink_to(tmp_path / "nowhere")
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="never overwrites"):
        write(name, crawl, out)
    assert everything(tmp_path) == before


@every_writer
def test_nothing_is_overwritten_that_comes_meanwhile(name, crawl, tmp_path, monkeypatch):
    out = tmp_path / "out"
    move = drafts._move

    def late(unfinished, out):
        out.write_text("precious")
        move(unfinished, out)

    monkeypatch.setattr(drafts, "_move", late)
    with pytest.raises((UsageError, MachineError)):
        write(name, crawl, out)
    assert out.read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"crawl", "out"}


@every_writer
def test_an_interrupted_export_leaves_nothing(name, crawl, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(drafts, "_move", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(name, crawl, tmp_path / "out", "symlink")
    assert {p.name for p in tmp_path.iterdir()} == {"crawl"}
    assert len(everything(tmp_path / "crawl")) == 5


@every_writer
def test_where_nothing_can_be_written(name, crawl, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="Cannot write"):
        write(name, crawl, tmp_path / "file" / "out")


def test_unknown_names_are_explained(crawl, tmp_path):
    with pytest.raises(UsageError, match="unknown export format 'tar'; choose from csv, jsonl, parquet, imagefolder"):
        write("tar", crawl, tmp_path / "out")
    with pytest.raises(UsageError, match="unknown link 'move'; choose from copy, hardlink, symlink"):
        write("csv", crawl, tmp_path / "out", "move")


def test_the_shelf_loads_no_torch_and_no_writer():
    heavy = "{'torch', 'pandas', 'duckdb', 'cleanweb.writers.csv'}"
    look = f"import sys; import cleanweb.writers; print({heavy} & {{*sys.modules}})"
    assert subprocess.check_output([sys.executable, "-c", look]) == b"set()\n"


# ------------------------------------------------------------------------------------------------------------ tables


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=1, max_size=5))
def test_csv_keeps_every_text(labels):
    stream = io.StringIO()
    rows = frame(*(sample(f"{n}", label) for n, label in enumerate(labels)))
    writers.load("csv").write_stream(writers.Export(rows, Path("out")), stream)
    written = [row["label"] for row in csv.DictReader(io.StringIO(stream.getvalue(), newline=""))]
    assert list(map(spreadsheet.unguard, written)) == labels


def test_csv_is_what_it_is(crawl, tmp_path):
    write("csv", crawl[2:], tmp_path / "out.csv")
    at = tmp_path / "crawl"
    assert (tmp_path / "out.csv").read_bytes().decode().split("\n") == [
        "path,label,verdict,given_label,confidence,sample_id,file,row_in_file",
        f"b/2.jpg,,ood,dog,,b/2.jpg,{at}/b/2.jpg,",
        f"b/3.jpg,,unusable,dog,0.1,b/3.jpg,{at}/b/3.jpg,",
        f'"c/""4"", four.jpg",\'=dog,clean,\'=dog,0.1,"c/""4"", four.jpg",{at}/c,',
        "",
    ]


def test_parquet_has_types_where_it_has_no_values(crawl, tmp_path):
    write("parquet", crawl[2:3], tmp_path / "out.parquet")
    types = duckdb.read_parquet(str(tmp_path / "out.parquet")).types
    assert list(map(str, types)) == [*["VARCHAR"] * 4, "FLOAT", "VARCHAR", "VARCHAR", "BIGINT"]


# -------------------------------------------------------------------------------------------------------- image folder


def folder_is_safe(name: str) -> bool:
    return (
        0 < len(name.encode()) <= 100
        and not set(name) & set('<>:"/\\|?*')
        and name.isprintable()
        and not name.startswith((".", "__", " "))
        and not name.endswith((".", " "))
        and name.split(".", maxsplit=1)[0].strip().lower() not in {"con", "nul", "com1", "lpt¹"}
    )


def test_awkward_labels_become_safe_folders_that_never_meet(tmp_path):
    (tmp_path / "x.jpg").touch()
    images = [sample(f"{n}/x.jpg", label, file=str(tmp_path / "x.jpg")) for n, label in enumerate(AWKWARD)]
    images.append(sample("o/x.jpg", verdict="ood", final_label=None, file=str(tmp_path / "x.jpg")))
    out = tmp_path / "out"
    assert write("imagefolder", frame(*images), out).images == len(images)
    folders = [p.name for p in out.iterdir() if p.is_dir()]
    assert all(map(folder_is_safe, folders)), [name for name in folders if not folder_is_safe(name)]
    assert len({name.casefold() for name in folders}) == len(folders) == len(AWKWARD) + 1
    assert {"CAT", "a_b", "trailing", "😀", "日本", "_ood", "a b", "-rf"} <= set(folders)
    with (out / "labels.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [spreadsheet.unguard(row["label"]) for row in table] == [*AWKWARD, ""]
    assert all((out / spreadsheet.unguard(row["path"])).is_file() for row in table)
    assert set(everything(tmp_path)) == {"x.jpg"} | {f"out/{path}" for path in everything(out)} | {"out"}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=150) | st.sampled_from(AWKWARD)


@settings(max_examples=100, deadline=None)
@given(st.sets(TEXT, min_size=1, max_size=30))
def test_labels_never_share_a_folder(labels):
    folders = safenames.folders(labels, labeltree.NO_LABELS)
    assert all(map(folder_is_safe, folders.values()))
    taken = {safenames.key(name) for name in [*folders.values(), "_ood", "_unusable", "labels.csv"]}
    assert len(taken) == len(labels) + 3
    changed = [label for label in labels if safenames.safe(label) != label]
    assert all(folders[label] == safenames.folders({label}, labeltree.NO_LABELS)[label] for label in changed)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT | st.sampled_from(["1.jpg", "1.JPG", "1.jpeg", "É.jpg", "1.php"]), min_size=1, max_size=30))
def test_images_never_share_a_name(names):
    images = [sample(f"{n}/{name.replace('/', '_')}") for n, name in enumerate(names)]
    places = labeltree.places_of(writers.Export(frame(*images), Path("out")).images(), {"cat": "cat"})
    assert len({safenames.key(place) for place in places}) == len(names)
    assert all(Path(place).parent == Path("cat") and len(Path(place).name.encode()) <= 105 for place in places)
    assert all(Path(place).suffix.lower() in safenames.IMAGE_SUFFIXES for place in places)


@pytest.mark.parametrize(
    ("path", "format", "expected"),
    [
        ("a/photo.jpg", "JPEG", "photo.jpg"),
        ("a/photo.JPG", "JPEG", "photo.JPG"),
        ("a/photo.jpg", "GIF", "photo.jpg"),
        ("a/photo.ashx", "JPEG", "photo.jpg"),
        ("a/photo", "PNG", "photo.png"),
        ("a/photo.jpg?w=300", "WEBP", "photo.jpg_w=300.webp"),
        ("a/v1.5 litre", "MPO", "v1.5 litre.jpg"),
        ("a/1.000", "TIFF", "1.000.tif"),
        ("a/.php", "JPEG", "_php.jpg"),
        ("a/.jpg", "JPEG", "_.jpg"),
        ("a/CON.jpg", "JPEG", "_CON.jpg"),
        ("a/page.html", None, "page.html"),
        ("a\\b:c.jpg", "JPEG", "a_b_c.jpg"),
        ("a/" + "x" * 200 + ".jpg", "JPEG", "x" * 99 + ".jpg"),
    ],
)
def test_file_names(path, format, expected):
    image = writers.Export(frame(sample(path, format=format)), Path("out")).images()
    assert labeltree.places_of(image, {"cat": "cat"}) == [f"cat/{expected}"]


def test_the_tree(crawl, tmp_path):
    write("imagefolder", crawl, tmp_path / "out")
    tree = everything(tmp_path / "out")
    assert tree.pop("labels.csv").startswith(b"path,label,")
    (second,) = [name for name in tree if name.startswith("cat/1-")]
    assert second.endswith(".JPG")
    assert tree == {"cat": None, "cat/1.jpg": b"a/1.jpg", second: b"b/1.JPG", "_ood": None, "_ood/2.jpg": b"b/2.jpg"}


def test_links(crawl, tmp_path):
    crawl = crawl[:1]
    source = tmp_path / "crawl" / "a" / "1.jpg"
    write("imagefolder", crawl, tmp_path / "hard", "hardlink")
    assert (tmp_path / "hard" / "cat" / "1.jpg").samefile(source)
    assert not (tmp_path / "hard" / "cat" / "1.jpg").is_symlink()
    write("imagefolder", crawl, tmp_path / "soft", "symlink")
    assert (tmp_path / "soft" / "cat" / "1.jpg").readlink() == source
    (tmp_path / "alias.jpg").symlink_to(source)
    alias = crawl.assign(file=str(tmp_path / "alias.jpg"))
    write("imagefolder", alias, tmp_path / "through", "hardlink")
    assert not (tmp_path / "through" / "cat" / "1.jpg").is_symlink()


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_a_link_that_cannot_be_made_suggests_copying(link, crawl, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(UsageError, match=r"cannot (hard|sym)link .*cross-device link\); use --link copy"):
        write("imagefolder", crawl, tmp_path / "out", link)
    assert {p.name for p in tmp_path.iterdir()} == {"crawl"}


def test_a_file_system_without_hard_links_still_gets_its_table(crawl, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert write("csv", crawl, tmp_path / "out.csv").images == 5
    assert {p.name for p in tmp_path.iterdir()} == {"crawl", "out.csv"}


def test_an_empty_folder_is_used_and_obeys_the_umask(crawl, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "usual").mkdir()
    write("imagefolder", crawl, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_is_no_readable_file_is_left_out(crawl, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    files = [None, str(tmp_path), str(tmp_path / "pipe"), str(tmp_path / "dangling"), "/nowhere", "nul\0", "x" * 5000]
    rows = frame(*(sample(f"{n}.jpg", file=file) for n, file in enumerate(files)))
    for link in LINKS:
        assert write("imagefolder", rows, tmp_path / link, link).images == 0
        assert set(everything(tmp_path / link)) == {"labels.csv"}


def test_a_file_whose_name_is_not_utf_8_is_found(tmp_path):
    try:
        (tmp_path / "caf\udce9.jpg").write_bytes(b"latin")
    except OSError:
        pytest.skip("a file system of UTF-8 names")
    rows = frame(sample("caf\\udce9.jpg", file=str(tmp_path / "caf\\udce9.jpg")))
    for link in LINKS:
        assert write("imagefolder", rows, tmp_path / link, link).images == 1
        assert (tmp_path / link / "cat" / "caf_udce9.jpg").read_bytes() == b"latin"


def test_a_full_disk_is_not_the_images_fault(crawl, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(MachineError, match="No space left on device"):
        write("imagefolder", crawl, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"crawl"}


def test_an_image_that_breaks_off_is_left_out(crawl, tmp_path, monkeypatch):
    def broken(source, target, length):
        target.write(b"half")
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "copyfileobj", broken)
    assert write("imagefolder", crawl, tmp_path / "out") == (0, {"missing or unreadable": 5})
    assert not list((tmp_path / "out").rglob("*.jpg"))

"""An export of a real run: what was asked for is what other tools load, which are asked where they are installed."""

import json
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from PIL import Image

from cleanweb import exporting, manifest, readers
from cleanweb.errors import UsageError
from cleanweb.settings import FORMATS, LINKS


@pytest.fixture(scope="module")
def images(run: Path) -> pd.DataFrame:
    return manifest.read(run, "images")


def trainable(images: pd.DataFrame) -> pd.DataFrame:
    return images[images["final_label"].notna() & images["duplicate_of"].isna()]


def labels_of(images: pd.DataFrame) -> Counter:
    return Counter(trainable(images)["final_label"])


# ------------------------------------------------------------------------------------------------------- the options


@pytest.mark.parametrize("format", FORMATS)
def test_a_dry_run_says_what_the_real_one_does_and_writes_nothing(format: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = {"only": ("trainable", "ood", "unusable"), "split": "train=0.8,val=0.2"}
    foreseen = exporting.export(run, format, out, dry_run=True, **asked)
    assert not list(tmp_path.iterdir())
    assert foreseen == exporting.export(run, format, out, **asked)
    assert out.exists()
    assert sum(foreseen.splits.values()) == foreseen.selected - foreseen.left_out.get("of no class", 0)
    with pytest.raises(UsageError, match="never overwrites"):
        exporting.export(run, format, out, dry_run=True, **asked)


def test_a_dry_run_counts_what_is_missing(run: Path, crawl: Path, tmp_path: Path, monkeypatch) -> None:
    gone = crawl / "red" / "05.png"
    monkeypatch.setattr(
        exporting.opening, "unescaped", lambda file: Path(file) if Path(file) != gone else Path("/gone")
    )
    for dry_run in (True, False):
        done = exporting.export(
            run, "imagefolder", tmp_path / "out", only=("clean", "relabeled", "ood"), dry_run=dry_run
        )
        assert done.left_out == {"missing or unreadable": 1}
    table = exporting.export(run, "csv", tmp_path / "out.csv", only=("clean", "relabeled", "ood"))
    assert table.left_out == {}
    assert any("1 of these rows name a file that is not there" in note for note in table.notes)


def test_without_relabelling_images_keep_the_given_label(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    for relabel, column in ((True, "final_label"), (False, "given_label")):
        out = tmp_path / f"{relabel}.csv"
        exporting.export(run, "csv", out, only=("clean", "relabeled", "ood"), relabel=relabel)
        table = pd.read_csv(out, dtype=str, keep_default_na=False).set_index("sample_id")
        asked = images[images["verdict"].isin(["clean", "relabeled"])].set_index("sample_id")
        assert table.loc[asked.index, "label"].tolist() == asked[column].tolist()
        assert (table.loc[table["verdict"] == "ood", "label"] == "").all()


def test_copies_are_never_in_two_splits(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    for seed in range(3):
        out = tmp_path / f"{seed}.csv"
        done = exporting.export(
            run, "csv", out, only=("clean", "relabeled", "ood"), split="train=0.5,val=0.5", seed=seed
        )
        table = pd.read_csv(out, dtype=str, keep_default_na=False).set_index("sample_id")
        judged = images[images["verdict"] != "unusable"].set_index("sample_id")
        picture = judged["duplicate_of"].fillna(judged.index.to_series())
        assert (table["split"].groupby(picture.loc[table.index]).nunique() == 1).all()
        assert Counter(table["split"]) == done.splits
    assert picture.duplicated().any()


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_stream_holds_what_a_file_would(format: str, run: Path, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w", encoding="utf-8", newline="") as stream:
        done = exporting.export(run, format, stream=stream)
    assert done.out is None
    exporting.export(run, format, tmp_path / "file")
    assert (tmp_path / "stream").read_bytes() == (tmp_path / "file").read_bytes()
    with (tmp_path / "empty").open("w", encoding="utf-8") as stream:
        assert exporting.export(run, format, stream=stream, dry_run=True).written == done.written
    assert (tmp_path / "empty").read_bytes() == b""
    with pytest.raises(UsageError, match="Only --format csv and jsonl"), (tmp_path / "x").open("w") as stream:
        exporting.export(run, "parquet", stream=stream)


def test_what_out_ends_in_says_the_format_where_none_is_named(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        exporting.export(run, out=tmp_path / name)
    read = (
        lambda file: duckdb.read_parquet(str(file)).fetchall(),
        lambda file: pd.read_json(file, lines=True),
        pd.read_csv,
    )
    for loaded, name in zip(read, ("a.parquet", "a.jsonl", "a.csv"), strict=True):
        assert len(loaded(tmp_path / name)) == len(trainable(images))
    exporting.export(run, "csv", tmp_path / "named.txt")
    with pytest.raises(UsageError, match=r"ends in \.json, .*--format.*\.csv, \.jsonl, \.parquet"):
        exporting.export(run, out=tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_what_is_said_of_suffixes_is_of_what_is_written(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "TORCHVISION_SUFFIXES", set())
    everything = ("clean", "relabeled", "ood", "unusable")
    done = exporting.export(run, "yolo", tmp_path / "out", only=everything, dry_run=True)
    assert 0 < done.written < done.selected
    assert [note.split()[0] for note in done.notes] == [str(done.written)]
    assert "Ultralytics" in done.notes[0]


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_written_into_the_crawl(format: str, run: Path, crawl: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(crawl)
    for out in (crawl / "new", tmp_path / "link" / "new"):
        with pytest.raises(UsageError, match="inside the crawl"):
            exporting.export(run, format, out)


def test_yolo_refuses_other_splits_before_it_writes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="YOLO knows"):
        exporting.export(run, "yolo", tmp_path / "out", split="one=0.5,two=0.5", dry_run=True)
    assert exporting.export(run, "yolo", tmp_path / "out").splits.keys() == {"train", "val"}


def test_what_ultralytics_does_through_links_is_told(run: Path, tmp_path: Path) -> None:
    words = "through links that changes your crawl"
    told = {link: exporting.export(run, "yolo", tmp_path / link, link=link, dry_run=True).notes for link in LINKS}
    assert {link: words in " ".join(notes) for link, notes in told.items()} == {
        "copy": False, "hardlink": True, "symlink": True,
    }  # fmt: skip


def test_progress_is_told(run: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    done = exporting.export(run, "imagefolder", tmp_path / "out", progress=lambda *step: told.append(step))
    assert told[-1] == ("export", done.selected, done.selected)


# -------------------------------------------------------------------------------------------- loaded, without the tool


def test_tables_hold_the_labels(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    for format, load in (("csv", pd.read_csv), ("jsonl", lambda f: pd.read_json(f, lines=True)),
                         ("parquet", lambda f: duckdb.read_parquet(str(f)).df())):  # fmt: skip
        out = tmp_path / f"out.{format}"
        exporting.export(run, format, out)
        assert Counter(load(out)["label"]) == labels_of(images)


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_an_exported_table_is_a_table_of_labels_for_fit(format: str, run: Path, crawl: Path, images, tmp_path) -> None:
    exporting.export(run, format, tmp_path / "labels", only=("clean", "relabeled"))
    again = readers.read(crawl, tmp_path / "labels")
    given = {sample.path: sample.given_label for sample in again.samples if sample.given_label is not None}
    judged = images[images["final_label"].notna()]
    assert given == dict(zip(judged["path"], judged["final_label"], strict=True))


def test_the_tars_of_webdataset(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    exporting.export(run, "webdataset", tmp_path / "out", split="train=0.8,val=0.2")
    names = json.loads((tmp_path / "out" / "classes.json").read_text())
    found: Counter = Counter()
    for file in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(file) as tar:
            members = tar.getnames()
            assert members == [f"{m.partition('.')[0]}.{s}" for m in members[::3] for s in ("jpg", "cls", "json")]
            for key in {name.partition(".")[0] for name in members}:
                record = json.load(tar.extractfile(f"{key}.json"))
                assert names[int(tar.extractfile(f"{key}.cls").read())] == record["label"]
                Image.open(tar.extractfile(f"{key}.jpg")).load()
                found[record["label"]] += 1
    assert found == labels_of(images)
    exporting.export(run, "webdataset", tmp_path / "again", split="train=0.8,val=0.2")
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_tars_are_not_too_large(run: Path, tmp_path: Path, monkeypatch) -> None:
    from cleanweb.writers import webdataset

    monkeypatch.setattr(webdataset, "MOST_IMAGES", 10)
    done = exporting.export(run, "webdataset", tmp_path / "out")
    tars = sorted((tmp_path / "out").glob("images-*.tar"))
    assert len(tars) == -(-done.written // 10)
    assert tars[1].name == "images-000001.tar"


def test_cocos_json(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    with manifest.changing(own) as con:
        two = "SELECT sample_id FROM images WHERE verdict = 'clean' AND duplicate_of IS NULL LIMIT 2"
        con.execute(f"UPDATE images SET verdict = 'ood', final_label = NULL WHERE sample_id IN ({two})")
    images = manifest.read(own, "images")
    exporting.export(own, "coco", tmp_path / "out", only=("trainable", "ood"))
    coco = json.loads((tmp_path / "out" / "annotations.json").read_text())
    name = {category["id"]: category["name"] for category in coco["categories"]}
    assert Counter(name[a["category_id"]] for a in coco["annotations"]) == labels_of(images)
    for image in coco["images"]:
        with Image.open(tmp_path / "out" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    assert {a["image_id"] for a in coco["annotations"]} < {image["id"] for image in coco["images"]}


def test_fiftyones_json(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    exporting.export(run, "fiftyone", tmp_path / "out", split="train=0.8,val=0.2")
    found: Counter = Counter()
    for split in ("train", "val"):
        files = json.loads((tmp_path / "out" / split / "data.json").read_text())
        labels = json.loads((tmp_path / "out" / split / "labels.json").read_text())
        assert files.keys() == labels["labels"].keys()
        assert all((tmp_path / "out" / split / file).is_file() for file in files.values())
        found.update(target["label"] for target in labels["labels"].values())
    assert found == labels_of(images)


def test_labelstudios_tasks(run: Path, crawl: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    from urllib.parse import unquote
    from xml.etree import ElementTree

    exporting.export(run, "labelstudio", tmp_path / "out", only=("trainable", "ood"))
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    choices = {choice.get("value") for choice in ElementTree.parse(tmp_path / "out" / "config.xml").iter("Choice")}
    given = [task["predictions"][0]["result"][0]["value"]["choices"][0] for task in tasks]
    assert choices == set(given)
    ood = images["verdict"].eq("ood") & images["duplicate_of"].isna()
    assert given.count("none of the classes") >= ood.sum()
    root = next(line for line in (tmp_path / "out" / "README.txt").read_text().splitlines() if "ROOT=" in line)
    root = root.partition("ROOT=")[2].removesuffix(" label-studio start")
    for task in tasks:
        place = unquote(task["data"]["image"].removeprefix("/data/local-files/?d="))
        assert (Path(root) / place).resolve().is_relative_to(crawl.resolve())
        assert (Path(root) / place).is_file()
    assert 0 < tasks[0]["predictions"][0]["score"] <= 1


def test_names_that_xml_cannot_hold_stay_apart() -> None:
    from xml.etree import ElementTree

    from cleanweb.writers import labelstudio

    labels = ["a\nb", "a\\nb", "a\x01", "a\\x01", "a<b>&\"'", "é😀", "none of the classes"]
    choices = labelstudio._choices(labels)
    assert len(set(choices.values())) == len(labels)
    config = ElementTree.fromstring(labelstudio._config(choices.values()))
    assert [choice.get("value") for choice in config.iter("Choice")] == list(choices.values())


# ------------------------------------------------------------------------------------------------------ the tools


def test_torchvision_numbers_the_classes_alike_in_every_split(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    exporting.export(run, "imagefolder", tmp_path / "out")
    whole = ImageFolder(tmp_path / "out")
    assert Counter(whole.classes[k] for k in whole.targets) == labels_of(images)
    exporting.export(run, "yolo", tmp_path / "yolo")
    train, val = (ImageFolder(tmp_path / "yolo" / split, allow_empty=True) for split in ("train", "val"))
    assert train.class_to_idx == val.class_to_idx == whole.class_to_idx
    assert len(train) + len(val) == len(whole)


@pytest.mark.slow
def test_hugging_face_loads_it(run: Path, images: pd.DataFrame, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    where = {"cache_dir": str(tmp_path / "cache")}
    test = tmp_path / "test"  # a folder whose name is that of a split
    exporting.export(run, "huggingface", test / "out", split="train=0.8,val=0.2")
    for loaded in (datasets.load_dataset("imagefolder", data_dir=str(test / "out"), **where),
                   datasets.load_dataset(str(test / "out"), **where)):  # fmt: skip
        assert loaded.keys() == {"train", "validation"}
        rows = [row for split in loaded.values() for row in split]
        assert Counter(row["label"] for row in rows) == labels_of(images)
        assert all(row["image"].size == (24, 24) for row in rows)
    exporting.export(run, "webdataset", tmp_path / "tars")
    tars = datasets.load_dataset("webdataset", data_files=str(tmp_path / "tars" / "*.tar"), split="train", **where)
    assert Counter(row["json"]["label"] for row in tars) == labels_of(images)


@pytest.mark.slow
def test_webdataset_loads_it(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="pip install webdataset")
    exporting.export(run, "webdataset", tmp_path / "out")
    names = json.loads((tmp_path / "out" / "classes.json").read_text())
    data = wds.WebDataset(str(tmp_path / "out" / "images-000000.tar"), shardshuffle=False).decode("pil")
    found = [(image.size, names[k]) for image, k in data.to_tuple("jpg", "cls")]
    assert Counter(label for _, label in found) == labels_of(images)
    assert {size for size, _ in found} == {(24, 24)}


@pytest.mark.slow
def test_pycocotools_loads_it(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    coco_api = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    exporting.export(run, "coco", tmp_path / "out")
    coco = coco_api.COCO(str(tmp_path / "out" / "annotations.json"))
    found = {
        category["name"]: len(coco.getImgIds(catIds=[category["id"]])) for category in coco.loadCats(coco.getCatIds())
    }
    assert found == labels_of(images)


@pytest.mark.slow
def test_label_studio_accepts_it(run: Path, tmp_path: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="pip install label-studio-sdk")
    exporting.export(run, "labelstudio", tmp_path / "out", only=("trainable", "ood"))
    view = interface.LabelInterface((tmp_path / "out" / "config.xml").read_text())
    view.validate()
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert all(view.validate_task({"data": task["data"]}) for task in tasks)
    assert not [errors for task in tasks for prediction in task["predictions"]
                if (errors := view.validate_prediction(prediction, return_errors=True))]  # fmt: skip


@pytest.mark.slow
def test_fiftyone_imports_it(run: Path, images: pd.DataFrame, tmp_path: Path) -> None:
    importers = pytest.importorskip("fiftyone.utils.data.importers", reason="pip install fiftyone")
    exporting.export(run, "fiftyone", tmp_path / "out", only=("trainable", "ood"))
    kind = importers.FiftyOneImageClassificationDatasetImporter
    with kind(dataset_dir=str(tmp_path / "out"), data_path="data.json") as importer:
        found = [(os.path.isfile(file), label) for file, _, label in importer]  # noqa: PTH113
    assert all(there for there, _ in found)
    assert Counter(label.label for _, label in found if label) == labels_of(images)


@pytest.mark.slow
def test_ultralytics_loads_it(run: Path, images: pd.DataFrame, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    utils = pytest.importorskip("ultralytics.data.utils", reason="pip install ultralytics")
    done = exporting.export(run, "yolo", tmp_path / "out")
    found = utils.check_cls_dataset(str(tmp_path / "out"))
    assert sorted(found["names"].values()) == sorted(labels_of(images))
    assert {split: sum(1 for _ in Path(found[split]).rglob("*.png")) for split in ("train", "val")} == done.splits

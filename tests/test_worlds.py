"""A world is an ordinary crawl: readable, its order and names telling nothing. What is drawn is what was asked for."""

import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cleanweb import readers
from cleanweb.bench.sources import Source, read_source
from cleanweb.bench.worlds import FOREIGN, TINY, WORLDS, World, choose_classes, class_sizes, draw, given_labels, write
from cleanweb.errors import UsageError
from cleanweb.records import Sample, Status

CIFAR = Path(__file__).parents[2] / "shared" / "data" / "cifar100"
SMALL = World("small", rate=0.3, n_inside=3, n_outside=2, per_class=8)


def clean_set(n_classes: int = 100, n_train: int = 40, n_test: int = 5) -> Source:
    """Images that are nowhere, of classes in families of five."""
    labels = np.repeat(np.arange(n_classes), n_train + n_test)
    in_test = np.tile(np.arange(n_train + n_test) >= n_train, n_classes)
    samples = [Sample(f"{i}", f"{i}", f"{i}", None, f"class {c}") for i, c in enumerate(labels)]
    return Source(samples, labels, in_test, [f"class {c}" for c in range(n_classes)], np.arange(n_classes) % 20)


def picture(c: int, i: int) -> bytes:
    pixels = np.random.default_rng([c, i]).integers(0, 256, (6, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if i % 2 else "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for c, name in enumerate("ABCDEF"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "set" / name / f"{name}{i}.jpg").write_bytes(picture(c, i))
    return tmp_path / "set"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """As Hugging Face writes them; ids run against the alphabet."""
    (tmp_path / "hub").mkdir()
    for split, numbers in (("train", range(8)), ("test", range(8, 10))):
        rows = [
            {"image": {"bytes": picture(c, i), "path": f"{name}/{i}.png"}, "label": name, "label_id": 5 - c,
             "coarse_id": 10 + c // 2}
            for i in numbers for c, name in enumerate("ABCDEF")
        ]  # fmt: skip
        frame = pd.DataFrame(rows)  # noqa: F841 (DuckDB finds it by its name)
        duckdb.sql(f"COPY (FROM frame) TO '{tmp_path}/hub/{split}-00000-of-00001.parquet' (FORMAT parquet)")
    return tmp_path / "hub"


def everything(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def table(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False)


# --- sources --------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_source_and_a_fifth_is_held_out(folders: Path):
    source = read_source(folders, seed=1)
    assert source.names == list("ABCDEF")
    assert [source.names[c] for c in source.labels] == [sample.given_label for sample in source.samples]
    assert np.bincount(source.labels[source.in_test]).tolist() == [2] * 6
    assert source.superclass is None
    assert (read_source(folders, seed=1).in_test == source.in_test).all()
    assert (read_source(folders, seed=2).in_test != source.in_test).any()


def test_parquet_tells_ids_superclasses_and_its_own_split(parquet: Path):
    source = read_source(parquet)
    assert source.names == list("FEDCBA")
    assert source.superclass.tolist() == [2, 2, 1, 1, 0, 0]
    assert [source.names[c] for c in source.labels] == [sample.given_label for sample in source.samples]
    assert np.bincount(source.labels[source.in_test]).tolist() == [2] * 6
    assert all("test-" in source.samples[i].file for i in np.flatnonzero(source.in_test))


# --- what is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_what_it_says(name: str):
    world, source = WORLDS[name], clean_set()
    drawn = draw(world, source, seed=3)
    inside = drawn.truth != FOREIGN
    assert world.name == name
    assert len(set(drawn.classes)) == world.n_inside
    assert len(set(drawn.foreign_classes) - set(drawn.classes)) == world.n_outside
    names = np.array([*drawn.classes, ""], dtype=object)[drawn.truth]
    labels = np.array([sample.given_label for sample in drawn.samples], dtype=object)
    assert (names[inside] == labels[inside]).all()
    assert set(labels[~inside]) == set(drawn.foreign_classes)
    assert len({sample.sample_id for sample in [*drawn.samples, *drawn.test]}) == len(drawn.samples) + len(drawn.test)
    sizes = [40 if size is None else min(size, 40) for size in class_sizes(world)]
    assert np.bincount(drawn.truth[inside]).tolist() == sizes
    assert [drawn.classes[c] for c in drawn.test_labels] == [sample.given_label for sample in drawn.test]
    assert np.bincount(drawn.test_labels).tolist() == [5] * world.n_inside
    if world.ood_share is not None:
        assert (~inside).mean() == pytest.approx(world.ood_share, abs=1 / len(inside))


@pytest.mark.parametrize("name", [name for name, world in WORLDS.items() if world.noise != "instance"])
def test_labels_go_wrong_at_the_rate_and_foreign_ones_anyhow(name: str):
    world, drawn = WORLDS[name], draw(WORLDS[name], clean_set(), seed=4)
    given, inside = given_labels(world, drawn, 4, lambda: pytest.fail("no pixels are needed")), drawn.truth != FOREIGN
    n, wrong = inside.sum(), (given != drawn.truth)[inside].sum()
    assert abs(wrong - n * world.rate) <= 5 * np.sqrt(n * world.rate * (1 - world.rate))
    uniform = np.bincount(given[~inside], minlength=world.n_inside)
    assert (abs(uniform - (~inside).sum() / world.n_inside) <= 5 * np.sqrt((~inside).sum() / world.n_inside)).all()


def test_the_papers_worlds_take_classes_by_id_and_all_images():
    for name in (name for name, world in WORLDS.items() if name.startswith("cifar80n-o")):
        drawn = draw(WORLDS[name], clean_set(), seed=5)
        assert drawn.classes == [f"class {c}" for c in range(80)]
        assert drawn.foreign_classes == [f"class {c}" for c in range(80, 100)]
        assert len(drawn.samples) == 4000
    drawn = draw(WORLDS["cifar80n-o-asym40"], clean_set(), seed=5)
    given, inside = given_labels(WORLDS["cifar80n-o-asym40"], drawn, 5, np.empty), drawn.truth != FOREIGN
    assert set((given - drawn.truth)[inside] % 80) == {0, 1}


def test_superclasses_near_far_and_whole():
    source = clean_set()
    for seed in range(5):
        names = ("near-ood", "far-ood", "human", "noise20")
        near, far, human, plain = (choose_classes(WORLDS[name], source, seed) for name in names)
        assert np.isin(near[1] % 20, near[0] % 20).all()
        assert not np.isin(far[1] % 20, far[0] % 20).any()
        assert sorted(np.bincount(human[0] % 20, minlength=20))[-2:] == [5, 5]
        assert near[0].tolist() == far[0].tolist() == plain[0].tolist()
    drawn = draw(WORLDS["human"], source, 0)
    given, inside = given_labels(WORLDS["human"], drawn, 0, np.empty), drawn.truth != FOREIGN
    assert (drawn.superclass[given] == drawn.superclass[drawn.truth])[inside].all()


def test_long_tails_and_tiny_classes():
    sizes = class_sizes(WORLDS["imbalance50"])
    assert (sizes[0], sizes[-1]) == (500, 10)
    ratios = np.array(sizes[1:]) / sizes[:-1]
    np.testing.assert_allclose(ratios, 50 ** (-1 / 9), rtol=0.05)
    assert class_sizes(WORLDS["tiny-classes"]) == [500] * 15 + [TINY] * 5


def test_worlds_of_one_seed_differ_in_one_thing():
    source = clean_set()
    few, many = (draw(WORLDS[name], source, 6) for name in ("noise5", "noise80"))
    assert few.samples == many.samples
    alone = draw(WORLDS["no-ood"], source, 6)
    assert set(alone.samples) == {s for s, c in zip(few.samples, few.truth, strict=True) if c != FOREIGN}
    other = draw(WORLDS["noise5"], source, 7)
    assert few.classes != other.classes


@pytest.mark.parametrize("name", ["noise20", "cifar80n-o-sym20", "ood50"])
def test_the_order_tells_nothing(name: str):
    """Every class is spread over the numbers as chance would: its mean within five standard errors of the middle."""
    truth = draw(WORLDS[name], clean_set(), seed=8).truth
    n = len(truth)
    for c in np.unique(truth):
        places = np.flatnonzero(truth == c) / n
        assert abs(places.mean() - 0.5) < 5 * np.sqrt(1 / 12 / len(places))


def test_foreign_classes_from_another_source_are_none_of_the_crawls():
    source, other = clean_set(6), clean_set(8)
    drawn = draw(replace(SMALL, n_inside=6), source, 0, foreign=other)
    assert sorted(drawn.foreign_classes) == ["class 6", "class 7"]
    assert all(sample in other.samples for sample in drawn.samples)
    with pytest.raises(UsageError, match="6 classes and 3 foreign ones; found 6 and 2"):
        draw(replace(SMALL, n_inside=6, n_outside=3), source, 0, foreign=other)


@pytest.mark.parametrize(
    ("world", "words"),
    [
        (replace(SMALL, n_inside=5), "5 classes and 2 foreign ones; found 5 and 1"),
        (replace(SMALL, n_inside=7, n_outside=0), "found 6 and 0"),
        (replace(SMALL, choice="near"), "superclasses"),
        (replace(SMALL, ood_share=0.9), "216 foreign images; found 16"),
    ],
)
def test_what_a_source_does_not_hold_is_said(world: World, words: str):
    with pytest.raises(UsageError, match=words):
        draw(world, replace(clean_set(6), superclass=None), 0)


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_written_world_is_a_crawl_and_its_truth_is_beside_it(folders: Path, tmp_path: Path):
    before, out = everything(folders), tmp_path / "world"
    write(SMALL, read_source(folders), 0, out)
    crawl = readers.read(out / "crawl", out / "labels.csv")
    assert all(sample.status == Status.OK for sample in crawl.samples)
    assert all(re.fullmatch(r"\d{6}\.(png|webp)", sample.path) for sample in crawl.samples)  # not .jpg, as they said
    assert len(crawl.samples) == 5 * 8
    labels, truth = table(out / "labels.csv"), table(out / "truth.csv")
    facts = json.loads((out / "world.json").read_text())
    assert list(labels.columns) == ["path", "label"]
    assert labels.equals(truth[["path", "label"]])
    assert set(truth["label"]) == set(facts["classes"])
    class_of = {content: name.split("/")[0] for name, content in before.items()}
    shown = [class_of[(out / "crawl" / path).read_bytes()] for path in truth["path"]]
    assert truth["truth"].tolist() == [name if name in facts["classes"] else "" for name in shown]
    assert set(shown) - set(facts["classes"]) == set(facts["foreign"])
    tests = everything(out / "test")
    assert len(tests) == 3 * 2
    assert all(class_of[content] == name.split("/")[0] for name, content in tests.items())
    assert not set(tests.values()) & set(everything(out / "crawl").values())
    assert (facts["world"], facts["seed"]) == (asdict(SMALL), 0)
    assert everything(folders) == before


@pytest.mark.parametrize("noise", ["symmetric", "pair", "block", "superclass", "instance"])
def test_the_same_seed_writes_the_same_world(noise: str, parquet: Path, tmp_path: Path):
    source, world = read_source(parquet), replace(SMALL, noise=noise, rate=0.5)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(world, source, seed, tmp_path / name)
    first, again, other = (everything(tmp_path / name) for name in "abc")
    assert first == again
    assert first != other
    truth = table(tmp_path / "a" / "truth.csv")
    known = truth[truth["truth"] != ""]
    assert 0 < (known["label"] != known["truth"]).sum() < len(known)


def test_nothing_is_overwritten_and_nothing_half_written(folders: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("")
    with pytest.raises(UsageError, match="never overwrites"):
        write(SMALL, read_source(folders), 0, out)
    (folders / "A" / "A0.jpg").write_text("no image")
    (folders / "A" / "A1.jpg").write_text("no image")
    with pytest.raises(UsageError, match=r"A/A\d.jpg is no image"):
        write(replace(SMALL, n_inside=5, n_outside=1), read_source(folders), 0, tmp_path / "half")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


def test_a_class_that_cannot_name_a_folder_is_refused(tmp_path: Path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(picture(0, 2 * i + 1))
    (tmp_path / "labels.csv").write_text("path,label\n0.png,../x\n1.png,y\n")
    with pytest.raises(UsageError, match=r"'\.\./x' cannot name a folder"):
        read_source(tmp_path / "labels.csv")


@pytest.mark.skipif(not CIFAR.is_dir(), reason="CIFAR-100 is not beside the repository")
def test_cifar80n_o_is_the_papers(tmp_path: Path):
    source = read_source(CIFAR)
    assert source.names[:2] + source.names[-2:] == ["apple", "aquarium_fish", "woman", "worm"]
    assert np.bincount(source.labels[source.in_test]).tolist() == [100] * 100
    assert np.bincount(source.superclass).tolist() == [5] * 20
    drawn = draw(WORLDS["cifar80n-o-sym20"], source, 0)
    assert (len(drawn.samples), len(drawn.test)) == (50_000, 8_000)
    assert (drawn.truth == FOREIGN).mean() == 0.2
    world = replace(WORLDS["instance20"], per_class=50)
    write(world, source, 0, tmp_path / "world")
    truth = table(tmp_path / "world" / "truth.csv")
    known = truth[truth["truth"] != ""]
    assert len(truth) == 13 * 50
    assert abs((known["label"] != known["truth"]).mean() - 0.2055) < 5 * np.sqrt(0.2055 * 0.7945 / 500)

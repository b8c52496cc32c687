"""`cleanweb bench make` and `run`: the product itself is run, judged once; what is written down names no machine."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cleanweb import pipeline
from cleanweb.bench import record, tables, trial, worlds
from cleanweb.bench.sources import read_source
from cleanweb.bench.worlds import WORLDS, World
from cleanweb.cli import app
from cleanweb.errors import UsageError
from cleanweb.settings import Settings
from tests.conftest import COLOURS

QUICK = Settings(Path(), backbone="cnn5", epochs=2, workers=0, device="cpu")
OPTIONS = ("--backbone", "cnn5", "--epochs", 2, "--workers", 0, "--device", "cpu")
MANY = COLOURS | {"white": (230, 230, 230), "black": (20, 20, 20), "teal": (20, 150, 150)}


def cleanweb(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("sets") / "colours", np.random.default_rng(0)
    for label, colour in MANY.items():
        (folder / label).mkdir(parents=True)
        for i in range(15):
            pixels = np.clip(rng.normal(colour, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def world(clean_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "few"
    code, said, err = cleanweb("bench", "make", clean_set, "few-classes", "--out", out, "--seed", 3)
    assert code == 0, err
    assert "few-classes of colours, seed 3. 72 images" in said
    assert "12 of them of none of the 5 classes" in said
    return out


@pytest.fixture(scope="module")
def results(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    code, said, err = cleanweb("bench", "run", world, *OPTIONS, "--results", folder)
    assert code == 0, err
    assert "macro-F1" in said
    assert said.count("\n") == 1
    return folder


def only(folder: Path) -> Path:
    (file,) = folder.glob("*.json")
    return file


# --- making ---------------------------------------------------------------------------------------------------------


def test_every_world_is_listed():
    code, said, _ = cleanweb("bench", "worlds")
    assert code == 0
    assert {line.split()[0] for line in said.splitlines() if line.strip()} >= set(WORLDS)


def test_mistakes_get_words_and_a_code(clean_set: Path, world: Path, tmp_path: Path):
    for words, said in (
        (("make", clean_set, "nowhere", "--out", tmp_path / "w"), "See cleanweb bench worlds"),
        (("make", clean_set, "few-class", "--out", tmp_path / "w"), "Did you mean few-classes?"),
        (("make", clean_set, "few-classes", "--out", world), "never overwrites"),
        (("run", clean_set), "There is no world"),
        (("run", world, "--noise-rate", 0.2), "--noise-rate"),
    ):
        code, out, err = cleanweb("bench", *words)
        assert (code, out) == (2, "")
        assert said in err


def test_what_is_made_and_what_comes_out_is_told_as_json(clean_set: Path, results: Path, world: Path, tmp_path: Path):
    listed = json.loads(cleanweb("bench", "worlds", "--json")[1])
    assert [told["name"] for told in listed] == list(WORLDS)
    code, said, err = cleanweb("bench", "make", clean_set, "few-classes", "--out", tmp_path / "w", "--json")
    assert (code, json.loads(said)["images"], json.loads(said)["of_no_class"]) == (0, 72, 12)
    assert "crawl: 72 of 72" in err
    _, said, _ = cleanweb("bench", "run", world, *OPTIONS, "--results", results, "--json")
    assert json.loads(said) == {"file": str(only(results)), "new": False} | record.read(only(results))
    (table,) = json.loads(cleanweb("bench", "tables", "--results", results, "--json")[1])
    assert dict(zip(table["columns"], table["rows"][0], strict=True))["world"].startswith("few-classes")
    assert cleanweb("bench", "run", world, *OPTIONS, "--results", results, "--quiet") == (0, "", "")


def test_a_world_is_read_as_it_was_written(clean_set: Path, world: Path):
    made = worlds.read(world)
    assert (made.world, made.source, made.seed) == (WORLDS["few-classes"], "colours", 3)
    wrong = made.truth["label"] != made.truth["truth"]
    assert made.wrong == wrong.mean() > (made.truth["truth"] == "").mean()
    assert str(clean_set.parent) not in (world / "world.json").read_text()


# --- running --------------------------------------------------------------------------------------------------------


def test_a_result_tells_everything_and_names_no_folder(results: Path, world: Path):
    text = only(results).read_text()
    result = json.loads(text)
    assert (result["world"], result["source"], result["world_seed"]) == ("few-classes", "colours", 3)
    assert result["settings"] == {
        "method": "josrc", "recipe": "auto", "tune": "full", "epochs": 2, "batch_size": 32, "noise_rate": None,
        "seed": 3, "backbone": "cnn5", "weights": "none", "device": "cpu",
    }  # fmt: skip
    assert result["metrics"]["images"] == 72
    assert 0 <= result["metrics"]["macro_f1"] <= 1
    classifier = result["classifier"]
    assert (classifier.pop("test_epochs_seen"), classifier.pop("teacher_epochs_seen")) == (2, 2)
    assert len(classifier) == 4
    assert all(0 <= accuracy <= 1 for accuracy in classifier.values())
    assert all(result[key] > 0 for key in ("seconds", "images_per_second", "peak_memory_mb"))
    assert set(result["versions"]) == {"python", "cleanweb", "torch", "timm", "numpy", "scikit-learn"}
    assert set(result["hardware"]) == {"cpu", "cores", "gpu"}
    assert "commit" in result
    assert not any(str(place) in text for place in (results.parent, world.parent, Path.home()))


def test_the_last_classifier_watched_is_the_one_on_disk(results: Path, world: Path):
    seen = json.loads(next(world.glob("runs/*/accuracy.json")).read_text())
    assert seen["classifier"]["2"] == pytest.approx(record.read(only(results))["classifier"]["test_accuracy"])


def test_a_finished_result_is_not_made_again(results: Path, world: Path, monkeypatch: pytest.MonkeyPatch):
    before = only(results).read_bytes()
    monkeypatch.setattr(pipeline, "fit", lambda *_: pytest.fail("it ran again"))
    code, said, _ = cleanweb("bench", "run", world, *OPTIONS, "--results", results)
    assert code == 0
    assert "is already in" in said
    assert only(results).read_bytes() == before


def test_a_finished_run_without_a_result_is_judged_again(
    results: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "fit", lambda *_: pytest.fail("it ran again"))
    assert cleanweb("bench", "run", world, *OPTIONS, "--results", tmp_path)[0] == 0
    again, first = record.read(only(tmp_path)), record.read(only(results))
    assert again | {"seconds": 0, "peak_memory_mb": 0} == first | {"seconds": 0, "peak_memory_mb": 0}
    assert again["seconds"] is again["peak_memory_mb"] is None  # nobody measured


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_and_loses_no_epoch(results: Path, clean_set: Path, tmp_path: Path):
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "classifier":
            raise Stop

    worlds.write(WORLDS["few-classes"], read_source(clean_set, 3), 3, tmp_path / "again")
    asked = trial.prepare(worlds.read(tmp_path / "again"), replace(QUICK, seed=3))
    with pytest.raises(Stop):
        trial.run(asked, stop)
    result, whole = trial.run(asked), record.read(only(results))
    assert result["metrics"] == whole["metrics"]
    assert result["classifier"] == whole["classifier"]
    assert result["seconds"] is None


def test_a_head_is_measured_at_its_end(world: Path, tmp_path: Path):
    backbone = f"local-dir:{next(world.glob('runs/*cnn5-full*/classifier'))}"
    asked = trial.prepare(worlds.read(world), replace(QUICK, backbone=backbone, tune="head"))
    result = trial.run(asked)
    assert result["settings"]["backbone"] == "classifier"
    assert result["settings"]["weights"] == "pretrained"
    assert 0 <= result["classifier"]["test_accuracy"] <= 1
    assert result["classifier"]["teacher_test_accuracy"] is None
    assert result["classifier"]["test_epochs_seen"] == 0


# --- what is tried --------------------------------------------------------------------------------------------------


def test_pre_training_is_told_where_there_is_any(world: Path):
    made = worlds.read(world)
    asked = {}, {"pretrain": "none"}, {"pretrain": "self"}
    plain, without, begun = (trial.prepare(made, replace(QUICK, **settings)).told() for settings in asked)
    assert plain == without
    assert begun == plain | {"pretrain": "self"}
    assert tables._words(begun)[0] == f"{tables._words(plain)[0]} --pretrain self"
    assert tables._kind(begun) != tables._kind(plain)


def test_other_settings_another_name(world: Path):
    made = worlds.read(world)
    told = trial.prepare(made, QUICK).told()
    others = [told | {key: "other"} for key in told if key != "device"]
    names = [record.name(made, settings) for settings in (told, *others)]
    names.append(record.name(replace(made, facts=made.facts | {"source": "other"}), told))
    assert len(set(names)) == len(names)
    assert record.name(made, told | {"device": "cuda"}) == names[0]
    assert all(Path(name).name == name for name in names)


@pytest.mark.parametrize(("noise", "share"), [("symmetric", 1), ("superclass", 1), ("pair", 0.5), ("block", 0.5)])
def test_methods_that_ask_are_told_the_true_rate(noise: str, share: float, world: Path):
    made = worlds.read(world)
    made = replace(made, world=World("other", noise))
    asked = trial.prepare(made, replace(QUICK, method="coteaching"))
    assert asked.settings.noise_rate == pytest.approx(share * made.wrong)
    assert trial.prepare(made, replace(QUICK, method="coteaching", noise_rate=0.4)).settings.noise_rate == 0.4
    assert trial.prepare(made, QUICK).settings.noise_rate is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"world": "x"}'])
def test_what_is_no_result_is_refused(text: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match=r"x\.json is not a result"):
        record.read_all(tmp_path)
    assert record.read_all(tmp_path / "nowhere") == []

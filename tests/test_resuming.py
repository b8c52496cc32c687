"""An unfinished run: of the same it goes on, of another it is refused with what differs; it moves out as a whole."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cleanweb import atomic, resuming
from cleanweb.errors import RunError
from cleanweb.records import Sample, Status
from cleanweb.resuming import Unfinished
from cleanweb.settings import Settings

SAMPLES = [Sample(f"{i}.png", f"{i}.png", f"/crawl/{i}.png", None, "cat" if i % 2 else "dog") for i in range(4)]
ODD = Sample("a\udcff.png#2", "käse\n.png", "/crawl/\udcff", 3, None, Status.CONFLICTING, "a note")
SETTINGS = Settings(source=Path("crawl"))


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def begun(run: Path, samples: list[Sample] = SAMPLES, **changes: object) -> Unfinished:
    run.mkdir(exist_ok=True)
    unfinished = Unfinished(run)
    unfinished.begin(replace(SETTINGS, **changes), samples)
    (unfinished.learning("mark") / "fold 1 of 3.pt").write_text("learned")
    return unfinished


def has_learned(run: Path) -> bool:
    return (Unfinished(run).path / "learning" / "fold 1 of 3.pt").exists()


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"workers": 3}, {"strict": True}, {"out": Path("elsewhere")}])
def test_of_the_same_it_goes_on_and_says_so(change: dict, tmp_path: Path, caplog):
    begun(tmp_path)
    caplog.set_level("INFO")
    again = Unfinished(tmp_path)
    assert again.begin(replace(SETTINGS, **change), SAMPLES) == SAMPLES
    assert has_learned(tmp_path)
    assert not again.is_new
    assert "Going on with the run that began at 20" in caplog.text


def test_samples_come_back_as_they_were(tmp_path: Path):
    begun(tmp_path, [*SAMPLES, ODD])
    assert Unfinished(tmp_path).begin(SETTINGS, [*SAMPLES, ODD]) == [*SAMPLES, ODD]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "--seed was 0 and is 1"),
        ({"epochs": 3}, "--epochs was not given and is 3"),
        ({"source": Path("other")}, "SOURCE was crawl and is other"),
        (
            {"method": "standard", "image_size": 64},
            "--method was josrc and is standard, --image-size was not given and is 64",
        ),
    ],
)
def test_other_settings_are_named(change: dict, words: str, tmp_path: Path):
    begun(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(RunError, match=f"other settings: {words}.*--fresh"):
        Unfinished(tmp_path).begin(replace(SETTINGS, **change), SAMPLES)
    assert tree(tmp_path) == before
    Unfinished(tmp_path).begin(replace(SETTINGS, fresh=True, **change), SAMPLES)
    assert not has_learned(tmp_path)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([*SAMPLES, replace(SAMPLES[0], sample_id="new.png")], "1 of 5 rows are new"),
        ([*SAMPLES[:2], *(replace(s, given_label="owl") for s in SAMPLES[2:])], "2 of 4 rows have another label"),
        ([*SAMPLES[:3], replace(SAMPLES[3], file="/elsewhere/3.png")], "1 of 4 rows have another file"),
        ([*SAMPLES[:3], replace(SAMPLES[3], status=Status.UNLISTED)], "1 of 4 rows have another file"),
    ],
)
def test_another_crawl_is_refused_with_how_many_rows(samples: list[Sample], words: str, tmp_path: Path):
    begun(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(RunError, match=f"another crawl: {words}"):
        Unfinished(tmp_path).begin(SETTINGS, samples)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("now", [SAMPLES[1:], [replace(SAMPLES[0], status=Status.MISSING), *SAMPLES[1:]]])
def test_rows_that_have_vanished_stay_in_the_run(now: list[Sample], tmp_path: Path):
    begun(tmp_path)
    assert Unfinished(tmp_path).begin(SETTINGS, now) == SAMPLES
    assert has_learned(tmp_path)


def test_another_version_is_named(tmp_path: Path, monkeypatch):
    begun(tmp_path)
    monkeypatch.setattr(resuming, "__version__", "9.9")
    with pytest.raises(RunError, match=r"unfinished run of cleanweb 0\.\d.*this is 9\.9"):
        Unfinished(tmp_path).begin(SETTINGS, SAMPLES)


@pytest.mark.parametrize("name", ["run.json", "samples.jsonl.gz"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}"])
def test_a_damaged_record_is_refused_in_words(name: str, damage: bytes, tmp_path: Path):
    unfinished = begun(tmp_path)
    (unfinished.path / name).write_bytes(damage)
    words = "4 of 4 rows are new" if name == "samples.jsonl.gz" and damage == b"" else rf"{re.escape(name)} is damaged"
    with pytest.raises(RunError, match=f"{words}.*--fresh"):
        Unfinished(tmp_path).begin(SETTINGS, SAMPLES)
    Unfinished(tmp_path).begin(replace(SETTINGS, fresh=True), SAMPLES)


def test_what_was_begun_with_fresh_goes_on_with_fresh(tmp_path: Path):
    """The same command again goes on; --fresh replaces only what was begun without."""
    begun(tmp_path)
    begun(tmp_path, fresh=True)
    Unfinished(tmp_path).begin(replace(SETTINGS, fresh=True), SAMPLES)
    assert has_learned(tmp_path)
    Unfinished(tmp_path).begin(SETTINGS, SAMPLES)
    assert has_learned(tmp_path)
    Unfinished(tmp_path).begin(replace(SETTINGS, fresh=True, seed=1), SAMPLES)
    assert not has_learned(tmp_path)


def test_other_images_are_learned_anew(tmp_path: Path, caplog):
    unfinished = begun(tmp_path)
    unfinished.learning("mark")
    assert has_learned(tmp_path)
    unfinished.learning("another")
    assert not has_learned(tmp_path)
    assert "begins again" in caplog.text


def test_half_removed_it_is_none(tmp_path: Path, monkeypatch):
    unfinished = begun(tmp_path)
    monkeypatch.setattr(atomic, "remove", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        unfinished.discard()
    assert not Unfinished(tmp_path).path.exists()


# --- when it is complete --------------------------------------------------------------------------------------------

OLD = {"manifest.duckdb": b"old", "manifest.csv": b"old", "scores.npz": b"old", "run.json": b"{}",
       "report.html": b"old", "classifier/config.json": b"old", "classifier/old.json": b"old",
       "notes.txt": b"mine"}  # fmt: skip
NEW = {"manifest.duckdb": b"new", "manifest.csv": b"new", "scores.npz": b"new", "run.json": b"[]",
       "classifier/config.json": b"new"}  # fmt: skip


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def outside(run: Path) -> dict[str, bytes | None]:
    return {name: content for name, content in tree(run).items() if not name.startswith(("unfinished", "."))}


def test_until_it_is_complete_the_old_run_stands(tmp_path: Path):
    put(tmp_path, OLD)
    before = outside(tmp_path)
    unfinished = begun(tmp_path, fresh=True)
    put(unfinished.results.path, NEW)
    assert not unfinished.is_complete()
    unfinished.complete(["a note"])
    assert outside(tmp_path) == before
    assert unfinished.publish() == ["a note"]
    assert outside(tmp_path) == NEW | {"classifier": None, "notes.txt": b"mine"}


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", range(9))
def test_killed_while_moving_out_it_moves_on(after: int, tmp_path: Path, monkeypatch):
    """Killed before any of the renames and removals: the next process ends what was begun."""
    put(tmp_path, OLD)
    unfinished = begun(tmp_path, fresh=True)
    put(unfinished.results.path, NEW)
    unfinished.complete([])
    steps = 0

    def counted(do):
        def step(*names: object) -> object:
            nonlocal steps
            steps += 1
            if steps > after:
                raise Killed
            return do(*names)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(atomic, "remove", counted(atomic.remove))
        with pytest.raises(Killed):
            unfinished.publish()
    assert Unfinished(tmp_path).is_complete()
    Unfinished(tmp_path).publish()
    assert outside(tmp_path) == NEW | {"classifier": None, "notes.txt": b"mine"}


def test_it_knows_whose_it_is(tmp_path: Path):
    unfinished = begun(tmp_path)
    assert unfinished.is_of(replace(SETTINGS, workers=3))
    assert not unfinished.is_of(replace(SETTINGS, seed=3))
    assert json.loads((unfinished.path / "run.json").read_text())["settings"]["seed"] == 0

"""From decisions to rows: every sample one verdict, copies follow their picture, and the manifest takes it all."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cleanweb import manifest, schema
from cleanweb.frames import Rows
from cleanweb.judging import Images, classes_table, judge
from cleanweb.known import Crawled
from cleanweb.packed import Facts, FactsOf, Samples
from cleanweb.records import COPIES, UNVERIFIED, Decision, ImageFacts, Sample, Scores, Status, Verdict
from cleanweb.settings import Settings
from cleanweb.tables import epochs_table, runs_table, transition_table
from cleanweb.train import EpochRecord
from cleanweb.written import Written

CLASSES = ["cat", "dog", "owl"]
NOISE = np.array([[0.3, 0.2, 0.4], [0.1, 0.05, 0.2], [np.nan, np.nan, np.nan], [0.2, 0.1, 0.3]])  # classes, and all


def row(label: str | None, verdict: str = "clean", to: str | None = None, copy_of: int | None = None,
        status: Status = Status.OK, note: str = "", file: Status = Status.OK, **more) -> dict:  # fmt: skip
    """A sample: its label, what is decided of it (or which row it is a copy of), and what is wrong with it."""
    return dict(label=label, verdict=verdict, to=to, copy_of=copy_of, status=status, note=note, file=file, **more)


def facts(rows: list[dict]) -> tuple[Crawled, np.ndarray]:
    """What is known of the rows before they are judged, and which are scored."""
    samples = [Sample(f"{i}.png", f"{i}.png", f"/crawl/{i}.png", None, r["label"], r["status"], r["note"])
               for i, r in enumerate(rows)]  # fmt: skip
    seen = [ImageFacts(Status.OK, "", "PNG", 8, 8, 99, "ab" * 32, "cd" * 16, 7) if r["file"] == Status.OK else
            ImageFacts(r["file"], "breaks off at byte 9") for r in rows]  # fmt: skip
    kept = np.array([i if r["copy_of"] is None else r["copy_of"] for i, r in enumerate(rows)])
    kind = [COPIES.index("" if r["copy_of"] is None else r.get("kind", "exact")) for r in rows]
    scored = [i for i, r in enumerate(rows) if r["copy_of"] is None and r["file"] == Status.OK
              and r["status"] in (Status.OK, Status.UNLABELED, Status.UNLISTED)]  # fmt: skip
    found = Facts()
    found.update(enumerate(seen))
    return Crawled(Samples(samples), found.of(np.arange(len(seen))), kept, np.array(kind)), np.array(scored)


def evidence(rows: list[dict], scored: np.ndarray, k: int = 2) -> tuple[Scores, Decision]:
    """Scores and a decision that say what `rows` want."""
    asked, m = [rows[i] for i in scored], len(scored)
    labels = np.array([-1 if r["label"] is None else CLASSES.index(r["label"]) for r in asked])
    suggested = np.array([-1 if r["to"] is None else CLASSES.index(r["to"]) for r in asked])
    best = [["clean", "relabeled", "ood"].index(r["verdict"]) for r in asked]
    p = np.full((3, m), 0.1)
    p[best, np.arange(m)] = 0.8
    probs = np.full((m, 3), 0.1, np.float32)
    probs[np.arange(m), np.where(suggested >= 0, suggested, labels)] = 0.8
    neighbours = (np.arange(m)[:, None] + 1 + np.arange(k)) % m
    scores = Scores(labels, probs, np.full(m, 0.25, np.float32),
                    np.where(labels < 0, np.nan, 0.7).astype(np.float32), neighbours.astype(np.int32),
                    np.full((m, k), 0.5, np.float32), np.full(m, UNVERIFIED))  # fmt: skip
    decision = Decision([Verdict(r["verdict"]) for r in asked], suggested, *p, np.full(m, 0.8),
                        np.array([r.get("review", False) for r in asked], bool), np.zeros((4, 3)), NOISE,
                        np.zeros((0, 4)), ["as the test says"] * m)  # fmt: skip
    return scores, decision


def judged(*rows: dict, k: int = 2) -> pd.DataFrame:
    return table(list(rows), k)[:]


def table(rows: list[dict], k: int = 2) -> Images:
    known, scored = facts(rows)
    return Images(known, judge(known, scored, *evidence(rows, scored, k), CLASSES))


def write(folder: Path, images: Rows) -> pd.DataFrame:
    """The images as the manifest gives them back."""
    record = EpochRecord(1, 0.5, None, 3, 2, 1, 1e-3, 0.1)
    settings = Settings(source=Path("crawl"))
    manifest.write(folder, {
        "images": images,
        "classes": manifest.empty("classes"),
        "transition_matrix": transition_table(np.ones((4, 3)), CLASSES),
        "epochs": epochs_table({"train": [record], "classifier": [record]}),
        "runs": runs_table(settings, Path("crawl"), "f00d", datetime.now(UTC), NOISE),
    })  # fmt: skip
    return manifest.read(folder, "images")


FILLER = [row(label) for label in CLASSES]
EVERYTHING = [
    *FILLER,
    row("cat", "relabeled", "dog", review=True),
    row("dog", "ood"),
    row("owl"),
    row("cat", copy_of=0),
    row("dog", copy_of=0, kind="near"),
    row("cat", copy_of=3),
    row("dog", copy_of=3),
    row("owl", copy_of=3),
    row("owl", copy_of=4),
    row("owl", copy_of=5, status=Status.REPEATED),
    row("cat", copy_of=5, status=Status.CONFLICTING, note="given owl before"),
    row(None, status=Status.UNLABELED),
    row(None, status=Status.UNLISTED, note="no row of the table names it"),
    row("cat", status=Status.MISSING, note="no such file", file=Status.MISSING),
    row("dog", file=Status.TRUNCATED),
]


def test_facts_come_before_judgement():
    known, _ = facts(EVERYTHING)
    images = known.take(np.arange(len(EVERYTHING)))
    assert list(images.columns) == [name for name in images.columns if name in dict_of_columns("images")]
    assert len(images) == len(EVERYTHING)
    assert images["sample_id"].is_unique
    assert not {"verdict", "p_clean", "final_label", "reason"} & {*images.columns}
    assert images.loc[7, ["duplicate_of", "duplicate_kind"]].tolist() == ["0.png", "near"]
    assert images.loc[17, ["status", "error", "sha256"]].tolist() == ["truncated", "breaks off at byte 9", None]
    assert images.loc[0, "phash"] == "0000000000000007"


def test_the_table_is_made_by_columns(monkeypatch):
    """One row after the other takes seven times as long: most of what writing a manifest takes."""
    images = table(EVERYTHING)
    for rows in (Samples, FactsOf):
        monkeypatch.delattr(rows, "__getitem__")
    assert len(images[:]) == len(EVERYTHING)


def dict_of_columns(table: str) -> dict[str, str]:
    return {name: sql_type for name, sql_type, _ in schema.TABLES[table]}


def test_every_sample_has_exactly_one_verdict_and_a_reason():
    images = judged(*EVERYTHING)
    assert len(images) == len(EVERYTHING)
    assert set(images["verdict"]) == {str(v) for v in Verdict}
    assert images["reason"].map(bool).all()
    assert images["needs_review"].isin([True, False]).all()
    assert set(images.columns) == set(dict_of_columns("images"))


def test_verdicts_and_labels_go_together():
    images = judged(*EVERYTHING)
    for _, r in images.iterrows():
        if r["verdict"] == "clean":
            assert r["final_label"] == r["given_label"]
            assert r["suggested_label"] is None
        elif r["verdict"] == "relabeled":
            assert r["final_label"] == r["suggested_label"] != r["given_label"]
        else:
            assert r["final_label"] is None  # None, not NaN: the classes to train on are read from here
            assert r["suggested_label"] is None


def test_probabilities_add_up_where_there_are_any():
    images = judged(*EVERYTHING)
    p = images[["p_clean", "p_id", "p_ood"]]
    assert (p.isna().all(axis=1) == (images["verdict"] == "unusable")).all()
    p = p.dropna().astype(float)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert ((p >= 0) & (p <= 1)).all(axis=None)


def test_decisions_reach_their_rows():
    images = judged(*EVERYTHING)
    assert images["verdict"].tolist()[:6] == ["clean", "clean", "clean", "relabeled", "ood", "clean"]
    assert images.loc[3, ["suggested_label", "final_label", "needs_review"]].tolist() == ["dog", "dog", True]
    assert images.loc[3, ["predicted_label", "p_predicted", "p_given"]].tolist() == pytest.approx(["dog", 0.8, 0.1])
    assert images.loc[0, ["js_clean", "view_disagreement", "neighbour_similarity"]].tolist() == pytest.approx(
        [0.7, 0.25, 0.5]
    )
    assert images.loc[0, "neighbour_agreement"] == 0  # its neighbours are a dog and an owl
    assert images.loc[1, "neighbour_agreement"] == 0
    assert images.loc[0, "reason"] == "as the test says"


# --- copies ---------------------------------------------------------------------------------------------------------


def test_a_copy_with_the_same_label_follows():
    images = judged(*FILLER, row("cat", "relabeled", "owl"), row("cat", copy_of=3), row("cat", copy_of=0))
    for copy, kept in ((4, 3), (5, 0)):
        for column in ("verdict", "suggested_label", "final_label", "p_clean", "p_id", "p_ood", "confidence"):
            assert images.at[copy, column] == images.at[kept, column] or images.at[kept, column] is None
        assert f"{kept}.png" in images.at[copy, "reason"]


def test_a_copy_with_another_label_than_a_clean_kept_one_becomes_that():
    images = judged(*FILLER, row("dog", copy_of=0))
    assert images.loc[3, ["verdict", "suggested_label", "final_label"]].tolist() == ["relabeled", "cat", "cat"]
    assert images.at[3, "p_clean"] < 0.5
    assert "'cat'" in images.at[3, "reason"]
    assert images.loc[3, ["js_clean", "neighbour_agreement"]].isna().all()  # they speak of the label cat
    assert images.at[3, "p_given"] == pytest.approx(0.1)  # of dog


def test_a_copy_that_carries_the_suggested_label_is_clean():
    images = judged(*FILLER, row("cat", "relabeled", "dog"), row("dog", copy_of=3), row("owl", copy_of=3))
    assert images.loc[4, ["verdict", "suggested_label", "final_label"]].tolist() == ["clean", None, "dog"]
    assert images.at[4, "p_clean"] > 0.5
    assert images.loc[5, ["verdict", "suggested_label", "final_label"]].tolist() == ["relabeled", "dog", "dog"]
    assert images.at[5, "p_clean"] < 0.5


@pytest.mark.parametrize("label", CLASSES)
def test_a_copy_of_what_belongs_to_no_class_belongs_to_none(label: str):
    images = judged(*FILLER, row("dog", "ood"), row(label, copy_of=3))
    assert images.loc[4, ["verdict", "suggested_label", "final_label"]].tolist() == ["ood", None, None]
    assert images.at[4, "p_ood"] == pytest.approx(0.8)


@pytest.mark.parametrize("status", [Status.REPEATED, Status.CONFLICTING])
def test_rows_that_name_a_path_again_follow_too(status: Status):
    images = judged(*FILLER, row("dog", copy_of=0, status=status, note="named before"))
    assert images.at[3, "status"] == status
    assert images.at[3, "final_label"] == "cat"


def test_a_copy_may_be_the_only_one_of_its_label(tmp_path: Path):
    """The label of no image that is scored is no class; its copy has one all the same."""
    images = judged(*FILLER, row("lynx", copy_of=0), row("lynx", copy_of=0))
    assert images.loc[3, ["verdict", "final_label"]].tolist() == ["relabeled", "cat"]
    assert images.at[3, "p_clean"] == 0
    assert len(write(tmp_path, images)) == 5


# --- what is not judged ---------------------------------------------------------------------------------------------


def test_what_has_no_label_is_unusable_and_the_model_says_what_it_sees():
    images = judged(*FILLER, row(None, status=Status.UNLABELED), row(None, status=Status.UNLISTED, note="not listed"))
    for i, words in ((3, "no label was given"), (4, "not listed")):
        assert images.at[i, "verdict"] == "unusable"
        assert images.at[i, "reason"].startswith(words)
        assert repr(images.at[i, "predicted_label"]) in images.at[i, "reason"]
        assert "80%" in images.at[i, "reason"]
        assert images.loc[i, ["p_clean", "p_given", "js_clean", "neighbour_agreement", "confidence"]].isna().all()
        assert images.at[i, "p_predicted"] == pytest.approx(0.8)


def test_a_file_that_cannot_be_used_says_why():
    images = judged(*FILLER, row("cat", file=Status.TRUNCATED), row("cat", status=Status.MISSING, note="no such file",
                    file=Status.MISSING))  # fmt: skip
    assert images.loc[3, ["verdict", "reason"]].tolist() == ["unusable", "breaks off at byte 9"]
    assert images.at[4, "verdict"] == "unusable"
    assert images.at[4, "reason"]


def test_an_unreadable_file_without_a_label_is_no_guess():
    images = judged(*FILLER, row(None, status=Status.UNLABELED, file=Status.TRUNCATED))
    assert images.at[3, "verdict"] == "unusable"
    assert "sees" not in images.at[3, "reason"]


def test_a_crawl_without_neighbours_is_judged(tmp_path: Path):
    images = judged(row("cat"), row("dog"), k=0)
    assert images[["neighbour_agreement", "neighbour_similarity"]].isna().all(axis=None)
    assert len(write(tmp_path, images)) == 2


# --- the manifest ---------------------------------------------------------------------------------------------------


def test_the_manifest_takes_and_gives_back_what_was_judged(tmp_path: Path):
    images = judged(*EVERYTHING)
    back = write(tmp_path, images)
    for column in ("sample_id", "verdict", "suggested_label", "final_label", "reason", "duplicate_of", "needs_review"):
        expected = [None if pd.isna(value) else value for value in images[column]]
        assert [None if pd.isna(value) else value for value in back[column]] == expected
    for column in ("p_clean", "p_id", "p_ood", "confidence", "js_clean", "p_given", "neighbour_agreement"):
        np.testing.assert_allclose(back[column].astype(float), images[column].astype(float), atol=1e-6)


def test_what_came_from_the_manifest_can_be_judged_again(tmp_path: Path):
    _, scored = facts(EVERYTHING)
    first = judged(*EVERYTHING)
    write(tmp_path, first)
    known = Written(tmp_path)
    again = Images(known, judge(known, scored, *evidence(EVERYTHING, scored), CLASSES))[:]
    for column in ("verdict", "suggested_label", "final_label", "reason", "p_clean", "js_clean"):
        pd.testing.assert_series_equal(
            again[column].replace({np.nan: None}), first[column].replace({np.nan: None}), check_dtype=False, rtol=1e-5
        )
    write(tmp_path, again)
    changed = [r | {"verdict": "ood", "to": None} for r in EVERYTHING]  # another rule, nothing left of the first
    other = Images(known, judge(known, scored, *evidence(changed, scored), CLASSES))[:]
    assert set(other["verdict"]) == {"ood", "unusable"}
    assert other["final_label"].isna().all()
    write(tmp_path, other)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_decided_the_manifest_takes_it(seed: int, tmp_path: Path):
    rng = np.random.default_rng(seed)
    rows = list(FILLER)
    for _ in range(60):
        label = CLASSES[rng.integers(3)]
        other = CLASSES[(CLASSES.index(label) + rng.integers(1, 3)) % 3]
        kept = int(rng.choice([i for i, r in enumerate(rows) if r["copy_of"] is None and r["label"]
                               and r["file"] == Status.OK]))  # fmt: skip
        rows.append([
            row(label), row(label, "relabeled", other), row(label, "ood"), row(label, copy_of=kept),
            row(None, status=Status.UNLABELED), row(label, file=Status.EMPTY),
            row(label, copy_of=kept, kind="near"),
        ][rng.integers(7)])  # fmt: skip
    images = judged(*rows)
    assert len(write(tmp_path, images)) == len(rows)


def test_classes_add_up():
    images = judged(*EVERYTHING)
    classes = classes_table(table(EVERYTHING).verdicts, NOISE).set_index("label")
    parts = classes[["clean", "relabeled_away", "ood", "unusable"]].sum(axis=1)
    assert (parts == classes["images"]).all()
    assert classes["images"].sum() == images["given_label"].notna().sum()
    relabeled = (images["verdict"] == "relabeled").sum()
    assert classes["relabeled_away"].sum() == classes["relabeled_into"].sum() == relabeled
    assert classes["ood"].sum() == (images["verdict"] == "ood").sum()
    assert classes.loc["dog", ["noise_rate", "noise_low", "noise_high"]].tolist() == [0.1, 0.05, 0.2]


def test_a_class_of_which_nothing_is_usable_has_no_noise_rate():
    images = table([row("cat"), row("dog"), row("owl", file=Status.EMPTY)])
    (owl,) = classes_table(images.verdicts, NOISE).query("label == 'owl'").to_dict("records")
    assert (owl["images"], owl["unusable"]) == (1, 1)
    assert pd.isna(owl["noise_rate"])


def test_epochs_keep_their_stage_and_order():
    records = [EpochRecord(t, 1 / t, None, 1, 0, 0, 1e-3, 0.5) for t in (1, 2)]
    table = epochs_table({"train": records, "classifier": records[:1]})
    assert table[["stage", "epoch"]].to_numpy().tolist() == [["train", 1], ["train", 2], ["classifier", 1]]
    assert set(table.columns) == set(dict_of_columns("epochs"))
    assert set(epochs_table({"train": []}).columns) == set(dict_of_columns("epochs"))


def test_a_run_says_how_it_was_made():
    started = datetime.now(UTC)
    table = runs_table(Settings(source=Path("crawl"), seed=7), Path("root"), "f00d", started, NOISE)
    assert set(table.columns) == set(dict_of_columns("runs"))
    (made,) = table.to_dict("records")
    assert made["seed"] == 7
    assert made["fingerprint"] == "f00d"
    assert made["schema_version"] == schema.SCHEMA_VERSION
    assert "f00d" in made["run_id"]
    assert made["seconds"] >= 0
    assert '"source": "crawl"' in made["settings"]
    assert '"torch"' in made["versions"]


# --- the transition matrix ------------------------------------------------------------------------------------------


def test_the_transition_matrix_says_how_each_true_class_was_labelled():
    flow = np.array([[80, 20, 0], [0, 50, 0], [0, 0, 0.001], [5, 5, 0]])
    table = transition_table(flow, CLASSES)
    found = {(t, g): (n, p) for t, g, n, p in table.itertuples(index=False)}
    assert found[("cat", "cat")] == (80, 0.8)
    assert found[("cat", "dog")] == (20, 0.2)
    assert found[(None, "dog")] == (5, 0.5)
    assert ("owl", "owl") not in found  # a thousandth of an image is none
    assert table["images"].sum() == 160


# --- some rows at a time --------------------------------------------------------------------------------------------


def everything(folder: Path) -> list[Images]:
    """The same table twice: of samples and facts, and of a manifest."""
    of_crawl = table(EVERYTHING)
    write(folder, of_crawl)
    known, (_, scored) = Written(folder), facts(EVERYTHING)
    return [of_crawl, Images(known, judge(known, scored, *evidence(EVERYTHING, scored), CLASSES))]


@pytest.mark.parametrize("size", [1, 3, 7])
def test_some_rows_at_a_time_are_those_of_all_at_once(size: int, tmp_path: Path) -> None:
    for images in everything(tmp_path):
        whole = plain(images[:])
        parts = [plain(images[first : first + size]) for first in range(0, len(images), size)]
        assert [row for part in parts for row in part] == whole
        some = np.array([2, 3, 7, 17])
        assert plain(images.take(some)) == [whole[i] for i in some]
    assert plain(images[5:5]) == []


def plain(frame: pd.DataFrame) -> list[tuple]:
    return [*frame.astype(object).where(frame.notna(), None).itertuples(index=False)]


def test_a_manifest_knows_what_the_crawl_knew(tmp_path: Path) -> None:
    one, other = (images.known for images in everything(tmp_path))
    assert other.kept.tolist() == one.kept.tolist()
    assert [other.labels[i] if i >= 0 else None for i in other.given] == [row["label"] for row in EVERYTHING]
    ids = ["3.png", "0.png", "no such thing"]
    assert other.rows_of(ids) == one.rows_of(ids) == {"3.png": 3, "0.png": 0}
    rows = np.arange(len(EVERYTHING))
    assert plain(other.take(rows)) == plain(one.take(rows))


def test_notes_are_added_to_those_that_are_there() -> None:
    images = table(EVERYTHING)
    noted = Images(images.known, images.verdicts, [{1: "changed", 4: "changed"}, {4: "another"}])
    assert noted[:]["note"].tolist()[:5] == [None, "changed", None, None, "changed; another"]
    assert noted.take(np.array([1, 4]))["note"].tolist() == ["changed", "changed; another"]


def test_a_table_is_written_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "whole", judged(*EVERYTHING))
    monkeypatch.setattr("cleanweb.frames._PART", 4)
    pd.testing.assert_frame_equal(write(tmp_path / "parts", table(EVERYTHING)), whole)
    one, other = (tmp_path / name / "manifest.csv" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()

"""Everything a benchmark reports, held against numbers worked out by hand; and what must hold of any verdicts."""

import json

import numpy as np
import pandas as pd
import pytest

from cleanweb import manifest
from cleanweb.bench.metrics import ESTIMATES, judge, judge_estimates
from cleanweb.schema import TABLES

# path, given, verdict, suggested, final, p_clean, p_id, p_ood, confidence, duplicate_of; the truth, if any
BY_HAND = [
    ("a", "cat", "clean", None, "cat", 0.9, 0.05, 0.05, 0.9, None, "cat"),
    ("b", "cat", "clean", None, "cat", 0.8, 0.1, 0.1, 0.8, None, "dog"),
    ("c", "dog", "relabeled", "cat", "cat", 0.1, 0.8, 0.1, 0.95, None, "cat"),
    ("d", "dog", "relabeled", "cat", "cat", 0.2, 0.7, 0.1, 0.6, None, "dog"),
    ("e", "dog", "ood", None, None, 0.1, 0.2, 0.7, 0.7, None, ""),
    ("f", "cat", "ood", None, None, 0.1, 0.2, 0.7, 0.7, None, "dog"),
    ("g", "cat", "unusable", None, None, None, None, None, None, None, "cat"),
    ("h", "cat", "clean", None, "cat", 0.9, 0.05, 0.05, 0.9, None, None),
    ("i", "cat", "clean", None, "cat", 0.9, 0.05, 0.05, 0.9, "a", "cat"),
]
COLUMNS = ["path", "given_label", "verdict", "suggested_label", "final_label", "p_clean", "p_id", "p_ood", "confidence",
           "duplicate_of"]  # fmt: skip


def tables(rows: list[tuple]) -> tuple[pd.DataFrame, pd.DataFrame]:
    images = pd.DataFrame([row[:-1] for row in rows], columns=COLUMNS, dtype=object)
    truth = pd.DataFrame([(row[0], row[-1]) for row in rows if row[-1] is not None], columns=["path", "truth"])
    return images, truth


def test_by_hand():
    found = judge(*tables(BY_HAND))
    verdicts = found.pop("verdicts")
    assert verdicts["clean"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "found": 3, "true": 3})
    assert verdicts["relabeled"] == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 3, "f1": 0.4, "found": 2, "true": 3}
    )
    assert verdicts["ood"] == pytest.approx({"precision": 1 / 2, "recall": 1, "f1": 2 / 3, "found": 2, "true": 1})
    assert found == pytest.approx(
        {
            "images": 7,
            "unusable": 1,
            "copies": 1,
            "without_truth": 1,
            "macro_f1": (2 / 3 + 0.4 + 2 / 3) / 3,
            "kept_clean": 3 / 7,
            "auroc_clean": 11 / 12,
            "ap_clean": (1 + 1 + 3 / 4) / 3,
            "auroc_ood": 5.5 / 6,
            "ap_ood": 1 / 2,
            "suggested": 2,
            "suggested_right": 1 / 2,
            "suggested_surely": 1,
            "suggested_surely_right": 1.0,
            "ece_clean": 2.1 / 7,
            "noise_rate": 1 - 2.2 / 6,
            "true_noise_rate": 4 / 6,
            "class_noise_error": (4 / 15 + 1 / 5) / 2,
        }
    )


def test_numbers_are_plain_and_the_order_of_rows_does_not_matter():
    images, truth = tables(BY_HAND)
    found = judge(images, truth)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    shuffled = judge(images.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=2))
    assert shuffled.pop("verdicts") == found.pop("verdicts")
    assert shuffled == pytest.approx(found)


def test_a_manifest_read_from_disk_is_judged_alike(tmp_path):
    images, truth = tables(BY_HAND)
    stored = images.reindex(columns=[name for name, _, _ in TABLES["images"]])
    stored = stored.assign(sample_id=stored["path"], status="ok", needs_review=False)
    stored["duplicate_kind"] = np.where(stored["duplicate_of"].isna(), None, "exact")
    others = {name: pd.DataFrame(columns=[c for c, _, _ in TABLES[name]]) for name in TABLES if name != "images"}
    manifest.write(tmp_path, {"images": stored, **others})
    (tmp_path / "truth.csv").write_text(truth.to_csv(index=False))
    read = judge(manifest.read(tmp_path, "images"), pd.read_csv(tmp_path / "truth.csv"))  # empty cells become NaN
    expected = judge(images, truth)
    assert read.pop("verdicts") == expected.pop("verdicts")
    assert read == pytest.approx(expected, abs=1e-6)


def random_rows(seed: int, n: int = 400) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A run that knows everything."""
    rng = np.random.default_rng(seed)
    names = np.array(["x", "y", "z"], dtype=object)
    true = rng.choice([*names, ""], n)
    given = rng.choice(names, n)
    verdict = np.where(true == "", "ood", np.where(true == given, "clean", "relabeled"))
    images = pd.DataFrame({"path": np.arange(n).astype(str), "given_label": given, "verdict": verdict,
                           "confidence": 1.0, "suggested_label": np.where(verdict == "relabeled", true, None),
                           "final_label": np.where(verdict == "ood", None, true), "duplicate_of": None,
                           "p_clean": 1.0 * (verdict == "clean"), "p_ood": 1.0 * (verdict == "ood")})  # fmt: skip
    return images, pd.DataFrame({"path": images["path"], "truth": true})


@pytest.mark.parametrize("seed", range(3))
def test_who_knows_everything_is_perfect(seed: int):
    found = judge(*random_rows(seed))
    ones = ("macro_f1", "auroc_clean", "ap_clean", "auroc_ood", "ap_ood", "suggested_right", "suggested_surely_right")
    assert [found[name] for name in ones] == [1] * len(ones)
    assert [found[name] for name in ("ece_clean", "class_noise_error")] == [0, 0]
    assert found["noise_rate"] == found["true_noise_rate"]


def test_a_probability_that_holds_what_it_says_is_calibrated():
    images, truth = random_rows(0, 30_000)
    rng = np.random.default_rng(1)
    p = rng.random(len(images))
    images = images.assign(given_label="x", verdict="clean", p_clean=p)
    found = judge(images, truth.assign(truth=np.where(rng.random(len(images)) < p, "x", "y")))
    assert found["ece_clean"] < 0.02
    overconfident = judge(images.assign(p_clean=1.0), truth.assign(truth=np.where(p < 0.3, "x", "y")))
    assert overconfident["ece_clean"] == pytest.approx(1 - (p < 0.3).mean())


def test_verdicts_that_do_not_exist_in_the_truth_do_not_count():
    images, truth = random_rows(0)
    kept = (truth["truth"] == images["given_label"]).to_numpy()
    clean = judge(images[kept], truth[kept])
    assert clean["macro_f1"] == 1
    assert clean["verdicts"]["ood"] == {"precision": None, "recall": None, "f1": None, "found": 0, "true": 0}
    assert clean["auroc_clean"] is clean["ap_ood"] is clean["suggested_right"] is None
    missed = judge(images[kept].assign(verdict="ood", final_label=None), truth[kept])
    assert missed["macro_f1"] == 0


def test_nothing_to_judge_is_no_trouble():
    images, truth = random_rows(0)
    for found in (judge(images, truth[:0]), judge(images.assign(verdict="unusable", p_clean=None), truth)):
        assert found["images"] == 0
        assert found["macro_f1"] is found["ece_clean"] is found["noise_rate"] is found["kept_clean"] is None
        assert json.dumps(found, allow_nan=False)


def test_images_without_probabilities_are_ranked_nowhere():
    images, truth = random_rows(0)
    images.loc[::2, ["p_clean", "p_ood"]] = np.nan
    found = judge(images, truth)
    assert found["images"] == len(images)
    assert found["auroc_clean"] == found["auroc_ood"] == 1


def test_a_truth_that_contradicts_itself_is_refused():
    images, truth = tables(BY_HAND)
    with pytest.raises(ValueError, match="unique"):
        judge(images, pd.concat([truth, truth.assign(truth="dog")]))


def estimates(noise: dict[str, tuple[float, float, float]], flow: list[tuple]) -> dict[str, pd.DataFrame]:
    """The tables of a run on `BY_HAND`, whose kept pictures are wrong in 4 of 6 cases, 2 of 3 a class."""
    names = ("noise_rate", "noise_low", "noise_high")
    return {
        "images": tables(BY_HAND)[0],
        "runs": pd.DataFrame([noise.pop("")], columns=names),
        "classes": pd.DataFrame([(label, *rates) for label, rates in noise.items()], columns=("label", *names)),
        "transition_matrix": pd.DataFrame(flow, columns=("true_label", "given_label", "p_given")),
    }


def test_estimates_by_hand():
    truth = tables(BY_HAND)[1]
    # a cat·cat  b cat·dog  c dog·cat  d dog·dog  e dog·none  f cat·dog
    flow = [("cat", "cat", 0.5), ("cat", "dog", 0.5), ("dog", "cat", 0.5), ("dog", "dog", 0.5), (None, "dog", 0.5)]
    found = judge_estimates(estimates({"": (0.5, 0.4, 0.6), "cat": (0.6, 0.5, 0.7), "dog": (0.1, 0, 0.2)}, flow), truth)
    assert found == pytest.approx(
        {
            "noise_low": 0.4,
            "noise_high": 0.6,
            "noise_held": False,  # the true rate is 4 of 6
            "class_noise_held": 1 / 2,
            # truth: cat (1/2, 1/2), dog (2/3, 1/3), none (0, 1)
            "transition_error": (0 + 0 + 1 / 6 + 1 / 6 + 0 + 1 / 2) / 6,
        }
    )
    assert tuple(found) == ESTIMATES
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_run_that_tells_no_noise_rate_is_neither_right_nor_wrong():
    nothing = (np.nan, np.nan, np.nan)
    told = estimates({"": nothing, "cat": nothing, "dog": nothing}, [("cat", "cat", 1.0), ("dog", "dog", 1.0)])
    found = judge_estimates(told, tables(BY_HAND)[1])
    assert (found["noise_low"], found["noise_high"], found["noise_held"]) == (None, None, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_run_that_estimates_what_is_true_is_right():
    truth = tables(BY_HAND)[1]
    flow = [("cat", "cat", 1 / 2), ("cat", "dog", 1 / 2), ("dog", "cat", 2 / 3), ("dog", "dog", 1 / 3), ("", "dog", 1)]
    third = (2 / 3, 0.6, 0.7)
    found = judge_estimates(estimates({"": third, "cat": third, "dog": third}, flow), truth)
    assert (found["noise_held"], found["class_noise_held"]) == (True, 1)
    assert found["transition_error"] == pytest.approx(0)

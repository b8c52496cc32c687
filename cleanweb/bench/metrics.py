"""Verdicts held against the truth: everything a benchmark reports of one run, as plain numbers.

Takes the manifest's images and a table of truths, gives a dict that is ready for JSON. None stands where a number has
no meaning (no such image, only one kind of image). Never reads a file.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

VERDICTS = ("clean", "relabeled", "ood")
SURE = 0.9  # confidence from which suggestions are counted apart
_BINS = 15  # Guo et al. 2017


def judge(images: pd.DataFrame, truth: pd.DataFrame) -> dict[str, object]:
    """How right a run's verdicts are.

    images: the manifest's images table. truth: path, and truth, the true label, empty where the image is of no class;
    text, one row per path. Images without a truth are counted and left out, unusable ones too. Copies are judged as the
    rows of the crawl they are, except for the noise rates, which the product reads off the kept pictures alone.
    """
    truth = truth[["path", "truth"]].fillna("")
    rows = images.merge(truth, on="path", how="left", validate="many_to_one")
    known = rows["path"].isin(truth["path"]).to_numpy()
    usable = (rows["verdict"] != "unusable").to_numpy()
    judged = rows[known & usable].assign(actual=_actual).reset_index(drop=True)
    verdicts = {name: _retrieval(judged["verdict"] == name, judged["actual"] == name) for name in VERDICTS}
    f1 = [verdicts[name]["f1"] for name in VERDICTS if (judged["actual"] == name).any()]
    return {
        "images": len(judged),
        "unusable": int((known & ~usable).sum()),
        "copies": int(judged["duplicate_of"].notna().sum()),
        "without_truth": int((~known).sum()),
        "verdicts": verdicts,
        "macro_f1": _mean(f1),
        "kept_clean": _mean(judged["verdict"] == "clean"),
        **_ranking(judged, "clean"),
        **_ranking(judged, "ood"),
        **_suggestions(judged),
        "ece_clean": _calibration_error(judged),
        **_noise_rates(judged[judged["duplicate_of"].isna()]),
    }


ESTIMATES = ("noise_low", "noise_high", "noise_held", "class_noise_held", "transition_error")


def judge_estimates(tables: Mapping[str, pd.DataFrame], truth: pd.DataFrame) -> dict[str, object]:
    """How right a run is about the crawl as a whole, by the keys `ESTIMATES`.

    tables: the manifest's, by name. The noise rate's interval; whether it holds the true rate of the kept pictures,
    and the share of classes whose interval holds theirs; the mean absolute error of P(given label | true class) over
    the classes that are there, and over the images of none. None where the run tells no rate.
    """
    kept = tables["images"].merge(truth[["path", "truth"]].fillna(""), on="path")
    kept = kept[kept["duplicate_of"].isna() & kept["p_clean"].notna()]
    wrong = kept["truth"] != kept["given_label"]
    run, classes = tables["runs"].iloc[0], tables["classes"].set_index("label")
    by_class = wrong.groupby(kept["given_label"]).mean()
    bounds = classes.loc[by_class.index]
    true = pd.crosstab(kept["truth"], kept["given_label"], normalize="index")
    flow = tables["transition_matrix"].fillna({"true_label": ""})
    estimated = flow.pivot(index="true_label", columns="given_label", values="p_given")
    estimated = estimated.reindex(index=true.index, columns=true.columns).fillna(0.0)
    told = bool(pd.notna(run["noise_low"]))  # not where nothing can be judged
    low, high = float(run["noise_low"]), float(run["noise_high"])
    return {
        "noise_low": low if told else None,
        "noise_high": high if told else None,
        "noise_held": bool(low <= wrong.mean() <= high) if told else None,
        "class_noise_held": _mean((bounds["noise_low"] <= by_class) & (by_class <= bounds["noise_high"])),
        "transition_error": float(np.abs(estimated - true).to_numpy().mean()),
    }


def _actual(rows: pd.DataFrame) -> np.ndarray:
    """The verdict that would have been right: (n,) of text."""
    right = rows["truth"] == rows["given_label"]
    return np.where(rows["truth"] == "", "ood", np.where(right, "clean", "relabeled"))


def _retrieval(found: pd.Series, true: pd.Series) -> dict[str, float | None]:
    """found, true (n,) bool → precision, recall, F1 and the two counts."""
    hits, n_found, n_true = int((found & true).sum()), int(found.sum()), int(true.sum())
    return {
        "precision": _ratio(hits, n_found),
        "recall": _ratio(hits, n_true),
        "f1": _ratio(2 * hits, n_found + n_true),
        "found": n_found,
        "true": n_true,
    }


def _ranking(judged: pd.DataFrame, name: str) -> dict[str, float | None]:
    """AUROC and average precision of p_clean for the truly clean, or of p_ood for the truly OOD."""
    p, true = _scored(judged, f"p_{name}", name)
    both = 0 < true.sum() < len(true)
    return {
        f"auroc_{name}": float(roc_auc_score(true, p)) if both else None,
        f"ap_{name}": float(average_precision_score(true, p)) if both else None,
    }


def _suggestions(judged: pd.DataFrame) -> dict[str, float | None]:
    """Of the images called relabeled: how many, and the share whose suggested label is the truth; and the same of those
    whose confidence is at least `SURE`."""
    called = judged["verdict"] == "relabeled"
    sure = called & (_numbers(judged["confidence"]) >= SURE)
    right = judged["suggested_label"] == judged["truth"]
    return {
        "suggested": int(called.sum()),
        "suggested_right": _mean(right[called]),
        "suggested_surely": int(sure.sum()),
        "suggested_surely_right": _mean(right[sure]),
    }


def _calibration_error(judged: pd.DataFrame) -> float | None:
    """Expected calibration error of p_clean, in [0, 1]: Σ_b n_b / n · |share clean − mean p_clean| over 15 bins b of
    equal width, each with its upper edge (Guo et al. 2017)."""
    p, true = _scored(judged, "p_clean", "clean")
    bins = np.clip(np.ceil(p * _BINS).astype(int) - 1, 0, _BINS - 1)
    return _ratio(float(np.abs(np.bincount(bins, true - p)).sum()), len(p))


def _noise_rates(kept: pd.DataFrame) -> dict[str, float | None]:
    """The estimated share of wrong labels, 1 − mean p_clean, beside the true one; and by given label the mean of the
    absolute differences, every class counting once."""
    p, true = _scored(kept, "p_clean", "clean")
    labels = kept.loc[kept["p_clean"].notna(), "given_label"]
    differences = pd.Series(p - true).groupby(labels.to_numpy()).mean()
    return {
        "noise_rate": _mean(1 - p),
        "true_noise_rate": _mean(~true),
        "class_noise_error": _mean(differences.abs()),
    }


def _scored(judged: pd.DataFrame, column: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (m,) of the rows that have one, and whether `name` is what those rows truly are, (m,) bool."""
    p = _numbers(judged[column])
    there = ~np.isnan(p)
    return p[there], (judged["actual"] == name).to_numpy()[there]


def _numbers(column: pd.Series) -> np.ndarray:
    """(n,) float64, NaN where there is none: a column straight from `tables.py` holds objects."""
    return pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)


def _mean(values: np.ndarray | pd.Series) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None

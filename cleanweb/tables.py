"""From samples, facts, scores and decisions to the manifest's tables. Every sample leaves here as exactly one row.

Torch-free: `retag` builds the same tables again from stored scores.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cleanweb import __version__
from cleanweb.records import UNVERIFIED, Decision, ImageFacts, Sample, Scores, Status, Verdict
from cleanweb.settings import Settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# what `judge` fills in; the rest of a row is known before anything is learned
_JUDGED = ("verdict", "suggested_label", "final_label", "p_clean", "p_id", "p_ood", "confidence", "needs_review",
           "reason", "js_clean", "view_disagreement", "p_given", "predicted_label", "p_predicted",
           "neighbour_agreement", "neighbour_similarity")  # fmt: skip
NOISE = ("noise_rate", "noise_low", "noise_high")
_LEAST_EXPECTED = 0.005  # images; what is less is left out of the transition matrix
_PROBABILITIES = ["p_clean", "p_id", "p_ood", "confidence"]


def facts_table(
    samples: Sequence[Sample], facts: Sequence[ImageFacts], kept: np.ndarray, kind: Sequence[str]
) -> pd.DataFrame:
    """One row per sample with all that is known before learning; the columns to be judged are empty. kept (n,): the
    index of each sample's kept copy."""
    rows = []
    for i, (sample, fact) in enumerate(zip(samples, facts, strict=True)):
        at_fault = fact.status if sample.status == Status.OK else sample.status
        rows.append({
            "sample_id": sample.sample_id,
            "path": sample.path,
            "status": str(at_fault),
            "error": fact.error or sample.note or None,
            "format": fact.format or None,
            "width": fact.width or None,
            "height": fact.height or None,
            "bytes": fact.bytes if fact.sha256 else None,
            "sha256": fact.sha256 or None,
            "phash": f"{fact.phash:016x}" if fact.pixel_digest else None,
            "duplicate_of": samples[kept[i]].sample_id if kind[i] else None,
            "duplicate_kind": kind[i] or None,
            "given_label": sample.given_label,
            "note": fact.note or None,
            "file": sample.file or None,
            "row_in_file": sample.row,
            "url": sample.url or None,
            "downloaded_sha256": sample.sha256 or None,
        })  # fmt: skip
    return pd.DataFrame(rows, dtype=object).assign(**dict.fromkeys(_JUDGED))


def with_notes(images: pd.DataFrame, words: Mapping[int, str]) -> pd.DataFrame:
    """The images table with these words added to the notes of these rows."""
    notes = list(images["note"])
    for row, said in words.items():
        notes[row] = f"{notes[row]}; {said}" if notes[row] else said
    return images.assign(note=pd.Series(notes, images.index, dtype=object))


def judge(
    images: pd.DataFrame, scored: np.ndarray, scores: Scores, decision: Decision, classes: Sequence[str]
) -> pd.DataFrame:
    """The images table with verdicts and evidence. scored (m,): the row of each of the m scored samples.

    Copies follow their kept copy; what was not scored is unusable, and says why.
    """
    images = images.astype(object).where(images.notna(), None).assign(**dict.fromkeys(_JUDGED))
    names = np.array([*classes, None], dtype=object)  # names[-1] is no class
    evidence = _evidence(scores, names)
    verdicts = np.array([str(v) for v in decision.verdict], dtype=object)
    suggested = names[decision.suggested]
    given = images["given_label"].to_numpy()[scored]
    judged = evidence | {
        "verdict": verdicts,
        "suggested_label": suggested,
        "final_label": np.where(verdicts == Verdict.CLEAN, given, suggested),
        "p_clean": decision.p_clean,
        "p_id": decision.p_id,
        "p_ood": decision.p_ood,
        "confidence": decision.confidence,
        "needs_review": decision.needs_review,
        "reason": np.array(decision.reason, dtype=object),
    }
    unlabeled = (scores.labels < 0) & (scores.verified == UNVERIFIED)
    for column, values in judged.items():
        values = np.asarray(values, dtype=object)
        if column not in evidence:
            values[unlabeled] = None
        images.iloc[scored, images.columns.get_loc(column)] = values
    _follow(images, scored, scores, list(classes))
    _explain_unusable(images)
    return images


def _evidence(scores: Scores, names: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.arange(len(scores.labels))
    known, k = scores.labels >= 0, scores.neighbours.shape[1]
    agreement = (scores.labels[scores.neighbours] == scores.labels[:, None]).mean(1) if k else np.full(len(rows), None)
    predicted = scores.probs.argmax(1)
    return {
        "js_clean": _where(known, scores.js_clean),
        "view_disagreement": scores.view_disagreement,
        "p_given": _where(known, scores.probs[rows, scores.labels]),
        "predicted_label": names[predicted],
        "p_predicted": scores.probs[rows, predicted],
        "neighbour_agreement": _where(known, agreement),
        "neighbour_similarity": scores.similarity.mean(1) if k else np.full(len(rows), None),
    }


def _where(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values, None where they are not known."""
    nothing = np.full(values.shape, None, dtype=object)
    return np.where(known, values, nothing)


def _follow(images: pd.DataFrame, scored: np.ndarray, scores: Scores, classes: list[str]) -> None:
    """Every copy takes the verdict on its picture; where its label differs from the kept copy's, that on its label."""
    row_of = {sample_id: row for row, sample_id in enumerate(images["sample_id"])}
    position = {int(row): i for i, row in enumerate(scored)}
    for row in np.flatnonzero(images["duplicate_of"].notna()):
        kept = row_of[images.at[row, "duplicate_of"]]
        if kept not in position or images.at[kept, "verdict"] is None or images.at[row, "given_label"] is None:
            continue
        i = position[kept]
        _copy_verdict(images, int(row), kept, scores.probs[i], classes)
        if scores.verified[i] != UNVERIFIED:  # then the copy's label is right or wrong for sure
            verdicts = (Verdict.CLEAN, Verdict.RELABELED, Verdict.OOD)
            for column, v in zip(("p_clean", "p_id", "p_ood"), verdicts, strict=True):
                images.at[row, column] = float(images.at[row, "verdict"] == v)


def _copy_verdict(images: pd.DataFrame, row: int, kept: int, probs: np.ndarray, classes: list[str]) -> None:
    for column in _JUDGED:
        images.at[row, column] = images.at[kept, column]
    given, kept_label, final = (
        images.at[row, "given_label"],
        images.at[kept, "given_label"],
        images.at[kept, "final_label"],
    )
    words = f"{images.at[row, 'duplicate_kind']} copy of {images.at[kept, 'sample_id']}"
    images.at[row, "reason"] = f"{words}: {images.at[kept, 'reason']}"
    if given == kept_label:
        return
    images.at[row, "reason"] = f"{words}, which was given {kept_label!r}: {images.at[kept, 'reason']}"
    if final is not None:
        same = given == final
        images.at[row, "verdict"] = str(Verdict.CLEAN if same else Verdict.RELABELED)
        images.at[row, "suggested_label"] = None if same else final
    own = probs[classes.index(given)] if given in classes else 0.0  # a label of copies alone is no class
    other = probs[classes.index(kept_label)]
    p_clean = float(images.at[kept, "p_id"] * own / max(1 - other, 1e-9))
    images.at[row, "p_given"] = own
    images.at[row, "p_clean"] = min(p_clean, 1 - images.at[kept, "p_ood"])
    images.at[row, "p_id"] = 1 - images.at[row, "p_clean"] - images.at[kept, "p_ood"]
    images.at[row, "js_clean"] = images.at[row, "neighbour_agreement"] = None  # those speak of the kept copy's label


def _explain_unusable(images: pd.DataFrame) -> None:
    rest = images["verdict"].isna()
    images.loc[rest, "verdict"] = str(Verdict.UNUSABLE)
    images.loc[rest, "needs_review"] = False
    for row in np.flatnonzero(rest):
        images.at[row, "reason"] = _why_unusable(images.loc[row])


def _why_unusable(row: pd.Series) -> str:
    if row["status"] in (Status.UNLABELED, Status.UNLISTED):
        words = row["error"] or "no label was given"
        seen = row["predicted_label"]
        return words if seen is None else f"{words}; the model sees {seen!r} ({row['p_predicted']:.0%})"
    return row["error"] or f"status {row['status']}"


def classes_table(images: pd.DataFrame, classes: Sequence[str], noise: np.ndarray) -> pd.DataFrame:
    """Counts and the estimated noise rate of every class, copies counted once each as rows of the crawl. noise
    (c + 1, 3) as in Decision: of pictures, copies not counted."""
    verdicts = images.groupby(["given_label", "verdict"], sort=False).size().to_dict()
    given, suggested = (images[column].value_counts().to_dict() for column in ("given_label", "suggested_label"))
    rows = []
    for label, (rate, low, high) in zip(classes, _where(~np.isnan(noise), noise), strict=False):
        rows.append({
            "label": label,
            "images": given.get(label, 0),
            "clean": verdicts.get((label, "clean"), 0),
            "relabeled_away": verdicts.get((label, "relabeled"), 0),
            "relabeled_into": suggested.get(label, 0),
            "ood": verdicts.get((label, "ood"), 0),
            "unusable": verdicts.get((label, "unusable"), 0),
            "noise_rate": rate,
            "noise_low": low,
            "noise_high": high,
        })  # fmt: skip
    return pd.DataFrame(rows)


def transition_table(flow: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """flow (c + 1, c) as in Decision: a row for every true and given class of which any image is expected."""
    shown, given = np.nonzero(flow >= _LEAST_EXPECTED)
    names = np.array([*classes, None], dtype=object)
    return pd.DataFrame({
        "true_label": pd.Series(names[shown], dtype=object),
        "given_label": names[given],
        "images": flow[shown, given],
        "p_given": flow[shown, given] / flow.sum(1)[shown],
    })  # fmt: skip


def reliability_table(reliability: np.ndarray) -> pd.DataFrame:
    """reliability (b, 4) as in Decision: a row for every tenth of p_clean of which people have seen any image."""
    frame = pd.DataFrame(reliability, columns=["p_from", "images", "p_clean", "share_right"])
    return frame.astype({"images": "int64"})


def epochs_table(stages: Mapping[str, Sequence["DataclassInstance"]]) -> pd.DataFrame:
    """stage → its epoch records, one row each."""
    columns = ["stage", "epoch", "loss", "tau", "n_clean", "n_id", "n_ood", "lr", "seconds"]
    rows = [{"stage": stage} | asdict(record) for stage, records in stages.items() for record in records]
    return pd.DataFrame(rows, columns=columns)


def runs_table(
    settings: Settings, root: Path, fingerprint: str, started: datetime, schema_version: int, noise: np.ndarray
) -> pd.DataFrame:
    """One row: how this manifest was made, and what the crawl is like. noise (c + 1, 3) as in Decision."""
    finished = datetime.now(UTC)
    libraries = ("torch", "torchvision", "timm", "pandas", "pillow", "duckdb", "numpy", "scikit-learn")
    versions = {"python": platform.python_version()} | {name: version(name) for name in libraries}
    row = {
        "run_id": f"{started:%Y%m%dT%H%M%S}-{fingerprint}",
        "started_at": started,
        "finished_at": finished,
        "source": str(settings.source),
        "labels": None if settings.labels is None else str(settings.labels),
        "root": str(root),
        "settings": json.dumps(settings.to_json(), sort_keys=True),
        "versions": json.dumps(versions),
        "target": None,
        **dict(zip(NOISE, noise[-1], strict=True)),
        "seed": settings.seed,
        "fingerprint": fingerprint,
        "seconds": (finished - started).total_seconds(),
        "cleanweb_version": __version__,
        "schema_version": schema_version,
    }
    return pd.DataFrame([row])

"""From samples, facts, scores and decisions to the manifest's tables. Every sample leaves here as exactly one row.

Torch-free: `retag` builds the same tables again from stored scores.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cleanweb import __version__
from cleanweb.records import UNVERIFIED, Decision, ImageFacts, Sample, Scores, Status, Verdict
from cleanweb.remote import Place
from cleanweb.settings import Settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# what `judge` fills in; the rest of a row is known before anything is learned
_JUDGED = ("verdict", "suggested_label", "final_label", "p_clean", "p_id", "p_ood", "confidence", "needs_review",
           "reason", "js_clean", "view_disagreement", "p_given", "predicted_label", "p_predicted",
           "neighbour_agreement", "neighbour_similarity")  # fmt: skip
_TEXTS = ("verdict", "suggested_label", "final_label", "reason", "predicted_label")  # of these
_FACTS = ("sample_id", "path", "status", "error", "format", "width", "height", "bytes", "sha256", "phash",
          "duplicate_of", "duplicate_kind", "given_label", "note", "file", "row_in_file", "url",
          "downloaded_sha256")  # fmt: skip
_WHOLE = ("width", "height", "bytes", "row_in_file")
_KNOWN = ("sample_id", "status", "error", "duplicate_of", "duplicate_kind", "given_label")  # what a verdict looks at
Columns = dict[str, np.ndarray]  # by name, (n,) each

NOISE = ("noise_rate", "noise_low", "noise_high")
_LEAST_EXPECTED = 0.005  # images; what is less is left out of the transition matrix
_PROBABILITIES = ["p_clean", "p_id", "p_ood", "confidence"]


def facts_table(
    samples: Sequence[Sample], facts: Sequence[ImageFacts], kept: np.ndarray, kind: Sequence[str]
) -> pd.DataFrame:
    """One row per sample with all that is known before learning; the columns to be judged are empty. kept (n,): the
    index of each sample's kept copy."""
    columns: dict[str, list[Any]] = {name: [] for name in _FACTS}
    adders = [column.append for column in columns.values()]
    for i, (sample, fact) in enumerate(zip(samples, facts, strict=True)):
        at_fault = fact.status if sample.status == Status.OK else sample.status
        row = (
            sample.sample_id,
            sample.path,
            at_fault.value,
            fact.error or sample.note or None,
            fact.format or None,
            fact.width or None,
            fact.height or None,
            fact.bytes if fact.sha256 else None,
            fact.sha256 or None,
            f"{fact.phash:016x}" if fact.pixel_digest else None,
            samples[kept[i]].sample_id if kind[i] else None,
            kind[i] or None,
            sample.given_label,
            fact.note or None,
            sample.file or None,
            sample.row,
            sample.url or None,
            sample.sha256 or None,
        )
        for add, value in zip(adders, row, strict=True):
            add(value)
    made = {name: _numbers(values) if name in _WHOLE else pd.Series(values, dtype=object)
            for name, values in columns.items()}  # fmt: skip
    return pd.DataFrame(made).assign(**dict.fromkeys(_JUDGED))


def _numbers(values: list[int | None]) -> pd.Series:
    """Whole numbers, some of them missing, in nine bytes each."""
    missing = np.array([value is None for value in values], bool)
    known = np.fromiter((value or 0 for value in values), np.int64, len(values))
    return pd.Series(pd.arrays.IntegerArray(known, missing))


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
    n, names = len(images), np.array([*classes, None], dtype=object)  # names[-1] is no class
    made: Columns = {name: np.full(n, np.nan, np.float32) for name in _JUDGED}
    made |= {name: np.full(n, None, object) for name in _TEXTS} | {"needs_review": np.zeros(n, bool)}
    known = {name: _texts(images[name]) for name in _KNOWN}
    for column, values in _evidence(scores, names).items():
        made[column][scored] = values
    verdicts = np.array([v.value for v in decision.verdict], dtype=object)
    suggested = names[decision.suggested]
    judged = {
        "verdict": verdicts,
        "suggested_label": suggested,
        "final_label": np.where(verdicts == Verdict.CLEAN, known["given_label"][scored], suggested),
        "p_clean": decision.p_clean,
        "p_id": decision.p_id,
        "p_ood": decision.p_ood,
        "confidence": decision.confidence,
        "needs_review": decision.needs_review,
        "reason": np.array(decision.reason, dtype=object),
    }
    asked = (scores.labels >= 0) | (scores.verified != UNVERIFIED)
    for column, values in judged.items():
        made[column][scored[asked]] = values[asked]
    _follow(known, made, scored, scores, list(classes))
    _explain_unusable(known, made)
    return images.assign(**{
        name: pd.Series(values, images.index, dtype=object if values.dtype == object else None)
        for name, values in made.items()
    })  # fmt: skip


def _texts(column: pd.Series) -> np.ndarray:
    """(n,) of texts, None where there is none."""
    return column.astype(object).where(column.notna(), None).to_numpy()


def _evidence(scores: Scores, names: np.ndarray) -> Columns:
    rows = np.arange(len(scores.labels))
    known, k = scores.labels >= 0, scores.neighbours.shape[1]
    nothing = np.full(len(rows), np.nan)
    agreeing = np.zeros(len(rows))
    for j in range(k):
        agreeing += scores.labels[scores.neighbours[:, j]] == scores.labels
    predicted = scores.probs.argmax(1)
    return {
        "js_clean": np.where(known, scores.js_clean, np.nan),
        "view_disagreement": scores.view_disagreement,
        "p_given": np.where(known, scores.probs[rows, scores.labels], np.nan),
        "predicted_label": names[predicted],
        "p_predicted": scores.probs[rows, predicted],
        "neighbour_agreement": np.where(known, agreeing / k, np.nan) if k else nothing,
        "neighbour_similarity": scores.similarity.mean(1) if k else nothing,
    }


def _where(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values, None where they are not known."""
    nothing = np.full(values.shape, None, dtype=object)
    return np.where(known, values, nothing)


def _follow(known: Columns, made: Columns, scored: np.ndarray, scores: Scores, classes: list[str]) -> None:
    """Every copy takes the verdict on its picture; where its label differs from the kept copy's, that on its label."""
    kept_id = known["duplicate_of"]
    wanted = {of for of in kept_id if of is not None}
    row_of = {sample_id: row for row, sample_id in enumerate(known["sample_id"]) if sample_id in wanted}
    position = np.full(len(kept_id), -1)
    position[scored] = np.arange(len(scored))
    for row in [row for row, of in enumerate(kept_id) if of is not None]:
        kept = row_of[kept_id[row]]
        i = position[kept]
        if i < 0 or made["verdict"][kept] is None or known["given_label"][row] is None:
            continue
        _copy_verdict(known, made, row, kept, scores.probs[i], classes)
        if scores.verified[i] != UNVERIFIED:  # then the copy's label is right or wrong for sure
            verdicts = (Verdict.CLEAN, Verdict.RELABELED, Verdict.OOD)
            for column, v in zip(("p_clean", "p_id", "p_ood"), verdicts, strict=True):
                made[column][row] = made["verdict"][row] == v


def _copy_verdict(known: Columns, made: Columns, row: int, kept: int, probs: np.ndarray, classes: list[str]) -> None:
    for values in made.values():
        values[row] = values[kept]
    given, kept_label, final = known["given_label"][row], known["given_label"][kept], made["final_label"][kept]
    words = f"{known['duplicate_kind'][row]} copy of {known['sample_id'][kept]}"
    made["reason"][row] = f"{words}: {made['reason'][kept]}"
    if given == kept_label:
        return
    made["reason"][row] = f"{words}, which was given {kept_label!r}: {made['reason'][kept]}"
    if final is not None:
        same = given == final
        made["verdict"][row] = (Verdict.CLEAN if same else Verdict.RELABELED).value
        made["suggested_label"][row] = None if same else final
    own = probs[classes.index(given)] if given in classes else 0.0  # a label of copies alone is no class
    other = probs[classes.index(kept_label)]
    p_id, p_ood = float(made["p_id"][kept]), float(made["p_ood"][kept])
    p_clean = min(p_id * own / max(1 - other, 1e-9), 1 - p_ood)
    made["p_given"][row], made["p_clean"][row], made["p_id"][row] = own, p_clean, 1 - p_clean - p_ood
    made["js_clean"][row] = made["neighbour_agreement"][row] = np.nan  # those speak of the kept copy's label


def _explain_unusable(known: Columns, made: Columns) -> None:
    for row in [row for row, verdict in enumerate(made["verdict"]) if verdict is None]:
        made["verdict"][row], made["needs_review"][row] = Verdict.UNUSABLE.value, False
        seen = made["predicted_label"][row], made["p_predicted"][row]
        made["reason"][row] = _why_unusable(known["status"][row], known["error"][row], *seen)


def _why_unusable(status: str, error: str | None, seen: str | None, p_seen: float) -> str:
    if status in (Status.UNLABELED, Status.UNLISTED):
        words = error or "no label was given"
        return words if seen is None else f"{words}; the model sees {seen!r} ({p_seen:.0%})"
    return error or f"status {status}"


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
    settings: Settings, root: Place, fingerprint: str, started: datetime, schema_version: int, noise: np.ndarray
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

"""From scores and a decision to the table images: every row of the crawl gets one verdict.

Verdicts are numbers, 59 bytes a row; the table itself, with its texts, is made of some rows at a time. Torch-free:
`retag` makes the same table again from stored scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cleanweb import scratch
from cleanweb.known import Known
from cleanweb.records import UNVERIFIED, Decision, Scores, Status, Verdict

_VERDICTS = [*Verdict]
_CLEAN, _RELABELED, _OOD, _UNUSABLE = range(len(_VERDICTS))
_NUMBERS = ("p_clean", "p_id", "p_ood", "confidence", "js_clean", "view_disagreement", "p_given", "p_predicted",
            "neighbour_agreement", "neighbour_similarity")  # fmt: skip
_LABELS = ("suggested_label", "final_label", "predicted_label")
_ROW = np.dtype([("verdict", "i1"), *((name, "<i4") for name in _LABELS), ("reason", "<i2"), ("needs_review", "?"),
                 *((name, "<f4") for name in _NUMBERS)])  # fmt: skip
_NOTHING = np.array((_UNUSABLE, *[-1] * len(_LABELS), -1, False, *[np.nan] * len(_NUMBERS)), _ROW)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is concluded of n rows, as numbers. Labels are places among `names`, −1 where there is none."""

    rows: np.ndarray  # (n,) of _ROW: verdict is a place among `Verdict`, reason one among `reasons`
    given: np.ndarray  # (n,) int32: the given label
    names: list[str]  # the classes, and then what other labels were given
    reasons: list[str]
    n_classes: int

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return self.names[: self.n_classes]

    def counts(self) -> dict[str, int]:
        """How many rows got each verdict."""
        found = np.bincount(self.rows["verdict"], minlength=len(_VERDICTS)).tolist()
        return dict(zip(map(str, _VERDICTS), found, strict=True))

    def count_of(self, reason: str) -> int:
        """How many rows have this reason."""
        return int((self.rows["reason"] == self.reasons.index(reason)).sum()) if reason in self.reasons else 0


def judge(known: Known, scored: np.ndarray, scores: Scores, decision: Decision, classes: Sequence[str]) -> Verdicts:
    """The verdict on every row, with its evidence. scored (m,): the row of each of the m scored samples.

    Copies follow their kept copy; what was not scored is unusable.
    """
    names = [*classes, *sorted(set(known.labels) - set(classes))]
    place = {name: i for i, name in enumerate(names)}
    given = np.array([*(place[label] for label in known.labels), -1], np.int32)[known.given]
    reasons = list(dict.fromkeys(decision.reason))
    rows = scratch.zeros(len(given), _ROW)
    rows[:] = _NOTHING
    for column, values in _evidence(scores).items():
        rows[column][scored] = values
    verdicts = _numbered(decision.verdict, _VERDICTS)
    judged = {
        "verdict": verdicts,
        "suggested_label": decision.suggested,
        "final_label": np.where(verdicts == _CLEAN, given[scored], decision.suggested),
        "p_clean": decision.p_clean,
        "p_id": decision.p_id,
        "p_ood": decision.p_ood,
        "confidence": decision.confidence,
        "needs_review": decision.needs_review,
        "reason": _numbered(decision.reason, reasons),
    }
    asked = (scores.labels >= 0) | (scores.verified != UNVERIFIED)
    for column, values in judged.items():
        rows[column][scored[asked]] = values[asked]
    made = Verdicts(rows, given, names, reasons, len(classes))
    _follow(made, known.kept, scored, scores)
    return made


def _numbered(words: Sequence[str], of: Sequence[str]) -> np.ndarray:
    place = {word: i for i, word in enumerate(of)}
    return np.fromiter((place[word] for word in words), np.int16, len(words))


def _evidence(scores: Scores) -> dict[str, np.ndarray]:
    rows = np.arange(len(scores.labels))
    known, k = scores.labels >= 0, scores.neighbours.shape[1]
    nothing, agreeing = np.float32(np.nan), np.zeros(len(rows), np.float32)
    for j in range(k):
        agreeing += scores.labels[scores.neighbours[:, j]] == scores.labels
    predicted = scores.probs.argmax(1)
    return {
        "js_clean": np.where(known, scores.js_clean, nothing),
        "view_disagreement": scores.view_disagreement,
        "p_given": np.where(known, scores.probs[rows, scores.labels], nothing),
        "predicted_label": predicted,
        "p_predicted": scores.probs[rows, predicted],
        "neighbour_agreement": np.where(known, agreeing / np.float32(k), nothing) if k else nothing,
        "neighbour_similarity": scores.similarity.mean(1) if k else nothing,
    }


def _follow(made: Verdicts, kept: np.ndarray, scored: np.ndarray, scores: Scores) -> None:
    """Every copy takes the verdict on its picture; where its label differs from the kept copy's, that on its label."""
    rows, given = made.rows, made.given
    position = np.full(len(rows), -1, np.int32)
    position[scored] = np.arange(len(scored))
    copies = np.flatnonzero(kept != np.arange(len(rows)))
    for row, of in zip(copies.tolist(), kept[copies].tolist(), strict=True):
        i = position[of]
        if i < 0 or rows["verdict"][of] == _UNUSABLE or given[row] < 0:
            continue
        rows[row] = rows[of]
        if given[row] != given[of]:
            _other_label(made, row, of, scores.probs[i])
        if scores.verified[i] != UNVERIFIED:  # then the copy's label is right or wrong for sure
            for verdict, column in enumerate(("p_clean", "p_id", "p_ood")):
                rows[column][row] = rows["verdict"][row] == verdict


def _other_label(made: Verdicts, row: int, kept: int, probs: np.ndarray) -> None:
    """The verdict on a copy that was given another label than the kept one; probs (c,) of their picture."""
    rows, given, final = made.rows, made.given[row], made.rows["final_label"][kept]
    if final >= 0:
        same = given == final
        rows["verdict"][row] = _CLEAN if same else _RELABELED
        rows["suggested_label"][row] = -1 if same else final
    own = probs[given] if given < made.n_classes else 0.0  # a label of copies alone is no class
    other = probs[made.given[kept]]
    p_id, p_ood = float(rows["p_id"][kept]), float(rows["p_ood"][kept])
    p_clean = min(p_id * own / max(1 - other, 1e-9), 1 - p_ood)
    rows["p_given"][row], rows["p_clean"][row], rows["p_id"][row] = own, p_clean, 1 - p_clean - p_ood
    rows["js_clean"][row] = rows["neighbour_agreement"][row] = np.nan  # those speak of the kept copy's label


# --- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Images:
    """The table images: `frames.Rows`."""

    known: Known
    verdicts: Verdicts
    notes: Sequence[Mapping[int, str]] = ()  # more of them, each by row

    def __len__(self) -> int:
        return len(self.verdicts.rows)

    def __getitem__(self, rows: slice) -> pd.DataFrame:
        return self.take(np.arange(len(self))[rows])

    def take(self, rows: np.ndarray) -> pd.DataFrame:
        """The rows of these numbers (m,), ascending."""
        made, verdicts = self.known.take(rows), self.verdicts
        of = verdicts.rows[rows]
        for column in _LABELS:
            made[column] = _texts(_named(verdicts.names, of[column]))
        made["verdict"] = _texts(_named([str(verdict) for verdict in _VERDICTS], of["verdict"]))
        for column in ("needs_review", *_NUMBERS):
            made[column] = of[column]
        made["reason"] = _texts(self._reasons(rows, of, made))
        made["note"] = self._notes(rows, made["note"])
        return made

    def _reasons(self, rows: np.ndarray, of: np.ndarray, made: pd.DataFrame) -> np.ndarray:
        reasons = _named(self.verdicts.reasons, of["reason"])
        unusable, kept = of["verdict"] == _UNUSABLE, self.known.kept[rows]
        told = made[["status", "error", "predicted_label"]][unusable].itertuples(index=False)
        for i, (status, error, seen) in zip(np.flatnonzero(unusable).tolist(), told, strict=True):
            reasons[i] = _why_unusable(status, _or_none(error), _or_none(seen), of["p_predicted"][i])
        given, names, copies = self.verdicts.given, self.verdicts.names, ~unusable & (kept != rows)
        told = made[["duplicate_kind", "duplicate_of"]][copies].itertuples(index=False)
        for i, (kind, picture) in zip(np.flatnonzero(copies).tolist(), told, strict=True):
            words, of_kept = f"{kind} copy of {picture}", given[kept[i]]
            if given[rows[i]] != of_kept:
                words += f", which was given {names[of_kept]!r}"
            reasons[i] = f"{words}: {reasons[i]}"
        return reasons

    def _notes(self, rows: np.ndarray, notes: pd.Series) -> pd.Series:
        said = notes.to_list()
        for more in self.notes:
            for i, row in enumerate(rows.tolist() if more else ()):
                if row in more:
                    said[i] = f"{said[i]}; {more[row]}" if _or_none(said[i]) else more[row]
        return pd.Series(said, dtype=object)


def _named(names: Sequence[str], places: np.ndarray) -> np.ndarray:
    return np.array([*names, None], object)[places]


def _texts(texts: np.ndarray) -> pd.Series:
    return pd.Series(texts, dtype=object)


def _or_none(text: object) -> str | None:
    return text if isinstance(text, str) else None


def _why_unusable(status: str, error: str | None, seen: str | None, p_seen: float) -> str:
    if status in (Status.UNLABELED, Status.UNLISTED):
        words = error or "no label was given"
        return words if seen is None else f"{words}; the model sees {seen!r} ({p_seen:.0%})"
    return error or f"status {status}"


def classes_table(verdicts: Verdicts, noise: np.ndarray) -> pd.DataFrame:
    """Counts and the estimated noise rate of every class, copies counted once each as rows of the crawl. noise
    (c + 1, 3) as in Decision: of pictures, copies not counted."""
    c, suggested = verdicts.n_classes, verdicts.rows["suggested_label"]
    counts = np.zeros((len(_VERDICTS), c), np.int64)
    for verdict in range(len(_VERDICTS)):
        counts[verdict] = _count(verdicts.given[verdicts.rows["verdict"] == verdict], c)
    rates = pd.DataFrame(noise[:c], columns=["noise_rate", "noise_low", "noise_high"])
    return pd.DataFrame({
        "label": pd.Series(verdicts.classes, dtype=object),
        "images": counts.sum(0),
        "clean": counts[_CLEAN],
        "relabeled_away": counts[_RELABELED],
        "relabeled_into": _count(suggested, c),
        "ood": counts[_OOD],
        "unusable": counts[_UNUSABLE],
        **rates,
    })  # fmt: skip


def _count(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """How often each class stands among these labels: (c,)."""
    return np.bincount(labels[labels >= 0], minlength=n_classes)[:n_classes]

"""The decision on every image, with what people have seen: in a table that they verified, in another run, in review.

Decisions taken in review that stand are verified labels, as those of a `--trusted` table are; but they stay rows of
`reviews`, apart from the stored scores, so that undoing one and `retag` bring back what is concluded without it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cleanweb import judging, manifest, verdict
from cleanweb.known import Known
from cleanweb.records import UNVERIFIED, Sample, Scores, Target
from cleanweb.remote import Place, Remote
from cleanweb.reviews import CHANGED, standing
from cleanweb.trusted import Seen, matched, read_trusted, trusted_classes


@dataclass(frozen=True, slots=True)
class Judged:
    """What is decided, what people decided, and what the crawl is like: the last three as in `Decision`, of which
    nothing else is kept."""

    verdicts: judging.Verdicts
    reviews: pd.DataFrame
    flow: np.ndarray
    noise: np.ndarray
    reliability: np.ndarray


def verified_labels(source: Place, samples: Sequence[Sample], root: Place) -> dict[int, str | None]:
    """Sample index → verified label, None for none of the classes; `source` is a table, or a run: its folder or
    manifest.duckdb. Raises UsageError where it and the crawl do not fit together."""
    if isinstance(source, Remote) or not (source.is_dir() or source.suffix == ".duckdb"):
        return read_trusted(source, samples, root)
    seen = [Seen(path, label, (file or "", row)) for path, label, file, row in standing(source)]
    return matched(source, seen, samples)


def heeded(people: dict[int, str | None], source: object) -> list[str]:
    """What to tell of verified labels: a line, or none where there are none."""
    return [f"{len(people):,} labels that people have verified are heeded, of {source}."] if people else []


def judged(
    known: Known,
    scored: np.ndarray,
    scores: Scores,
    classes: list[str],
    rule: dict[str, float] | None,
    target: Target | None = None,
    reviews: pd.DataFrame | None = None,
) -> Judged:
    """Decide, with what people decided in `reviews` as verified labels; and note in `reviews` what would be decided
    without, for undo. scored (m,): the row of each scored sample."""
    reviews = manifest.empty("reviews") if reviews is None else reviews
    alone = verdict.decide(scores, rule, target)
    without = judging.judge(known, scored, scores, alone, classes)
    seen = seen_classes(reviews, known, scored, classes)
    if (seen == UNVERIFIED).all():
        return Judged(without, reviews, alone.flow, alone.noise, alone.reliability)
    del alone
    heeding = heed(scores, seen)
    decision = verdict.decide(heeding, rule, target)
    reviews = _noting(reviews, judging.Images(known, without))
    verdicts = judging.judge(known, scored, heeding, decision, classes)
    return Judged(verdicts, reviews, decision.flow, decision.noise, decision.reliability)


def heed(scores: Scores, seen: np.ndarray) -> Scores:
    """The scores with these labels verified, over those that were."""
    return replace(scores, verified=np.where(seen == UNVERIFIED, scores.verified, seen))


def seen_classes(reviews: pd.DataFrame, known: Known, scored: np.ndarray, classes: list[str]) -> np.ndarray:
    """What people decided of the scored samples, as in Scores.verified: (m,)."""
    stand = reviews[reviews["undone_at"].isna()].sort_values("review_id")  # the last on a picture holds
    row_of = known.rows_of([*stand["sample_id"]])
    rows = [row_of[key] for key in stand["sample_id"]]
    labels = [None if pd.isna(label) else label for label in stand["label"]]
    last = {int(known.kept[row]): label for row, label in zip(rows, labels, strict=True)}
    return trusted_classes({row: last[int(known.kept[row])] for row in rows}, known.kept, scored, classes)


def _noting(reviews: pd.DataFrame, images: judging.Images) -> pd.DataFrame:
    """`reviews` with what `images`, made without them, says of each standing one's picture and its copies."""
    kept, stands = images.known.kept, reviews["undone_at"].isna()
    home = {key: int(kept[row]) for key, row in images.known.rows_of([*reviews.loc[stands, "sample_id"]]).items()}
    rows = np.flatnonzero(np.isin(kept, [*home.values()]))
    before: dict[int, dict[str, list[Any]]] = {picture: {} for picture in home.values()}
    told = images.take(rows)[["sample_id", *CHANGED]].itertuples(index=False)
    for row, (sample_id, *values) in zip(rows, told, strict=True):
        before[int(kept[row])][sample_id] = [_plain(value) for value in values]
    text = [json.dumps(before[home[key]]) if there else old
            for key, there, old in zip(reviews["sample_id"], stands, reviews["before"], strict=True)]  # fmt: skip
    return reviews.assign(before=pd.Series(text, reviews.index, dtype=object))


def _plain(value: object) -> object:
    value = value.item() if isinstance(value, np.generic) else value
    return None if value is None or value != value else value  # NaN is not itself

"""What people decided in review, carried over into a manifest that is written anew: by `retag`, or by `fit --fresh`.

Decisions that stand are verified labels, as those of a `--trusted` table are; but they stay rows of `reviews`, apart
from the stored scores, so that undoing one and `retag` bring back what is concluded without it.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cleanweb import atomic, manifest, tables, verdict
from cleanweb.errors import RunError
from cleanweb.records import UNVERIFIED, Decision, Sample, Scores, Target
from cleanweb.remote import Place, Remote
from cleanweb.reviews import CHANGED, standing
from cleanweb.runfolder import RunFolder
from cleanweb.trusted import matched, read_trusted, trusted_classes


@dataclass(frozen=True, slots=True)
class Judged:
    """The tables that a decision makes, with what people decided."""

    images: pd.DataFrame
    reviews: pd.DataFrame
    decision: Decision


def verified_labels(source: Place, samples: Sequence[Sample], root: Place) -> dict[int, str | None]:
    """Sample index → verified label, None for none of the classes; `source` is a table, or a run: its folder or
    manifest.duckdb. Raises UsageError where it and the crawl do not fit together."""
    if isinstance(source, Remote) or not (source.is_dir() or source.suffix == ".duckdb"):
        return read_trusted(source, samples, root)
    return matched(source, standing(source), samples)


def heeded(people: dict[int, str | None], source: object) -> list[str]:
    """What to tell of verified labels: a line, or none where there are none."""
    return [f"{len(people):,} labels that people have verified are heeded, of {source}."] if people else []


def judged(
    images: pd.DataFrame,
    scored: np.ndarray,
    scores: Scores,
    classes: list[str],
    rule: dict[str, float] | None,
    target: Target | None = None,
    reviews: pd.DataFrame | None = None,
) -> Judged:
    """Decide, with what people decided in `reviews` as verified labels; and note in `reviews` what would be decided
    without, for undo. scored (m,): the row of images of each scored sample."""
    reviews = nothing() if reviews is None else reviews
    alone = verdict.decide(scores, rule, target)
    without = tables.judge(images, scored, scores, alone, classes)
    seen = seen_classes(reviews, images, scored, classes)
    if (seen == UNVERIFIED).all():
        return Judged(without, reviews, alone)
    heeding = heed(scores, seen)
    decision = verdict.decide(heeding, rule, target)
    made = tables.judge(images, scored, heeding, decision, classes)
    return Judged(made, _noting(reviews, without), decision)


def heed(scores: Scores, seen: np.ndarray) -> Scores:
    """The scores with these labels verified, over those that were."""
    return replace(scores, verified=np.where(seen == UNVERIFIED, scores.verified, seen))


def seen_classes(reviews: pd.DataFrame, images: pd.DataFrame, scored: np.ndarray, classes: list[str]) -> np.ndarray:
    """What people decided of the scored samples, as in Scores.verified: (m,). images: sample_id and duplicate_of."""
    row_of = {sample_id: row for row, sample_id in enumerate(images["sample_id"])}
    kept = np.array([row if pd.isna(of) else row_of[of] for row, of in enumerate(images["duplicate_of"])])
    stand = reviews[reviews["undone_at"].isna()].sort_values("review_id")  # the last on a picture holds
    labels = [None if pd.isna(label) else label for label in stand["label"]]
    people = {row_of[key]: label for key, label in zip(stand["sample_id"], labels, strict=True)}
    last = {int(kept[row_of[key]]): label for key, label in zip(stand["sample_id"], labels, strict=True)}
    return trusted_classes({row: last[int(kept[row])] for row in people}, kept, scored, classes)


def _noting(reviews: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """`reviews` with what `images`, made without them, says of each standing one's picture and its copies."""
    picture = images["duplicate_of"].where(images["duplicate_of"].notna(), images["sample_id"])
    home = dict(zip(images["sample_id"], picture, strict=True))
    stands = reviews["undone_at"].isna()
    wanted = {home[key] for key in reviews.loc[stands, "sample_id"]}
    rows = images[picture.isin(wanted)]
    before: dict[str, dict[str, list[Any]]] = {key: {} for key in wanted}
    for sample_id, *values in rows[["sample_id", *CHANGED]].itertuples(index=False):
        before[home[sample_id]][sample_id] = [_plain(value) for value in values]
    text = [json.dumps(before[home[key]]) if there else old
            for key, there, old in zip(reviews["sample_id"], stands, reviews["before"], strict=True)]  # fmt: skip
    return reviews.assign(before=pd.Series(text, reviews.index, dtype=object))


def _plain(value: object) -> object:
    value = value.item() if isinstance(value, np.generic) else value
    return None if value is None or value != value else value  # NaN is not itself


def nothing() -> pd.DataFrame:
    """The table of no decisions."""
    return manifest.empty("reviews")


# --- a run in place of another --------------------------------------------------------------------------------------


def remember(folder: RunFolder, copy: Path) -> None:
    """Copy the manifest that is to be replaced, where people have decided in it: what a run learns from must not change
    while it lasts, whatever is decided meanwhile."""
    if _has_reviews(folder):
        manifest.settle(folder.path)
        with atomic.writing(copy) as draft:
            shutil.copyfile(folder.manifest, draft)


def _has_reviews(folder: RunFolder) -> bool:
    try:
        return folder.manifest.exists() and len(manifest.read(folder.path, "reviews")) > 0
    except RunError:  # damaged: to replace it is what the user was told to do
        return False


def set_aside(folder: RunFolder) -> None:
    """Keep the manifest that is to be replaced, where people have decided in it, until a new one holds what they did:
    `folder.earlier`. Nothing is lost where the run that replaces it is interrupted."""
    if _has_reviews(folder):
        manifest.settle(folder.path)
        _keep(folder)
        folder.manifest.replace(folder.earlier)


def over(earlier: Path, samples: Sequence[Sample], root: Place, classes: Sequence[str]) -> pd.DataFrame:
    """The decisions taken in the manifest `earlier`, if there is one, that hold for this crawl: of the same folder,
    path and classes."""
    if not earlier.exists():
        return nothing()
    reviews = manifest.read(earlier, "reviews")
    if manifest.read(earlier, "runs")["root"].iloc[0] != str(root):
        return reviews.head(0)
    known = reviews["label"].isna() | reviews["label"].isin(list(classes))
    return reviews[reviews["sample_id"].isin({sample.sample_id for sample in samples}) & known]


def done(folder: RunFolder, reviews: pd.DataFrame) -> list[str]:
    """Drop what was set aside, now that a manifest holds `reviews`; gives what to tell, a line each."""
    if not folder.earlier.exists():
        return []
    left = len(manifest.read(folder.earlier, "reviews")) - len(reviews)
    audits = manifest.read(folder.earlier, "audits")
    stand = int(reviews["undone_at"].isna().sum())
    words = [f"{stand:,} decisions that people took in review were carried over, as verified labels."] if stand else []
    if audits["answer"].notna().any():
        words.append("The audit spoke of verdicts that are no more, and is gone; cleanweb audit draws a new one.")
    if not left:
        folder.earlier.unlink()
        return words
    return [*words, f"{left:,} decisions of people do not fit this crawl; they are kept in {_keep(folder)}."]


def _keep(folder: RunFolder) -> Path | None:
    """Give what is set aside a name of its own."""
    if not folder.earlier.exists():
        return None
    names = (folder.path / f"earlier-{n}.duckdb" for n in range(1, 10_000))
    return folder.earlier.rename(next(name for name in names if not name.exists()))

"""What people decided in review, carried over into the run that takes the place of theirs (`fit --fresh`).

The old manifest stands aside until the new one holds what they did: nothing is lost where that is interrupted.
"""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cleanweb import atomic, manifest
from cleanweb.errors import RunError
from cleanweb.records import Sample
from cleanweb.remote import Place
from cleanweb.runfolder import RunFolder


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
    path and classes; and of the same place, where several pictures have one path."""
    if not earlier.exists():
        return manifest.empty("reviews")
    reviews = manifest.read(earlier, "reviews")
    if manifest.read(earlier, "runs")["root"].iloc[0] != str(root):
        return reviews.head(0)
    known = reviews["label"].isna() | reviews["label"].isin(list(classes))
    return reviews[reviews["sample_id"].isin(_still_there(earlier, reviews, samples)) & known]


def _still_there(earlier: Path, reviews: pd.DataFrame, samples: Sequence[Sample]) -> set[str]:
    """The sample_ids of the reviewed pictures that still mean the same."""
    sql = "SELECT DISTINCT i.sample_id, i.file, i.row_in_file FROM images i JOIN reviews USING (sample_id)"
    _, rows = manifest.query(earlier, sql)
    was = {sample_id: (file or "", row) for sample_id, file, row in rows}
    paths = set(reviews["path"])
    places: dict[str, set[tuple[str, int | None]]] = defaultdict(set)
    there: dict[str, Sample] = {}
    for sample in samples:
        if sample.path in paths:
            places[sample.path].add((sample.file, sample.row))
        if sample.sample_id in was:
            there[sample.sample_id] = sample
    return {key for key, s in there.items() if len(places[s.path]) == 1 or (s.file, s.row) == was[key]}


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

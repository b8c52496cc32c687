"""Which pictures an audit asks: drawn at random from those with each verdict, mixed, and stored in the table audits."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from cleanweb import manifest
from cleanweb.audit import Audit, latest, now, state
from cleanweb.audit.intervals import allocate
from cleanweb.audit.statement import JUDGED
from cleanweb.errors import CrawlError, UsageError
from cleanweb.runfolder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

N = 200  # ± 3 to 8 points for the verdicts on the sample crawl (560 pictures)
# The judged pictures with their verdicts as they were at some time, before what people have decided since.
_PICTURES = f"""SELECT sample_id, row, path, given_label, coalesce(old_verdict, verdict)::VARCHAR AS verdict,
        if(old_verdict IS NULL, final_label, old_label) AS claimed_label
    FROM (SELECT *, row_number() OVER (ORDER BY rowid) - 1 AS row FROM numbered_images)
    LEFT JOIN (SELECT sample_id, old_verdict, old_label FROM reviews WHERE decided_at >= ?
               QUALIFY row_number() OVER (PARTITION BY sample_id ORDER BY review_id) = 1) USING (sample_id)
    WHERE duplicate_of IS NULL AND coalesce(old_verdict, verdict) IN {JUDGED} ORDER BY sample_id"""
_NEXT = """SELECT 1 + coalesce(max(audit_id), 0) FROM
    (SELECT audit_id FROM audits UNION ALL SELECT audit_id FROM reviews)"""


def go_on(run: Path, n: int | None = None, seed: int | None = None) -> Audit:
    """The audit that was drawn last, with more pictures where it has less than n; a new one where there is none, or
    none of this seed. Errors as in `draw` and `extend`."""
    last = latest(run)
    if last is None or seed not in (None, last.seed):
        return draw(run, n or N, seed or 0)
    return extend(run, last, n) if n is not None and n > len(last.rows) else last


def draw(run: Path, n: int = N, seed: int = 0) -> Audit:
    """Draw a new audit of about n pictures, and store it. Raises CrawlError where nothing was judged, RunError where
    there is no run."""
    at = now()
    pictures = _judged(run, at)
    if pictures.empty:
        raise CrawlError(f"No picture of {run} is clean, relabeled or ood: there is nothing to audit.")
    with manifest.attached(run) as con:  # decisions may tell of audits of an earlier run
        [(number,)] = con.execute(_NEXT).fetchall()
    _store(run, pictures, _chosen(pictures, n, seed), {"audit_id": number, "drawn_at": at, "seed": seed})
    return state(run, number)


def extend(run: Path, audit: Audit, n: int) -> Audit:
    """Draw more pictures into an audit, up to about n, as if it had begun with n. Raises UsageError where retag has
    decided again since: then they would not be of the same verdicts."""
    pictures, drawn = _judged(run, audit.drawn_at), audit.rows["verdict"].value_counts()
    chosen, there = _chosen(pictures, n, audit.seed, drawn), set(audit.rows["sample_id"])
    sizes = audit.rows.groupby("verdict")["stratum"].first()
    if not there <= set(chosen) or (pictures["verdict"].value_counts().reindex(sizes.index) != sizes).any():
        raise UsageError(f"Verdicts have been decided again since audit {audit.audit_id} was drawn: more pictures "
                         f"would not be of the same ones. Draw a new audit with --seed {audit.seed + 1}.")  # fmt: skip
    new = [sample_id for sample_id in chosen if sample_id not in there]
    head = {"audit_id": audit.audit_id, "drawn_at": audit.drawn_at, "seed": audit.seed}
    _store(run, pictures, new, head, len(audit.rows))
    return state(run, audit.audit_id)


def _judged(run: Path, at: datetime) -> "pd.DataFrame":
    with manifest.attached(run) as con:
        return con.execute(_PICTURES, [at]).df()


def _chosen(pictures: "pd.DataFrame", n: int, seed: int, drawn: Mapping[str, int] = MappingProxyType({})) -> list[str]:
    """The sample_ids of n pictures in random order. More of the same seed, or at least so many, contain the fewer."""
    of = [pictures.loc[pictures["verdict"] == verdict, "sample_id"].to_numpy() for verdict in JUDGED]
    sizes = allocate(n, [len(own) for own in of])
    chosen: list[str] = []
    for i, (verdict, own, size) in enumerate(zip(JUDGED, of, sizes, strict=True)):
        mixed = np.random.default_rng([seed, i]).permutation(own)
        chosen += mixed[: max(size, drawn.get(verdict, 0))].tolist()
    return np.random.default_rng([seed, len(JUDGED)]).permutation(np.array(chosen, dtype=object)).tolist()


def _store(
    run: Path, pictures: "pd.DataFrame", chosen: Sequence[str], head: Mapping[str, object], first: int = 0
) -> None:
    """head: what all rows have in common. first: the position of the first."""
    rows = pictures.set_index("sample_id").loc[list(chosen)].reset_index()
    rows["stratum"] = rows["verdict"].map(pictures["verdict"].value_counts())
    rows["position"] = range(first, first + len(rows))
    rows["offered_first"], rows["offered_second"] = zip(*_offered(run, rows), strict=True) if len(rows) else ([], [])
    rows = rows.assign(**head)
    names = ["audit_id", "drawn_at", "seed", "position", "sample_id", "path", "verdict", "given_label", "claimed_label",
             "offered_first", "offered_second", "stratum"]  # fmt: skip
    values = rows[names].astype(object).where(rows[names].notna(), None).to_numpy().tolist()
    with manifest.changing(run) as con:
        for row in values:
            con.execute(f"INSERT INTO audits ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", row)


def _offered(run: Path, rows: "pd.DataFrame") -> list[tuple[str, str]]:
    """For each picture the given label and the best other class, the suggested one where there is one: in alphabetical
    order."""
    scored, scores, classes, _ = RunFolder(run).load_scores()
    place = {int(row): i for i, row in enumerate(scored)}
    offered = []
    for row, given, claimed in rows[["row", "given_label", "claimed_label"]].itertuples(index=False):
        best = [classes[i] for i in np.argsort(-scores.probs[place[row]], kind="stable")]
        known = [label for label in (given, claimed, *best) if isinstance(label, str)]
        first, second = sorted(list(dict.fromkeys(known))[:2], key=lambda label: (label.casefold(), label))
        offered.append((first, second))
    return offered

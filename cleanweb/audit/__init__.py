"""How far can the verdicts be trusted? A random sample of them, judged by a person who does not see them.

From the pictures with each verdict (copies not counted) some are drawn at random, and put into one random order. The
person is asked which class a picture shows, and is offered the given label and the model's best other class in
alphabetical order: neither order nor offer betrays the verdict. `statement.py` says what the answers show.

The table audits of the manifest keeps the pictures with their verdicts as drawn: what people, audits or `retag` decide
later does not change what an audit says. Every answer is a person's decision, too, and is stored as one (`reviews.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanweb import manifest
from cleanweb.audit.statement import CLASS, JUDGED, NONE, UNSURE, findings
from cleanweb.errors import UsageError
from cleanweb.records import VERIFIED
from cleanweb.reviews import CHANGED

if TYPE_CHECKING:
    import pandas as pd

ROWS = "SELECT * REPLACE (verdict::VARCHAR AS verdict) FROM audits WHERE audit_id = ?"
_OF_AUDIT = {
    "audits": ROWS,
    "images": "SELECT i.sample_id, i.verdict::VARCHAR AS verdict, i.final_label, i.reason FROM images i "
              "JOIN audits USING (sample_id) WHERE audit_id = ?",
    "reviews": "SELECT r.* FROM reviews r JOIN audits USING (sample_id) WHERE audits.audit_id = ?",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person sees: a class, none of them, or not to be told."""

    kind: str  # CLASS, NONE or UNSURE
    label: str | None = None  # the class


@dataclass(frozen=True, slots=True)
class Audit:
    """The pictures that were drawn, in the order they are asked, and what has been answered."""

    rows: "pd.DataFrame"  # of the table audits
    changed_by_people: int  # of its verdicts: read otherwise now, by somebody's decision
    changed_by_retag: int  # or by a later retag

    @property
    def audit_id(self) -> int:
        return int(self.rows["audit_id"].iloc[0])

    @property
    def drawn_at(self) -> datetime:
        """When its first pictures were drawn, UTC, without a time zone as the manifest has it."""
        return self.rows["drawn_at"].iloc[0].to_pydatetime()

    @property
    def seed(self) -> int:
        return int(self.rows["seed"].iloc[0])

    def count(self, *kinds: str) -> int:
        """How many pictures were answered so."""
        return int(self.rows["answer"].isin(kinds).sum())

    @property
    def unanswered(self) -> int:
        return int(self.rows["answer"].isna().sum())

    def strata(self) -> dict[str, tuple[int, int]]:
        """verdict → how many pictures were drawn, of how many."""
        of = {verdict: self.rows[self.rows["verdict"] == verdict] for verdict in JUDGED}
        return {verdict: (len(own), int(own["stratum"].iloc[0])) for verdict, own in of.items() if len(own)}

    def to_json(self) -> dict[str, object]:
        """The statement, for programs."""
        return {
            "audit_id": self.audit_id,
            "drawn_at": f"{self.drawn_at.isoformat()}Z",
            "seed": self.seed,
            "drawn": len(self.rows),
            "judged": self.count(CLASS, NONE),
            "cannot_tell": self.count(UNSURE),
            "unanswered": self.unanswered,
            "changed_by_people": self.changed_by_people,
            "changed_by_retag": self.changed_by_retag,
            "strata": {verdict: {"drawn": n, "pictures": of} for verdict, (n, of) in self.strata().items()},
            "findings": {found.name: found.to_json() for found in findings(self.rows)},
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The statement, for people."""
        return [*self.head(), "", *(found.line() for found in findings(self.rows)), "", *self.caveats()]

    def head(self) -> list[str]:
        """What was asked, and how far it has been answered."""
        drawn = ", ".join(f"{n:,} of {of:,} {verdict}" for verdict, (n, of) in self.strata().items())
        answered = f"{self.count(CLASS, NONE):,} of {len(self.rows):,} pictures judged"
        rest = f", {self.count(UNSURE):,} cannot be told" * bool(self.count(UNSURE))
        rest += f", {self.unanswered:,} not answered yet" * bool(self.unanswered)
        when = f"{self.drawn_at:%Y-%m-%d %H:%M} UTC with seed {self.seed}"
        return [f"Audit {self.audit_id}, drawn {when}: {answered}{rest}.", f"Drawn at random: {drawn}."]

    def caveats(self) -> list[str]:
        """What the figures speak of, and of what no more."""
        pictures = "These figures are of the verdicts as they were drawn, and of pictures: copies are not counted."
        words = [f"{pictures} Each interval holds for itself."]
        changed = {"people": self.changed_by_people, "retag": self.changed_by_retag}
        if by := " and ".join(f"{n:,} by {whom}" for whom, n in changed.items() if n):
            words.append(f"Of the {len(self.rows):,} verdicts drawn, some have been changed since: {by}.")
        if self.changed_by_retag:
            words.append(f"This is an audit of an older decision: --seed {self.seed + 1} draws a new one.")
        return words


def last(run: Path) -> Audit:
    """The audit that was drawn last. Raises UsageError where there was none, RunError where there is no manifest."""
    found = latest(run)
    if found is None:
        raise UsageError(f"No audit of {run} has been drawn. Draw one with cleanweb audit.")
    return found


def latest(run: Path) -> Audit | None:
    """The audit that was drawn last; None where there was none. Raises RunError where there is no manifest."""
    _, rows = manifest.query(run, "SELECT max(audit_id) FROM audits")
    (found,) = next(rows)
    return None if found is None else state(run, found)


def state(run: Path, audit_id: int) -> Audit:
    """What is known of one audit. Raises UsageError where there is none of that number."""
    with manifest.attached(run) as con:
        found = {name: con.execute(sql, [audit_id]).df() for name, sql in _OF_AUDIT.items()}
    if found["audits"].empty:
        raise UsageError(f"There is no audit {audit_id}: see SELECT DISTINCT audit_id FROM audits.")
    return _last_of(found)


def _last_of(tables: Mapping[str, "pd.DataFrame"]) -> Audit:
    audits, reviews = tables["audits"], tables["reviews"]
    rows = audits[audits["audit_id"] == audits["audit_id"].max()].sort_values("position", ignore_index=True)
    images = tables["images"].set_index("sample_id").loc[rows["sample_id"]]
    now, drawn = _claims(images["verdict"], images["final_label"]), _claims(rows["verdict"], rows["claimed_label"])
    by_people = (images["reason"] == VERIFIED).tolist()
    stands = reviews[reviews["undone_at"].isna()].sort_values("review_id").drop_duplicates("sample_id", keep="last")
    stands = stands[stands["decided_at"] >= rows["drawn_at"].iloc[0]].set_index("sample_id")["before"]
    without = {key: _without(json.loads(text)[key]) for key, text in stands.items()}
    keys = rows["sample_id"]
    return Audit(
        rows,
        sum(people and a != b for people, a, b in zip(by_people, now, drawn, strict=True)),
        sum(without.get(key, b if people else a) != b
            for key, people, a, b in zip(keys, by_people, now, drawn, strict=True)),
    )  # fmt: skip


def _claims(verdicts: "pd.Series", labels: "pd.Series") -> list[tuple[str, str | None]]:
    return [(v, label if isinstance(label, str) else None) for v, label in zip(verdicts, labels, strict=True)]


def _without(values: list[Any]) -> tuple[str, str | None]:
    """What was said of a picture without people's decisions: its verdict and label, of `reviews.CHANGED`."""
    row = dict(zip(CHANGED, values, strict=True))
    return row["verdict"], row["final_label"]


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)

"""What people decided of single images: rows of the manifest's table `reviews`, and the verdicts that follow.

A decision is one transaction: its row, and the rows of `images` of the picture and all its copies, say the same at any
moment. It is on disk when the call returns. It holds for the picture; of several on one picture the last that stands
counts. Undoing one brings back the one before, or what `images` would say without any.

Takes the run folder; opens the manifest for some milliseconds. A million images: 20 ms of one core a decision, 75 where
they are in no order of their names.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cleanweb import manifest
from cleanweb.database import Connection
from cleanweb.errors import UsageError
from cleanweb.records import UNREADABLE, VERIFIED, Verdict
from cleanweb.schema import CHANGED as CHANGED
from cleanweb.schema import TABLES

_TYPES = {table: {name: sql_type.split()[0] for name, sql_type, _ in TABLES[table]} for table in ("images", "reviews")}
_FACTS = ("sample_id", "path", "status", "given_label", "duplicate_of", "duplicate_kind")
# Where names are some of ?. By their numbers a few of a million rows are read; without, whole columns.
NAMED = "rowid IN (SELECT rowid FROM numbered_images WHERE sample_id IN (SELECT unnest(?::VARCHAR[])))"
_ROWS = f"SELECT {', '.join((*_FACTS, *CHANGED))} FROM numbered_images WHERE {NAMED}"
# The decisions that hold: of those on a picture and its copies the last that stands.
LAST = """SELECT reviews.*, coalesce(duplicate_of, sample_id) AS picture FROM reviews JOIN images USING (sample_id)
    WHERE undone_at IS NULL QUALIFY row_number() OVER (PARTITION BY picture ORDER BY review_id DESC) = 1"""
CURRENT = f"""SELECT i.sample_id, review_id, who, decided_at, label, audit_id
    FROM images i JOIN ({LAST}) r ON coalesce(i.duplicate_of, i.sample_id) = r.picture"""


@dataclass(frozen=True, slots=True)
class Done:
    """What an action has done."""

    review_ids: list[int]  # the decisions, one per sample
    changed: list[str]  # sample_ids of all rows of images that may read otherwise now, copies too
    conflicts: list[str]  # sample_ids left as they are: they are not what the person saw


@dataclass(frozen=True, slots=True)
class Standing:
    """The decision that holds for a sample."""

    review_id: int
    who: str | None
    decided_at: datetime  # UTC
    label: str | None  # None: none of the classes
    audit_id: int | None


def decide(
    run: Path,
    sample_ids: Sequence[str],
    verdict: str,
    label: str | None = None,
    who: str = "",
    audit_id: int | None = None,
    seen: Mapping[str, str] | None = None,
) -> Done:
    """Store that a person has found these images `clean` (of `label`, or of the one each was given), `relabeled` (of
    the class `label`) or `ood`. Where `label` is the given one the verdict is clean, else it is relabeled.

    seen: the `mark` of each sample as the person saw it; what has changed since is left alone and told. Raises
    UsageError, and does nothing, for what is no class, no sample, or no picture that can be used.
    """
    if verdict not in (Verdict.CLEAN, Verdict.RELABELED, Verdict.OOD):
        raise UsageError(f"{verdict!r} cannot be decided: an image is clean, relabeled or ood.")
    if (verdict == Verdict.OOD and label is not None) or (verdict == Verdict.RELABELED and label is None):
        raise UsageError("A relabeled image needs a label, and one that is ood has none.")

    def label_of(row: Mapping[str, Any]) -> object:
        if verdict == Verdict.OOD or label is not None:
            return label
        if row["given_label"] is None:
            raise UsageError(f"{row['path']} was given no label that could be right.")
        return row["given_label"]

    return _decide(run, sample_ids, label_of, _Action(who, audit_id, seen))


def accept(
    run: Path,
    sample_ids: Sequence[str],
    who: str = "",
    audit_id: int | None = None,
    seen: Mapping[str, str] | None = None,
) -> Done:
    """Store that a person has found the verdicts on these images right, as they are. Otherwise as `decide`."""

    def label_of(row: Mapping[str, Any]) -> object:
        if row["verdict"] == Verdict.UNUSABLE:
            raise UsageError(f"{row['path']} has no verdict that could be right: give it a label, or none.")
        return row["final_label"]

    return _decide(run, sample_ids, label_of, _Action(who, audit_id, seen))


def undo(run: Path, review_ids: Iterable[int]) -> Done:
    """Take decisions back; those that are taken back already stay so. Then an earlier decision on the picture holds
    again, or what `images` says without any."""
    with manifest.changing(run) as con:
        undone = con.execute("SELECT review_id, sample_id, before FROM reviews WHERE undone_at IS NULL AND review_id "
                             "IN (SELECT unnest(?::BIGINT[])) ORDER BY 1", [list(review_ids)]).fetchall()  # fmt: skip
        ids = [review_id for review_id, _, _ in undone]
        con.execute("UPDATE reviews SET undone_at = ? WHERE review_id IN (SELECT unnest(?::BIGINT[]))", [_now(), ids])
        home = _pictures(con, [sample_id for _, sample_id, _ in undone])
        before = {home[sample_id].kept: text for _, sample_id, text in undone if sample_id in home}
        new = {
            key: home[key].decided(home[key].label) if home[key].standing else _stored(t) for key, t in before.items()
        }
        changed = [row for rows in new.values() for row in rows]
        _update(con, changed)
    return Done(ids, [row[0] for row in changed], [])


def current(run: Path) -> dict[str, Standing]:
    """The decision that holds for each sample on which, or on a copy of which, anybody has decided. Raises RunError
    where there is no manifest."""
    with manifest.attached(run) as con:
        return {row[0]: Standing(*row[1:]) for row in con.execute(CURRENT).fetchall()}


def standing(run: Path) -> list[tuple[str, str | None, str | None, int | None]]:
    """Path and label (None: none of the classes) of every picture on which a decision stands, and the file it lies in
    and where."""
    sql = f"SELECT l.path, l.label, file, row_in_file FROM ({LAST}) l JOIN images USING (sample_id) ORDER BY review_id"
    with manifest.attached(run) as con:
        return con.execute(sql).fetchall()


def mark(review_id: int | None, verdict: str, final_label: str | None) -> str:
    """What a person sees of a sample, to be given back with the decision: the decision that stands, and the verdict."""
    return f"{review_id or 0}|{verdict}|{final_label or ''}"


# --- pictures -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Picture:
    """The rows of images of a picture and its copies, and the decision that stands."""

    kept: str  # sample_id
    rows: dict[str, dict[str, Any]]  # by sample_id
    standing: int = 0  # review_id
    label: str | None = None  # of that decision
    before: str | None = None  # what images would say without any, JSON, where one stands

    def decided(self, label: str | None) -> list[tuple[Any, ...]]:
        """Its rows where it shows `label`: sample_id and `CHANGED`; the same as `retag` makes of a verified label."""
        given = self.rows[self.kept]["given_label"]
        return [_verified(row, given, label) for row in self.rows.values()]

    def undecided(self) -> str:
        rows = {key: [row[name] for name in CHANGED] for key, row in self.rows.items()}
        return json.dumps(rows) if self.before is None else self.before


def _pictures(con: Connection, sample_ids: Sequence[str]) -> dict[str, _Picture]:
    """sample_id → its picture, for these samples and all copies of theirs."""
    kept = con.execute("SELECT DISTINCT coalesce(duplicate_of, sample_id) FROM images WHERE sample_id IN "
                       "(SELECT unnest(?::VARCHAR[]))", [list(sample_ids)]).fetchall()  # fmt: skip
    keys = [key for (key,) in kept]
    copies = con.execute("SELECT sample_id FROM images WHERE duplicate_of IN (SELECT unnest(?::VARCHAR[]))", [keys])
    rows = _rows(con, keys + [key for (key,) in copies.fetchall()])
    pictures = {row["sample_id"]: _Picture(row["sample_id"], {}) for row in rows if row["duplicate_of"] is None}
    for row in rows:
        pictures[row["duplicate_of"] or row["sample_id"]].rows[row["sample_id"]] = row
    home = {sample_id: picture for picture in pictures.values() for sample_id in picture.rows}
    standing = con.execute("SELECT sample_id, review_id, label, before FROM reviews WHERE undone_at IS NULL AND "
                           "sample_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY review_id", [list(home)])  # fmt: skip
    for sample_id, *decision in standing.fetchall():
        picture = home[sample_id]
        picture.standing, picture.label, picture.before = decision
    return home


def _rows(con: Connection, sample_ids: Sequence[str]) -> list[dict[str, Any]]:
    found = con.execute(_ROWS, [list(sample_ids)]).fetchall()
    return [dict(zip((*_FACTS, *CHANGED), values, strict=True)) for values in found]


def _verified(row: Mapping[str, Any], given_to_kept: object, label: str | None) -> tuple[Any, ...]:
    given, suggested = row["given_label"], None
    verdict = Verdict.OOD if label is None else Verdict.CLEAN
    if label is not None and label != given:
        verdict, suggested = Verdict.RELABELED, label
    p = [float(verdict == v) for v in (Verdict.CLEAN, Verdict.RELABELED, Verdict.OOD)]
    words = VERIFIED
    if row["duplicate_of"] is not None:
        other = "" if given == given_to_kept else f", which was given {given_to_kept!r}"
        words = f"{row['duplicate_kind']} copy of {row['duplicate_of']}{other}: {VERIFIED}"
    return (row["sample_id"], str(verdict), suggested, label, *p, 1.0, False, words)


def _stored(before: str | None) -> list[tuple[Any, ...]]:
    return [(sample_id, *values) for sample_id, values in json.loads(before or "{}").items()]


# --- writing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Action:
    who: str
    audit_id: int | None
    seen: Mapping[str, str] | None

    def conflicts(self, picture: _Picture, row: Mapping[str, Any]) -> bool:
        now = mark(picture.standing, row["verdict"], row["final_label"])
        return self.seen is not None and self.seen.get(row["sample_id"]) != now


def _decide(
    run: Path, sample_ids: Sequence[str], label_of: Callable[[Mapping[str, Any]], object], action: _Action
) -> Done:
    with manifest.changing(run) as con:
        classes = {label for (label,) in con.execute("SELECT label FROM classes").fetchall()}
        home = _pictures(con, sample_ids)
        [(number,)] = con.execute("SELECT coalesce(max(review_id), 0) FROM reviews").fetchall()
        labels: dict[str, str | None] = {}  # of the pictures, by their kept copies
        rows, conflicts, now = [], [], _now()
        for sample_id in dict.fromkeys(sample_ids):
            if sample_id not in home:
                raise UsageError(f"There is no sample {sample_id!r}.")
            picture, row = home[sample_id], home[sample_id].rows[sample_id]
            label = _allowed(row, label_of(row), classes)
            if action.conflicts(picture, row) or labels.setdefault(picture.kept, label) != label:
                conflicts.append(sample_id)  # changed by others, or decided otherwise with a copy of it
                continue
            verdict = _verified(row, None, label)[1]
            number += 1
            rows.append((number, now, action.who or None, sample_id, row["path"], row["verdict"], row["final_label"],
                         verdict, label, action.audit_id, None, picture.undecided()))  # fmt: skip
        changed = [row for key, label in labels.items() for row in home[key].decided(label)]
        _insert(con, rows)
        _update(con, changed)
    return Done([row[0] for row in rows], [row[0] for row in changed], conflicts)


def _allowed(row: Mapping[str, Any], label: object, classes: set[str]) -> str | None:
    if row["status"] in UNREADABLE:
        raise UsageError(f"{row['path']} cannot be used: {row['status']}. Nothing can be decided of it.")
    if label is not None and label not in classes:
        raise UsageError(f"{label!r} is none of the {len(classes)} classes.")
    return label


def _insert(con: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        con.execute(f"INSERT INTO reviews SELECT {_columns('reviews', _TYPES['reviews'])}", _turned(rows))


def _update(con: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Set `CHANGED` in these rows of images: (sample_id, *values) each."""
    if rows:
        new, names = ", ".join(f"{name} = new.{name}" for name in CHANGED), ("sample_id", *CHANGED)
        if manifest.in_parts(con):
            con.execute(f"INSERT OR REPLACE INTO image_changes SELECT {_columns('images', names)}", _turned(rows))
            return
        con.execute(f"UPDATE images SET {new} FROM (SELECT {_columns('images', names)}) AS new "
                    "WHERE images.sample_id = new.sample_id", _turned(rows))  # fmt: skip


def _columns(table: str, names: Iterable[str]) -> str:
    return ", ".join(f"unnest(?::{_TYPES[table][name]}[]) AS {name}" for name in names)


def _turned(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)

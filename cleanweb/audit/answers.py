"""What a person answers in an audit: stored in the table audits, and as decisions of that person."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

from cleanweb import manifest, reviews
from cleanweb.audit import ROWS, Answer, now
from cleanweb.audit.statement import CLASS, NONE, findings
from cleanweb.errors import UsageError
from cleanweb.records import Verdict


def answer(run: Path, audit_id: int, answers: Mapping[str, Answer | None], who: str = "") -> None:
    """Store what a person saw in pictures of an audit, by sample_id, in place of what was answered before; None takes
    an answer back. A class, or none, is stored as a decision of that person, too. Raises UsageError for what is no
    class, and for pictures that were not drawn."""
    with manifest.held_to_change(run):
        _answer(run, audit_id, answers, who)


def _answer(run: Path, audit_id: int, answers: Mapping[str, Answer | None], who: str) -> None:
    drawn, classes, earlier = _known(run, audit_id, list(answers))
    if strange := [sample_id for sample_id in answers if sample_id not in drawn]:
        raise UsageError(f"{strange[0]} is not in audit {audit_id}.")
    shown = {given.label for given in answers.values() if given is not None and given.kind == CLASS}
    if shown - classes:
        raise UsageError(f"{next(iter(shown - classes))!r} is none of the {len(classes)} classes.")
    groups: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for sample_id, given in answers.items():
        groups[("", None) if given is None else (given.kind, given.label)].append(sample_id)
    for (kind, label), sample_ids in groups.items():
        if kind in (CLASS, NONE):
            verdict = Verdict.OOD if kind == NONE else Verdict.RELABELED  # of the given label: decide makes it clean
            reviews.decide(run, sample_ids, str(verdict), label, who, audit_id)
    if earlier:
        reviews.undo(run, earlier)
    with manifest.changing(run) as con:
        at = now()
        for (kind, label), sample_ids in groups.items():
            con.execute(
                "UPDATE audits SET answer = ?, shown_label = ?, answered_at = ?, who = ? WHERE audit_id = ? AND "
                "sample_id IN (SELECT unnest(?::VARCHAR[]))",
                [kind or None, label, at if kind else None, who or None if kind else None, audit_id, sample_ids],
            )
        rows = con.execute(ROWS, [audit_id]).df()
        con.execute("DELETE FROM audit_findings WHERE audit_id = ?", [audit_id])
        for found in findings(rows, plan=False):
            con.execute("INSERT INTO audit_findings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [
                audit_id, found.name, *astuple(found.estimate), found.pictures, found.seen, found.unknown])  # fmt: skip


def _known(run: Path, audit_id: int, sample_ids: list[str]) -> tuple[set[str], set[str | None], list[int]]:
    """Which of these pictures were drawn, the classes, and the decisions that answers to them have been so far."""
    of_these = "WHERE audit_id = ? AND sample_id IN (SELECT unnest(?::VARCHAR[]))"
    questions = {
        f"SELECT sample_id FROM audits {of_these}": [audit_id, sample_ids],
        "SELECT label FROM classes": [],
        f"SELECT review_id FROM reviews {of_these} AND undone_at IS NULL": [audit_id, sample_ids],
    }
    with manifest.attached(run) as con:
        drawn, classes, earlier = ([value for (value,) in con.execute(sql, values).fetchall()]
                                   for sql, values in questions.items())  # fmt: skip
    return set(drawn), set(classes), earlier

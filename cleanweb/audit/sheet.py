"""An audit without a browser: a table of the drawn pictures for a person to fill in, and its answers.

The column `label` takes a class, nothing for "none of the classes", or ? for "cannot tell", which stands there at
first. The sheet says nothing of the verdicts.
"""

from importlib import import_module
from pathlib import Path

import pandas as pd

from cleanweb import manifest, spreadsheet, writers
from cleanweb.audit import Answer, Audit, answers, last
from cleanweb.audit.statement import CLASS, NONE, UNSURE
from cleanweb.errors import CrawlError, UsageError
from cleanweb.readers import READERS, absolute
from cleanweb.remote import place, refuse_inside

CANNOT_TELL = "?"


def write(run: Path, audit: Audit, out: Path) -> None:
    """Write the drawn pictures as CSV, in the order they are asked, with what was answered. Raises UsageError where
    something is at `out` or it lies inside the crawl, MachineError where it cannot be written."""
    refuse_inside(out, place(manifest.read(run, "runs")["root"].iloc[0]), "--sheet")
    if out.exists():
        raise UsageError(f"{out} exists and is not overwritten. Give another --sheet.")
    rows = audit.rows
    label = rows["shown_label"].astype(object).where(rows["answer"].isin([CLASS, NONE]), CANNOT_TELL)
    with writers.draft(out) as file, file.open("w", encoding="utf-8", newline="") as stream:
        columns = ["path", "label", "offered_first", "offered_second"]
        table = rows.assign(label=label, path=_names(rows))
        spreadsheet.write(columns, zip(*(writers.values(table[name]) for name in columns), strict=True), stream)


def _names(rows: pd.DataFrame) -> "pd.Series[str]":
    """The path of each drawn picture; its sample_id where two of them have one path."""
    return rows["path"].where(~rows["path"].duplicated(keep=False), rows["sample_id"])


def take(run: Path, table: Path, who: str = "") -> Audit:
    """Store what the table answers to the audit that was drawn last; gives that. A ? takes no answer away: it is what
    stands in a sheet at first. Errors as in `read`."""
    drawn = last(run)
    there = set(drawn.rows["sample_id"][drawn.rows["answer"].isin([CLASS, NONE])])
    said = read(run, drawn, table).items()
    new = {sample_id: answer for sample_id, answer in said if answer != Answer(UNSURE) or sample_id not in there}
    answers.answer(run, drawn.audit_id, new, who)
    return last(run)


def read(run: Path, audit: Audit, table: Path) -> dict[str, Answer]:
    """sample_id → what the table answers. Raises UsageError where it does not fit the audit, CrawlError where it cannot
    be read."""
    table = Path(absolute(table))
    if not table.is_file():
        raise CrawlError(f"Nothing found at {table}: looked for the answers there. Check the spelling.")
    rows = import_module(READERS["table"]).listed(table, place(manifest.read(run, "runs")["root"].iloc[0]))
    classes = set(manifest.read(run, "classes")["label"])
    sample_of = dict(zip(_names(audit.rows), audit.rows["sample_id"], strict=True))
    found: dict[str, Answer] = {}
    for row in rows:
        if row.path not in sample_of:
            raise UsageError(f"{table} names {row.path}, which is not in audit {audit.audit_id}.")
        answer = _answer(row.given_label, classes, table)
        if found.setdefault(sample_of[row.path], answer) != answer:
            raise UsageError(f"{table} gives two answers to {row.path}.")
    return found


def _answer(label: str | None, classes: set[str], table: Path) -> Answer:
    if label is None:
        return Answer(NONE)
    if label in classes:
        return Answer(CLASS, label)
    if label == CANNOT_TELL:
        return Answer(UNSURE)
    raise UsageError(f"{table} has the label {label!r}, which is none of the classes. Leave it empty for none of them; "
                     f"{CANNOT_TELL} for cannot tell.")  # fmt: skip

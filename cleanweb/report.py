"""The report: one HTML file that holds everything it shows, and opens from disk without a network.

Takes a finished run, from its manifest alone; gives `report.html`. Never decides, never writes into the crawl. All
text that comes from a crawl is hostile: the template escapes it, and what is long is cut. Lists are cut too, so that
the file stays at a few MB whatever the crawl's size. Time: about 2 s for its at most 336 pictures, and that of reading
the manifest.
"""

import json
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from cleanweb import atomic, audit, charts, manifest, thumbnails
from cleanweb.audit.statement import findings
from cleanweb.errors import UsageError
from cleanweb.records import MEANING, UNREADABLE, Progress, Verdict, silent
from cleanweb.remote import place, refuse_inside
from cleanweb.runfolder import RunFolder
from cleanweb.schema import STATUSES, TRANSITIONS
from cleanweb.thumbnails import Sheet
from cleanweb.visible import visible

if TYPE_CHECKING:
    import pandas as pd

IN_MATRIX, IN_TABLE, IN_LIST, BROKEN = 30, 500, 20, 50  # rows before a table is cut
LONGEST = 100  # characters of a text before it is cut
_TOTALS = """SELECT count(*) AS total, count(duplicate_of) AS copies, count(*) FILTER (needs_review) AS needs_review
    FROM images"""
_BROKEN = f"""SELECT path, status, error FROM numbered_images WHERE status IN (SELECT unnest(?))
    ORDER BY rowid LIMIT {BROKEN}"""


def write(run: Path, out: Path | None = None, progress: Progress = silent) -> Path:
    """Write the report of a finished run; gives its path. Only the run's own report is ever replaced.

    Raises RunError where there is no run, UsageError where something else is at `out` or it lies inside the crawl,
    MachineError where it cannot be written.
    """
    ours = RunFolder(run).report
    target = out or ours
    if target.exists() and target.resolve() != ours.resolve():
        raise UsageError(f"{target} exists and is not overwritten. Give another --out.")
    refuse_inside(target, place(manifest.read(run, "runs")["root"].iloc[0]), "--out")
    atomic.make_folder(target.parent)
    atomic.write_text(target, render(run, progress))
    return target


def write_if_possible(run: Path, progress: Progress = silent) -> list[str]:
    """`write`, but a run does not fail with its report: gives a line of words where it could not be written."""
    try:
        write(run, progress=progress)
    except Exception as error:
        return [f"The report could not be written ({error}). Try again with cleanweb report."]
    return []


# --- what it says ---------------------------------------------------------------------------------------------------


def render(run: Path, progress: Progress = silent) -> str:
    """The page, of a finished run. Raises RunError where there is none."""
    audited = audit.latest(run)
    with manifest.attached(run):
        told = _told(run)
    small = thumbnails.make((row for *_, found in told["sheets"] for sheet in found for row in sheet.rows), progress)
    return _template().render(
        told,
        run=run,
        audited=audited,
        findings=[] if audited is None else findings(audited.rows),
        small=small,
        verdicts=MEANING,
        box=charts,
        in_matrix=IN_MATRIX,
        option="" if str(run) == "cleanweb-run" else f" --run {shlex.quote(str(run))}",
    )


def _told(run: Path) -> dict[str, Any]:
    """What the manifest says, as the page wants it."""
    tables = {name: manifest.read(run, name) for name in ("runs", "classes", "epochs", "transition_matrix")}
    [made], [totals] = _records(tables["runs"]), _records(manifest.rows(run, _TOTALS))
    found = manifest.rows(run, "SELECT verdict::VARCHAR AS verdict, count(*) AS images FROM images GROUP BY 1")
    counts = dict.fromkeys(MEANING, 0) | dict(zip(found["verdict"], found["images"].tolist(), strict=True))
    noisiest = sorted(_records(tables["classes"]), key=lambda row: (-_wrong(row), row["label"]))
    statuses = manifest.rows(run, STATUSES, [[*UNREADABLE]])
    return totals | {
        "made": made,
        "counts": counts,
        "flow": charts.flow({str(verdict): n for verdict, n in counts.items()}),
        "classes": noisiest[:IN_TABLE],
        "n_classes": len(noisiest),
        "matrix": _matrix(tables["transition_matrix"], [row["label"] for row in noisiest[:IN_MATRIX]]),
        "relabelings": _records(manifest.rows(run, f"{TRANSITIONS} LIMIT {IN_LIST}")),
        "histograms": [_histogram(run, column) for column in ("p_clean", "p_ood")],
        "reliability": charts.reliability(_records(manifest.read(run, "reliability"))),
        "curves": _curves(tables["epochs"]),
        "sheets": _sheets(run, [row["label"] for row in noisiest]),
        "broken": _records(manifest.rows(run, _BROKEN, [[*UNREADABLE]])),
        "statuses": dict(zip(statuses["status"], statuses["images"], strict=True)),
        "settings": _flat(made["settings"]),
        "versions": {"cleanweb": made["cleanweb_version"]} | _flat(made["versions"]),
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    environment.filters["cut"] = cut
    environment.filters["share"] = lambda share: "–" if share is None else f"{share:.1%}"
    return environment.from_string(files("cleanweb").joinpath("report.html.jinja").read_text(encoding="utf-8"))


def cut(text: object, longest: int = LONGEST) -> str:
    """Text from a crawl as one can read it, the middle of what is long left out: names differ at their ends."""
    text = str(text)
    half = longest // 2
    return visible(text if len(text) <= longest else f"{text[:half]} … {text[-half:]}")


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Its rows, with None where there is nothing."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _wrong(row: Mapping[str, Any]) -> float:
    """About how many images of the class have a wrong label."""
    return (row["noise_rate"] or 0.0) * row["images"]


def _matrix(flow: "pd.DataFrame", labels: list[str]) -> list[dict[str, object]]:
    """A row per true class, "none" of them last: (share, images) for each of these labels, None where nothing goes."""
    true, given = flow["true_label"], flow["given_label"]
    shown = flow[given.isin(labels) & (true.isin(labels) | true.isna())]  # of thousands of classes there are millions
    cells = {(row["true_label"], row["given_label"]): (row["p_given"], row["images"]) for row in _records(shown)}
    labels = sorted(labels)
    rows = [*labels, *([None] if any(true is None for true, _ in cells) else [])]
    return [{"label": true, "cells": [(given, cells.get((true, given))) for given in labels]} for true in rows]


def _histogram(run: Path, column: str) -> dict[str, object]:
    known = f"SELECT {column} FROM images WHERE {column} IS NOT NULL AND verdict = ?"
    values = {v: manifest.rows(run, known, [v])[column].to_numpy() for v in charts.JUDGED}
    words = {"p_clean": "the given label is right", "p_ood": "the image belongs to none of the classes"}
    verdict = {"p_clean": "clean", "p_ood": "ood"}[column]
    return {"column": column, "words": words[column], "verdict": verdict, **charts.histogram(values, verdict)}


def _curves(epochs: "pd.DataFrame") -> list[dict[str, object]]:
    """The lines there are points of."""
    noisy, final = "Learning from the noisy labels", "Learning from the final labels"
    wanted = [("train", "loss", noisy, "mean loss"), ("train", "n_clean", noisy, "images treated as clean"),
              ("refine", "loss", "Learning from labels set right", "mean loss"),
              ("classifier", "loss", final, "mean loss")]  # fmt: skip
    found = []
    for stage, column, title, what in wanted:
        rows = epochs[epochs["stage"] == stage]
        x, y = rows["epoch"].to_numpy(float), rows[column].astype("Float64").to_numpy(float, na_value=float("nan"))
        if line := charts.line(x, y):
            found.append({"title": title, "what": what, "epochs": len(rows), **line})
    return found


def _sheets(run: Path, labels: list[str]) -> list[tuple[str, str, str, list[Sheet]]]:
    """(anchor, title, words, its sheets) of everything there are pictures of."""
    found = [
        (
            verdict,
            f"Verdict {verdict}",
            f"{MEANING[Verdict(verdict)].capitalize()}. p: that the verdict is right.",
            sheets,
        )
        for verdict, sheets in thumbnails.of_verdicts(run).items()
    ]
    words = f"Each class's pictures that keep their label with the least probability; at most {thumbnails.CLASSES} "
    words += "classes, those with most wrong labels. p: that the given label is right."
    found.append(("doubtful", "Doubtful, but kept", words, thumbnails.of_classes(run, labels)))
    two, n_two = thumbnails.under_two_labels(run)
    found.append(("two-labels", "One picture, several labels", _of(two, n_two), two))
    near, n_near = thumbnails.near_duplicates(run)
    found.append(("near", "Pictures that look the same", _of(near, n_near), near))
    return [(anchor, title, words, [s for s in sheets if s.rows]) for anchor, title, words, sheets in found]


def _of(sheets: list[Sheet], n: int) -> str:
    return f"{len(sheets):,} of {n:,} pictures, each with its copies." if n else ""


def _flat(text: str | None) -> dict[str, object]:
    try:
        return dict(json.loads(text or "{}"))
    except (ValueError, TypeError):
        return {}

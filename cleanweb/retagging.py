"""Decide again from stored scores, in seconds and without torch; the model and its classifier stay as they are."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cleanweb import deciding, judging, malloc, manifest, report, tables
from cleanweb.errors import UsageError
from cleanweb.records import KEPT, LEFT_OUT, UNVERIFIED, Progress, Scores, Target, silent
from cleanweb.remote import Place, place
from cleanweb.runfolder import Outcome, RunFolder
from cleanweb.schema import SCHEMA_VERSION, TABLES
from cleanweb.trusted import trusted_classes
from cleanweb.written import Written


def retag(
    path: Path | str, target: Target | None = None, verified: Place | None = None, progress: Progress = silent
) -> Outcome:
    """Rewrite the manifest and the report of a finished run with today's decision rule, or as a target asks.

    verified: a table of labels that people have verified since, or a run in which they have; what they verified before
    still holds, and what they decided in review. Raises RunError where there is no run or another process writes there,
    UsageError where the labels do not fit the crawl.
    """
    malloc.return_freed()
    folder = RunFolder(path)
    manifest.read(folder.path, "runs")  # where there is no run nothing is made
    # no decision of a person may fall between reading and writing
    with folder.alone("retag"), manifest.alone(folder.path):
        return _decided_again(folder, target, verified, progress)


def _decided_again(folder: RunFolder, target: Target | None, verified: Place | None, progress: Progress) -> Outcome:
    started, steps = time.perf_counter(), 3
    progress("retag", 0, steps)
    known = Written(folder.path)
    made: dict[str, Any] = {name: manifest.read(folder.path, name) for name in TABLES if name != "images"}
    scored, scores, classes, rule = folder.load_scores()
    told: list[str] = []
    if verified is not None:
        scores, told = _heed(verified, folder.path, known, scored, scores, classes)
        folder.save_scores(scored, scores, classes, rule)
    if in_all := int((scores.verified != UNVERIFIED).sum()):
        told.append(f"{in_all:,} pictures in all have verified labels, from fit --trusted and retag --trusted.")
    progress("retag", 1, steps)
    judged = deciding.judged(known, scored, scores, classes, rule, target, made["reviews"])
    made["images"], made["reviews"] = judging.Images(known, judged.verdicts), judged.reviews
    made["classes"] = judging.classes_table(judged.verdicts, judged.noise)
    made["transition_matrix"] = tables.transition_table(judged.flow, classes)
    made["reliability"] = tables.reliability_table(judged.reliability)
    made["runs"][list(tables.NOISE)] = judged.noise[-1]
    made["runs"]["target"] = None if target is None else json.dumps(asdict(target))
    made["runs"]["schema_version"] = SCHEMA_VERSION
    if target is not None:
        told += _met(target, judged.verdicts)
    told.append("The classifier is that of the fit, as before; `fit --fresh` trains another.")
    progress("retag", 2, steps)
    manifest.write(folder.path, made)
    progress("retag", 3, steps)
    notes = told + report.write_if_possible(folder.path, progress)
    return Outcome(folder.path, manifest.Tables(folder.path), notes, time.perf_counter() - started)


def _met(target: Target, verdicts: judging.Verdicts) -> list[str]:
    """What to tell of a target: a line each."""
    per_cent = f"{100 * (target.keep or target.min_precision or 0):.4g}%"
    asked = f"{per_cent} of them right" if target.keep is None else f"the surest {per_cent} of all"
    told = [f"The target, {asked}, is that of the clean images alone: `cleanweb export --only clean` takes them."]
    if left_out := verdicts.count_of(LEFT_OUT):
        told.append(f"{left_out:,} images more are likely right, and left out for it: they count as ood, and their "
                    "reason says so.")  # fmt: skip
    if unjudged := verdicts.count_of(KEPT):
        told.append(f"It is met among the images that could be judged; {unjudged:,} more are kept. Leave them out with "
                    f"--where \"reason NOT LIKE '%{KEPT}'\".")  # fmt: skip
    return told


def target(min_precision: float | None, keep: float | None) -> Target | None:
    """What is asked for; None for nothing. Raises UsageError where it is no share, or two things at once."""
    if min_precision is None and keep is None:
        return None
    if min_precision is not None and keep is not None:
        raise UsageError("Give --min-precision or --keep, not both: one follows from the other.")
    for option, share in (("min-precision", min_precision), ("keep", keep)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"--{option} is a share, above 0 and up to 1, not {share}.")
    return Target(min_precision, keep)


def _heed(
    table: Place, run: Path, known: Written, scored: np.ndarray, scores: Scores, classes: list[str]
) -> tuple[Scores, list[str]]:
    """The scores with what people verified, of copies too; and what to tell of it."""
    root = place(manifest.read(run, "runs")["root"].iloc[0])
    people = deciding.verified_labels(table, known.samples(), root)
    scores = deciding.heed(scores, trusted_classes(people, known.kept, scored, classes))
    return scores, deciding.heeded(people, table)

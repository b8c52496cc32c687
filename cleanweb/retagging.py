"""Decide again from stored scores, in seconds and without torch; the model and its classifier stay as they are."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from cleanweb import carried, manifest, report, tables
from cleanweb.errors import UsageError
from cleanweb.records import Progress, Sample, Scores, Target, silent
from cleanweb.runfolder import Outcome, RunFolder
from cleanweb.schema import SCHEMA_VERSION, TABLES
from cleanweb.trusted import trusted_classes


def retag(
    path: Path | str, target: Target | None = None, verified: Path | None = None, progress: Progress = silent
) -> Outcome:
    """Rewrite the manifest and the report of a finished run with today's decision rule, or as a target asks.

    verified: a table of labels that people have verified since, or a run in which they have; what they verified before
    still holds, and what they decided in review. Raises RunError where there is no run or another process writes there,
    UsageError where the labels do not fit the crawl.
    """
    folder = RunFolder(path)
    manifest.read(folder.path, "runs")  # where there is no run nothing is made
    # no decision of a person may fall between reading and writing
    with folder.alone("retag"), manifest.alone(folder.path):
        return _decided_again(folder, target, verified, progress)


def _decided_again(folder: RunFolder, target: Target | None, verified: Path | None, progress: Progress) -> Outcome:
    started, steps = time.perf_counter(), 3
    progress("retag", 0, steps)
    made = {name: manifest.read(folder.path, name) for name in TABLES}
    scored, scores, classes, rule = folder.load_scores()
    told: list[str] = []
    if verified is not None:
        scores, told = _heed(verified, made, scored, scores, classes)
        folder.save_scores(scored, scores, classes, rule)
    progress("retag", 1, steps)
    judged = carried.judged(made["images"], scored, scores, classes, rule, target, made["reviews"])
    made["images"], made["reviews"], decision = judged.images, judged.reviews, judged.decision
    made["classes"] = tables.classes_table(made["images"], classes, decision.noise)
    made["transition_matrix"] = tables.transition_table(decision.flow, classes)
    made["reliability"] = tables.reliability_table(decision.reliability)
    made["runs"][list(tables.NOISE)] = decision.noise[-1]
    made["runs"]["target"] = None if target is None else json.dumps(asdict(target))
    made["runs"]["schema_version"] = SCHEMA_VERSION
    progress("retag", 2, steps)
    manifest.write(folder.path, made)
    progress("retag", 3, steps)
    notes = told + report.write_if_possible(folder.path, progress)
    return Outcome(folder.path, made, notes, time.perf_counter() - started)


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
    table: Path, made: dict[str, pd.DataFrame], scored: np.ndarray, scores: Scores, classes: list[str]
) -> tuple[Scores, list[str]]:
    """The scores with what people verified, of copies too; and what to tell of it."""
    images = made["images"].astype(object).where(made["images"].notna(), None)
    samples = [Sample(i, p, f or "", None, g) for i, p, f, g in
               images[["sample_id", "path", "file", "given_label"]].itertuples(index=False)]  # fmt: skip
    row_of = {sample.sample_id: row for row, sample in enumerate(samples)}
    kept = np.array([row if of is None else row_of[of] for row, of in enumerate(images["duplicate_of"])])
    people = carried.verified_labels(table, samples, Path(made["runs"]["root"].iloc[0]))
    scores = carried.heed(scores, trusted_classes(people, kept, scored, classes))
    return scores, carried.heeded(people, table)

"""Decide again from stored scores, in seconds and without torch; the model and its classifier stay as they are."""

import json
from dataclasses import asdict
from pathlib import Path

from cleanweb import manifest, tables, verdict
from cleanweb.errors import UsageError
from cleanweb.records import Target
from cleanweb.runfolder import Run, RunFolder
from cleanweb.schema import TABLES


def retag(path: Path | str, target: Target | None = None) -> Run:
    """Rewrite the manifest of a finished run with today's decision rule, or as a target asks. Raises RunError where
    there is no run."""
    folder = RunFolder(path)
    made = {name: manifest.read(folder.path, name) for name in TABLES}
    scored, scores, classes, rule = folder.load_scores()
    decision = verdict.decide(scores, rule, target)
    made["images"] = tables.judge(made["images"], scored, scores, decision, classes)
    made["classes"] = tables.classes_table(made["images"], classes, decision.noise)
    made["transition_matrix"] = tables.transition_table(decision.flow, classes)
    made["runs"][list(tables.NOISE)] = decision.noise[-1]
    made["runs"]["target"] = None if target is None else json.dumps(asdict(target))
    manifest.write(folder.path, made)
    return Run(folder.path, made, [])


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

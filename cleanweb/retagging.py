"""Decide again from stored scores, in seconds and without torch; the model and its classifier stay as they are."""

from pathlib import Path

from cleanweb import manifest, tables, verdict
from cleanweb.runfolder import Run, RunFolder
from cleanweb.schema import TABLES


def retag(path: Path | str) -> Run:
    """Rewrite the manifest of a finished run with today's decision rule. Raises RunError where there is no run."""
    folder = RunFolder(path)
    made = {name: manifest.read(folder.path, name) for name in TABLES}
    scored, scores, classes, rule = folder.load_scores()
    made["images"] = tables.judge(made["images"], scored, scores, verdict.decide(scores, rule), classes)
    made["classes"] = tables.classes_table(made["images"], classes)
    manifest.write(folder.path, made)
    return Run(folder.path, made, [])

"""The run folder: what a run keeps where, and whether it may be begun, resumed or read."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cleanweb.errors import RunError, UsageError
from cleanweb.records import Sample, Scores
from cleanweb.settings import Settings, fingerprint

if TYPE_CHECKING:
    import pandas as pd

_NO_MATTER = ("out", "fresh", "workers", "strict", "origin")  # settings that change nothing in what is found


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    folder: Path
    tables: dict[str, "pd.DataFrame"]  # images, classes, epochs, runs
    notes: list[str]  # what the user should know, a line each


class RunFolder:
    """cleanweb-run/: the manifest, the classifier, the scores, and what an unfinished run goes on from."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.manifest = self.path / "manifest.duckdb"
        self.scores = self.path / "scores.npz"
        self.classifier = self.path / "classifier"
        self.checkpoint = self.path / "checkpoint"
        self.cache = self.path / "cache"
        self.record = self.path / "run.json"
        self.report = self.path / "report.html"
        self.earlier = self.path / "earlier.duckdb"  # the manifest that is being replaced, where people decided in it

    def refuse_finished(self, fresh: bool) -> None:
        """Raises RunError where a finished run would be overwritten, or the folder holds something else."""
        if not self.path.exists():
            return
        ours = self.record.exists() or self.manifest.exists()
        if self.manifest.exists() and not fresh:
            raise RunError(f"{self.path} holds a finished run. Give --fresh to replace it, or another --out.")
        if not self.path.is_dir() or (any(self.path.iterdir()) and not ours):
            raise RunError(f"{self.path} is not a run folder: it holds something else. Give another --out.")

    def refuse_inside(self, crawl: Path) -> None:
        """Raises UsageError where the run would be written among the crawl's own images."""
        if self.path.resolve().is_relative_to(crawl.resolve()):
            raise UsageError(f"The run folder {self.path} lies inside the crawl {crawl}. Give an --out outside it.")

    def begin(
        self, settings: Settings, samples: Sequence[Sample], people: Mapping[int, str | None] | None = None
    ) -> str:
        """Open the folder for this crawl, these settings and what people verified; gives their fingerprint.

        An unfinished run of the same goes on; of another it is refused with a RunError, or replaced where `fresh`.
        """
        same = {k: v for k, v in settings.to_json().items() if k not in _NO_MATTER}
        rows = [(s.sample_id, s.file, s.row, s.given_label, str(s.status)) for s in samples]
        mark = fingerprint([same, rows, sorted((people or {}).items())])
        if settings.fresh:
            self._clear()
        elif self.record.exists() and self._mark() != mark:
            raise RunError(f"{self.path} holds an unfinished run of another crawl or with other settings. "
                           "Give --fresh to replace it, or another --out.")  # fmt: skip
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_record({"fingerprint": mark, "finished": False})
        return mark

    def finish(self, record: dict[str, object]) -> None:
        """Note how the run was made, and drop what only an unfinished one needs."""
        self._write_record(record | {"finished": True})
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        shutil.rmtree(self.cache, ignore_errors=True)

    def save_scores(
        self, scored: np.ndarray, scores: Scores, classes: Sequence[str], rule: dict[str, float] | None
    ) -> None:
        """scored (m,): the row of the manifest of each of the m scored samples; rule: how they are decided."""
        arrays = {field.name: getattr(scores, field.name) for field in fields(Scores)}
        partial = self.scores.with_suffix(".partial.npz")
        np.savez(partial, scored=scored, classes=np.array(classes, dtype=np.str_), rule=json.dumps(rule), **arrays)
        partial.replace(self.scores)

    def load_scores(self) -> tuple[np.ndarray, Scores, list[str], dict[str, float] | None]:
        """What `save_scores` wrote. Raises RunError where there is nothing to read."""
        if not self.scores.exists():
            raise RunError(f"There are no scores at {self.scores}. Run `cleanweb fit` first, or give --run.")
        try:
            with self.scores.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                scores = Scores(**{field.name: stored[field.name] for field in fields(Scores)})
                return stored["scored"], scores, [str(c) for c in stored["classes"]], json.loads(str(stored["rule"]))
        except Exception as error:  # zipfile, numpy and json raise whatever their parsers raise
            raise RunError(f"The scores {self.scores} are damaged. Run `cleanweb fit --fresh`.") from error

    def _mark(self) -> object:
        try:
            return json.loads(self.record.read_text(encoding="utf-8")).get("fingerprint")
        except (ValueError, AttributeError):
            return None  # damaged, or of another program

    def _write_record(self, record: dict[str, object]) -> None:
        partial = self.record.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=2, default=str), encoding="utf-8")
        partial.replace(self.record)

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else a user may keep there."""
        for folder in (self.checkpoint, self.cache, self.classifier):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.scores, self.record, self.report, *self.path.glob("manifest.*")):
            file.unlink(missing_ok=True)

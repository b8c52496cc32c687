"""The run folder: what a run keeps where, whether it may be begun, and that one process at a time writes there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cleanweb import atomic, remote, runlock, scratch
from cleanweb.errors import RunError
from cleanweb.parts import FOLDER
from cleanweb.records import Scores
from cleanweb.remote import Place

if TYPE_CHECKING:
    import pandas as pd

# What a run makes, beside the parts of a large manifest: in the order in which it takes its place, what counts last.
RESULTS = ("scores.npz", "classifier", "report.html", "manifest.csv", "manifest.parquet", "run.json", "manifest.duckdb")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    folder: Path
    tables: Mapping[str, "pd.DataFrame"]  # images, classes, epochs, runs: read when they are asked for
    notes: list[str]  # what the user should know, a line each
    retag_s: float | None = None  # what deciding again took, in seconds; None after a fit


class RunFolder:
    """cleanweb-run/: the manifest, the classifier, the scores, the report; and, apart, an unfinished run."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.manifest = self.path / "manifest.duckdb"
        self.scores = self.path / "scores.npz"
        self.classifier = self.path / "classifier"
        self.record = self.path / "run.json"
        self.report = self.path / "report.html"
        self.earlier = self.path / "earlier.duckdb"  # the manifest that is being replaced, where people decided in it
        self.unfinished = self.path / "unfinished"

    def refuse_finished(self, fresh: bool) -> None:
        """Raises RunError where a finished run would be overwritten, or the folder holds something else."""
        if not self.path.exists():
            return
        going_on = (self.unfinished / "run.json").exists()
        ours = going_on or self.record.exists() or self.manifest.exists()
        if not self.path.is_dir() or (not ours and self._holds_something()):
            raise RunError(f"{self.path} is not a run folder: it holds something else. Give another --out.")
        if self.manifest.exists() and not going_on and not fresh:
            raise RunError(f"{self.path} holds a finished run. Give --fresh to replace it, or another --out.")
        if self.record.exists() and not self.manifest.exists() and not going_on and not fresh:
            raise RunError(f"{self.path} holds what another version of cleanweb has begun. Give --fresh to replace it, "
                           "or another --out.")  # fmt: skip

    def _holds_something(self) -> bool:
        """Anything that a run which was killed in its first moment does not leave."""
        drafts = atomic.drafts(self.path)
        return any(child.name != runlock.NAME and child not in drafts for child in self.path.iterdir())

    def refuse_inside(self, crawl: Place) -> None:
        """Raises UsageError where the run would be written among the crawl's own images."""
        remote.refuse_inside(self.path, crawl, "--out")

    def parts(self) -> list[Path]:
        """What a finished run consists of, the manifest last."""
        return [part for name in (FOLDER, *RESULTS) if (part := self.path / name).exists()]

    @contextmanager
    def alone(self, doing: str) -> Iterator[None]:
        """Write into the folder alone; it is made where there is none. doing: the command, for whoever is refused.

        Raises RunError where another process works there, MachineError where the disk refuses.
        """
        new = not self.path.exists()
        atomic.make_folder(self.path)
        try:
            with runlock.only_one(self.path, doing):
                atomic.remove_drafts(self.path)
                yield
        finally:
            if new:
                with suppress(OSError):  # it holds something by now
                    self.path.rmdir()

    def save_record(self, record: Mapping[str, object]) -> None:
        """Note how the run was made."""
        atomic.write_text(self.record, json.dumps(dict(record), indent=2, default=str))

    def save_scores(
        self, scored: np.ndarray, scores: Scores, classes: Sequence[str], rule: dict[str, float] | None
    ) -> None:
        """scored (m,): the row of the manifest of each of the m scored samples; rule: how they are decided."""
        with atomic.writing(self.scores) as draft, draft.open("xb") as stream:
            np.savez(
                stream,
                scored=scored,
                classes=np.array(classes, dtype=np.str_),
                rule=json.dumps(rule),
                **scores.arrays(),  # type: ignore[arg-type]  # numpy takes any name for `allow_pickle`
            )

    def load_scores(self) -> tuple[np.ndarray, Scores, list[str], dict[str, float] | None]:
        """What `save_scores` wrote. Raises RunError where there is nothing to read."""
        if not self.scores.exists():
            raise RunError(f"There are no scores at {self.scores}. Run `cleanweb fit` first, or give --run.")
        try:
            with self.scores.open("rb") as stream:
                stored = scratch.load(stream)
            scores = Scores(**{field.name: stored[field.name] for field in fields(Scores)})
            return stored["scored"], scores, [str(c) for c in stored["classes"]], json.loads(str(stored["rule"]))
        except Exception as error:  # zipfile, numpy and json raise whatever their parsers raise
            raise RunError(f"The scores {self.scores} are damaged. Run `cleanweb fit --fresh`.") from error

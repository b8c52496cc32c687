"""The unfinished run: what a `fit` that was killed goes on from, and its results until all of them are there.

    cleanweb-run/unfinished/
      run.json           how it was asked for
      samples.jsonl.gz   the crawl, as it was first read
      pixels/            what inspecting has found so far
      learning/          features and checkpoints
      results/           what moves to the run folder when it is complete

A run moves out when everything is complete: until then the run that was there before stands as it was.
"""

import gzip
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from cleanweb import __version__, atomic
from cleanweb.errors import RunError
from cleanweb.packed import Samples
from cleanweb.parts import FOLDER
from cleanweb.records import NOTICE, Sample, Status
from cleanweb.runfolder import RESULTS, RunFolder
from cleanweb.settings import Settings, fingerprint, fingerprint_of_all

# settings that change nothing in what is found
_FREE = ("out", "copy_to", "parts", "fresh", "workers", "cache_dir", "cache_size", "strict", "origin")

log = logging.getLogger(__name__)


class Unfinished:
    """The unfinished run in a run folder, if there is one; the folder is locked by whoever uses this."""

    def __init__(self, run: Path):
        self.run, self.path = run, RunFolder(run).unfinished
        self.pixels, self.results = self.path / "pixels", RunFolder(self.path / "results")
        self.earlier = self.path / "earlier.duckdb"  # the manifest it replaces, where people decided in it
        self.is_new = False
        self._record, self._samples = self.path / "run.json", self.path / "samples.jsonl.gz"
        self._complete = self.path / "complete.json"

    def begin(self, settings: Settings, samples: Samples) -> Samples:
        """Go on with the unfinished run of this crawl and these settings, or begin one: the samples it is about.

        Rows that have vanished since it began stay in it. Of another crawl, other settings or another version it is
        refused with a RunError that says what differs, or replaced where `fresh`.
        """
        if self._record.exists():
            try:
                return self._go_on(settings, samples)
            except RunError:
                if not settings.fresh:
                    raise
        self.discard()
        self.is_new = True
        began = f"{datetime.now(UTC):%F %T}"
        record = {"cleanweb": __version__, "began": began, "fresh": settings.fresh, "settings": settings.to_json()}
        with atomic.writing(self.path) as draft:
            (draft / self.results.path.name).mkdir(parents=True)
            _pack(samples, draft / self._samples.name)
            atomic.write_text(draft / self._record.name, json.dumps(record, indent=2))
        return samples

    def _go_on(self, settings: Settings, samples: Samples) -> Samples:
        record = self._read_record()
        ending = "Give --fresh to replace it, or another --out."
        if record["cleanweb"] != __version__:
            raise RunError(f"{self.run} holds an unfinished run of cleanweb {record['cleanweb']}, and this is "
                           f"{__version__}. Finish it with that version. {ending}")  # fmt: skip
        if other := _other_settings(record["settings"], settings.to_json()):
            raise RunError(f"{self.run} holds an unfinished run with other settings: {other}. {ending}")
        if settings.fresh and not record["fresh"]:
            raise RunError("begun without --fresh")  # never seen: `begin` replaces it
        first_read = _unpacked(self._samples)
        if other := _other_rows(first_read, samples):
            raise RunError(f"{self.run} holds an unfinished run of another crawl: {other}. {ending}")
        log.log(NOTICE, "Going on with the run that began at %s UTC.", record["began"])
        atomic.remove_drafts(self.path)
        if self.results.path.exists():  # not complete: they are made again
            self._throw_away(self.results.path)
        self.results.path.mkdir()
        return first_read

    def has_learned(self) -> bool:
        return (self.path / "learning").exists()

    def learning(self, mark: str) -> Path:
        """The folder of features and checkpoints; it is emptied where what there is to learn, the `mark`, is not what
        it was."""
        folder, file = self.path / "learning", self.path / "learning" / "mark"
        if folder.exists() and not (file.exists() and file.read_text(encoding="utf-8") == mark):
            log.warning("What there is to learn is not what it was when learning began: it begins again.")
            self._throw_away(folder)
        folder.mkdir(exist_ok=True)
        atomic.remove_drafts(folder)
        if not file.exists():
            atomic.write_text(file, mark)
        return folder

    # --- when it is complete

    def complete(self, notes: Sequence[str]) -> None:
        """All results are there: whatever happens now, `publish` can bring them to their places."""
        with atomic.told(self.results.path):
            for path in self.results.path.rglob("*"):
                atomic.sync(path)
        names = [name for name in RESULTS if (self.results.path / name).exists()]
        atomic.write_text(self._complete, json.dumps({"names": names, "notes": list(notes)}))

    def is_complete(self) -> bool:
        return self._complete.exists()

    def is_of(self, settings: Settings) -> bool:
        """Whether these settings are the ones it was begun with."""
        return not _other_settings(self._read_record()["settings"], settings.to_json())

    def publish(self) -> list[str]:
        """Move the results to their places in the run folder, where this has not happened yet; gives the notes."""
        told = json.loads(self._complete.read_text(encoding="utf-8"))
        with atomic.told(self.run):
            for log_file in self.run.glob("manifest.duckdb.wal*"):  # changes to the old file must not meet the new one
                log_file.unlink()
            self._add_parts()
            for name in RESULTS:
                new, place = self.results.path / name, self.run / name
                if place.is_dir() and (new.exists() or name not in told["names"]):
                    self._throw_away(place)  # no folder takes the place of a full one
                if new.exists():
                    os.replace(new, place)  # noqa: PTH105 - atomic.py's name for it
                elif name not in told["names"]:
                    atomic.remove(place)
            atomic.sync(self.run)
        return told["notes"]

    def _add_parts(self) -> None:
        """The parts of the manifest come beside those of the one before, which a copy of it may still name."""
        new, place = self.results.path / FOLDER, self.run / FOLDER
        if new.exists():
            place.mkdir(exist_ok=True)
            for part in new.iterdir():
                part.rename(place / part.name)

    def discard(self) -> None:
        """Remove it; half removed it is no unfinished run either."""
        if self.path.exists():
            self._throw_away(self.path)

    def _throw_away(self, folder: Path) -> None:
        leftover = atomic.draft_of(self.path)
        with atomic.told(folder):
            folder.rename(leftover)
            atomic.remove(leftover)

    def _read_record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            return {key: record[key] for key in ("cleanweb", "began", "fresh", "settings")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self._record} is damaged, or of another version of cleanweb: the unfinished run cannot "
                           "go on. Give --fresh to replace it, or another --out.") from error  # fmt: skip


def fingerprint_of(settings: Settings, samples: Sequence[Sample], people: Mapping[int, str | None]) -> str:
    """A digest of the crawl's rows, the settings and what people verified."""
    same = {name: value for name, value in settings.to_json().items() if name not in _FREE}
    rows = ((s.sample_id, s.file, s.row, s.given_label, str(s.status)) for s in samples)
    return fingerprint_of_all(chain([fingerprint(same), sorted(people.items())], rows))


# --- what differs ---------------------------------------------------------------------------------------------------


def _other_settings(then: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Which settings differ, in words; empty where none does."""
    other = [name for name in {**then, **now} if name not in _FREE and then.get(name) != now.get(name)]
    return ", ".join(f"{_option(name)} was {_said(then.get(name))} and is {_said(now.get(name))}" for name in other)


def _said(value: object) -> object:
    return "not given" if value is None else value


def _option(name: str) -> str:
    names = {"source": "SOURCE", "hyperparameters": "--set"}
    return names.get(name, f"--{name.replace('_', '-')}")


def _other_rows(then: Sequence[Sample], now: Sequence[Sample]) -> str:
    """How the crawl differs, in words; empty where it is the same, or rows and files have only vanished."""
    before, counts = {sample.sample_id: sample for sample in then}, dict.fromkeys(("new", "label", "else"), 0)
    for sample in now:
        old = before.get(sample.sample_id)
        if old is None:
            counts["new"] += 1
        elif old.given_label != sample.given_label:
            counts["label"] += 1
        elif (old.file, old.row) != (sample.file, sample.row) or sample.status not in (old.status, Status.MISSING):
            counts["else"] += 1
    words = {"new": "are new", "label": "have another label", "else": "have another file"}
    return ", ".join(f"{n:,} of {len(now):,} rows {words[what]}" for what, n in counts.items() if n)


def _pack(samples: Sequence[Sample], file: Path) -> None:
    names = [field.name for field in fields(Sample)]
    with gzip.open(file, "xt", compresslevel=1, encoding="utf-8") as lines:
        for sample in samples:
            lines.write(json.dumps({name: getattr(sample, name) for name in names}) + "\n")


def _unpacked(file: Path) -> Samples:
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return Samples(Sample(**{**row, "status": Status(row["status"])}) for row in map(json.loads, lines))
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file} is damaged: the unfinished run cannot go on. Give --fresh to replace it.") from error

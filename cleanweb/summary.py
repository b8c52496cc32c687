"""What a person wants to read when a run has ended: computed here, printed by the command line."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cleanweb import manifest
from cleanweb.records import KEPT, MEANING, UNREADABLE, Verdict
from cleanweb.schema import COPIES, STATUSES, TRANSITIONS, quoted

_MOST = 8  # lines of a list before it is cut
_TOTALS = f"""SELECT count(*) FILTER (needs_review) AS needs_review, count(final_label) AS final,
    count(*) FILTER (suffix(reason, {quoted(KEPT)})) AS unjudged,
    count(*) FILTER (duplicate_kind = 'exact') AS exact, count(*) FILTER (duplicate_kind = 'near') AS near,
    (SELECT count(*) FROM (SELECT picture FROM ({COPIES}) GROUP BY 1
                           HAVING min(given_label) <> max(given_label))) AS two_labels FROM images"""


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run."""

    run: str  # the run folder
    verdicts: dict[str, int]  # verdict → images
    needs_review: int
    unjudged: int  # images that are kept, since too little was learned of their class
    classifier: bool  # whether there was a final label to train one on
    noise_rate: float | None  # estimated share of wrong labels among judged pictures
    noise_interval: tuple[float, float] | None  # nominally of 95 %
    classes: list[dict[str, Any]]  # rows of the classes table
    relabelings: list[dict[str, Any]]  # given, suggested, images: most frequent first
    duplicates: dict[str, int]  # exact, near → copies
    two_labels: int  # pictures that were given more than one label
    unreadable: dict[str, int]  # status → files that could not be read
    notes: list[str]
    seconds: float  # that fit took, or retag
    retagged: bool

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        return [*self._verdict_lines(), *self._class_lines(), *self._relabel_lines(), *self._file_lines(),
                *self._next_lines()]  # fmt: skip

    def _verdict_lines(self) -> list[str]:
        total = sum(self.verdicts.values())
        again = " decided again" * self.retagged
        lines = ["", f"{total:,} images{again} in {_duration(self.seconds)}"]
        for verdict, n in self.verdicts.items():
            lines.append(f"  {verdict:<10}{n:>9,}  {n / max(total, 1):>6.1%}  {MEANING[Verdict(verdict)]}")
        rate = ""
        if self.noise_rate is not None and self.noise_interval is not None:
            low, high = self.noise_interval
            digits = 0 if high - low > 0.02 else 1
            rate = f"Estimated share of wrong labels: {self.noise_rate:.1%} ({low:.{digits}%} to {high:.{digits}%}). "
        look = _counted(self.needs_review, "verdict is", "verdicts are")
        return [*lines, f"{rate}{look} worth a second look (needs_review).", *self._unjudged_lines()]

    def _unjudged_lines(self) -> list[str]:
        if not self.unjudged:
            return []
        if self.noise_rate is None:
            return ["NOTHING COULD BE JUDGED: the network has learned nothing of these labels, as where they fit the",
                    "pictures no better than chance, or are too few. All are kept as they were given."]  # fmt: skip
        them = _counted(self.unjudged, "image", "images")
        return [f"{them} could not be judged, and kept the given label: too little was learned of the class."]

    def _class_lines(self) -> list[str]:
        noisiest = sorted(self.classes, key=lambda row: -(row["noise_rate"] or 0))
        width = max([5, *(len(str(row["label"])[:30]) for row in noisiest[:_MOST])])
        lines = ["", f"{'class':<{width}}  images  wrong labels  clean  relabeled  into  ood"]
        for row in noisiest[:_MOST]:
            rate = "–" if row["noise_rate"] is None else f"{row['noise_rate']:.0%}"
            lines.append(f"{str(row['label'])[:30]:<{width}}  {row['images']:>6,}  {rate:>12}  {row['clean']:>5,}  "
                         f"{row['relabeled_away']:>9,}  {row['relabeled_into']:>4,}  {row['ood']:>3,}")  # fmt: skip
        return lines + _more(len(noisiest), "classes", "SELECT * FROM classes")

    def _relabel_lines(self) -> list[str]:
        if not self.relabelings:
            return []
        lines = ["", "Most frequent relabelings (given → suggested)"]
        lines += [f"  {row['images']:>6,}  {row['given_label'][:60]} → {row['suggested_label'][:60]}"
                  for row in self.relabelings[:_MOST]]  # fmt: skip
        return lines + _more(len(self.relabelings), "pairs", "SELECT * FROM transitions")

    def _file_lines(self) -> list[str]:
        lines = [""]
        if sum(self.duplicates.values()):
            copies = " and ".join(f"{n:,} {kind}" for kind, n in self.duplicates.items() if n)
            copies += " copy" if sum(self.duplicates.values()) == 1 else " copies"
            two = f"; {_counted(self.two_labels, 'picture was', 'pictures were')} given more than one label"
            lines.append(f"Duplicates: {copies}{two if self.two_labels else ''}.")
        if self.unreadable:
            found = ", ".join(f"{n:,} {status}" for status, n in self.unreadable.items())
            lines.append(f"Files that could not be used: {found}.")
        return lines + self.notes if len(lines) > 1 or self.notes else []

    def _next_lines(self) -> list[str]:
        run, option = Path(self.run), "" if self.run == "cleanweb-run" else f" --run {self.run}"
        return [
            "",
            f"Manifest    {run / 'manifest.duckdb'} (also .csv, .parquet)",
            f"Classifier  {run / 'classifier'}" if self.classifier else "Classifier  none: no image has a final label",
            *([f"Report      {run / 'report.html'}"] if (run / "report.html").exists() else []),
            "Next",
            *([f"  cleanweb review{option}  # look at what is not sure, and correct it"] if self.needs_review else []),
            f"  cleanweb audit{option}  # how far can it be trusted? Judge 200 pictures",
            f"  cleanweb export --only clean{option}",
            f'  cleanweb sql "SELECT path, given_label, suggested_label, confidence FROM relabeled LIMIT 20"{option}',
            f"  cleanweb predict IMAGE{option}",
        ]


def summarise(folder: Path, notes: list[str], retag_s: float | None = None) -> Summary:
    """Of a finished run. retag_s: the seconds that a retag took. Raises RunError where there is no manifest."""
    with manifest.attached(folder):
        made, classes = (manifest.read(folder, name) for name in ("runs", "classes"))
        [totals] = manifest.rows(folder, _TOTALS).to_dict("records")
        counts = _dict(manifest.rows(folder, "SELECT verdict::VARCHAR, count(*) FROM images GROUP BY 1"))
        unreadable = _dict(manifest.rows(folder, STATUSES, [[*UNREADABLE]]))
        pairs = manifest.rows(folder, TRANSITIONS)
    rate, low, high = made.iloc[0][["noise_rate", "noise_low", "noise_high"]]
    return Summary(
        run=str(folder),
        verdicts={str(v): counts.get(v, 0) for v in MEANING},
        needs_review=int(totals["needs_review"]),
        unjudged=int(totals["unjudged"]),
        classifier=bool(totals["final"]),
        noise_rate=None if pd.isna(rate) else float(rate),
        noise_interval=None if pd.isna(rate) else (float(low), float(high)),
        classes=classes.astype(object).where(classes.notna(), None).to_dict("records"),
        relabelings=pairs.to_dict("records"),
        duplicates={kind: int(totals[kind]) for kind in ("exact", "near")},
        two_labels=int(totals["two_labels"]),
        unreadable=unreadable,
        notes=notes,
        seconds=float(made["seconds"].iloc[0]) if retag_s is None else retag_s,
        retagged=retag_s is not None,
    )


def _dict(rows: pd.DataFrame) -> dict[str, int]:
    """Of two columns, a name and a number."""
    return {str(name): int(n) for name, n in rows.itertuples(index=False)}


def _counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _more(n: int, what: str, query: str) -> list[str]:
    return [f'  … {n - _MOST:,} more {what}: cleanweb sql "{query}"'] if n > _MOST else []


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"

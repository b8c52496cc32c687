"""What an audit has shown: how often the verdicts are right, with intervals, in numbers and in words.

Takes the drawn pictures with a person's answers, rows of the table audits; gives findings. All of them are of pictures,
copies not counted, and of the verdicts as they were when the pictures were drawn. An answer of "cannot tell" and none
at all stay out of the estimates, and the interval that would be right at their worst is told beside.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from cleanweb.audit.intervals import Estimate, Part, Quantity, estimate, further
from cleanweb.records import Verdict

if TYPE_CHECKING:
    import pandas as pd

JUDGED = (str(Verdict.CLEAN), str(Verdict.RELABELED), str(Verdict.OOD))  # the verdicts that claim something
CLASS, NONE, UNSURE = "class", "none", "unsure"  # answers: it shows a class, none of them, cannot tell
HALF_WIDTH = 0.02  # what `further` aims at


# name → what share it is, in short, and in a sentence
_WORDS = {
    "precision_clean": ("Tagged clean: the given label is right",
                        "Of {seen:,} pictures tagged clean, {right:,} are right: {value:.1%}"),
    "precision_relabeled": ("Relabeled: the suggested label is right",
                            "Of {seen:,} relabeled, the suggested label is right in {right:,}: {value:.1%}"),
    "relabeled_wrong_before": ("Relabeled: the given label is wrong",
                               "Of the same {seen:,}, the given label is wrong in {right:,}: {value:.1%}"),
    "precision_ood": ("Tagged ood: it shows none of the classes",
                      "Of {seen:,} tagged ood, {right:,} show none of the classes: {value:.1%}"),
    "ood_wrong_before": ("Tagged ood: the given label is wrong",
                         "Of the same {seen:,}, the given label is wrong in {right:,}: {value:.1%}"),
    "recall_clean": ("Pictures whose given label is right: tagged clean (recall)",
                     "Of all pictures whose given label is right, {value:.1%} are tagged clean"),
    "label_accuracy": ("Trainable set, clean and relabeled: the label is right",
                       ("Of the labels of the trainable set (clean and relabeled, {pictures:,} pictures), {value:.1%} "
                        "are right")),
    "noise_rate": ("All pictures: the given label is wrong",
                   "Of the given labels ({pictures:,} pictures), {value:.1%} are wrong"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One share that the audit estimates."""

    name: str
    verdicts: tuple[str, ...]  # of whose pictures it speaks
    pictures: int  # how many of them there are
    seen: int  # drawn and judged
    right: int  # of these; of several verdicts that says nothing of the whole
    unknown: int  # drawn, but without a judgement
    estimate: Estimate
    further: dict[str, int] | None  # verdict → how many more make the interval ± HALF_WIDTH; None: not to be told yet

    def to_json(self) -> dict[str, object]:
        facts = asdict(self)
        return facts | facts.pop("estimate") | {"words": self.line()}

    @property
    def title(self) -> str:
        """What share it is."""
        return _WORDS[self.name][0]

    def line(self) -> str:
        """The finding in a sentence or two."""
        found = self.estimate
        if found.value is None:
            return f"{self.title}: not known yet, too little has been judged."
        words = _WORDS[self.name][1].format(**asdict(self), value=found.value)
        sure = "all judged" if self.seen == self.pictures else f"95% interval {_range(found.low, found.high)}"
        line = f"{words} ({sure})."
        if self.unknown and (found.lowest, found.highest) != (found.low, found.high):
            rest = f"{self.unknown:,} without a judgement show{'s' if self.unknown == 1 else ''}"
            line += f" Whatever the {rest}: {_range(found.lowest, found.highest)}."
        return line + self._more()

    def _more(self) -> str:
        wanted = {verdict: n for verdict, n in (self.further or {}).items() if n}
        if not wanted:
            return ""
        some = ", ".join(f"{n:,} more {verdict}" for verdict, n in wanted.items())
        return f" About {some} would make it ± {100 * HALF_WIDTH:.0f} points."


def findings(rows: "pd.DataFrame", plan: bool = True) -> list[Finding]:
    """rows: the drawn pictures of one audit, with the columns of the table audits. What there is no picture of has no
    finding. plan: whether to tell how many further pictures it takes."""
    judged = rows["answer"].isin([CLASS, NONE]).to_numpy(bool)
    shown, given, claimed = (rows[column].astype(object).where(rows[column].notna(), None).to_numpy()
                             for column in ("shown_label", "given_label", "claimed_label"))  # fmt: skip
    fits = judged & np.array([s is not None and s == g for s, g in zip(shown, given, strict=True)], bool)
    claim = judged & np.array([s == c for s, c in zip(shown, claimed, strict=True)], bool)
    sample = _Sample(rows["verdict"].astype(str).to_numpy(), rows["stratum"].to_numpy(int), judged, plan)
    clean, relabeled, ood = JUDGED
    asked: list[tuple[str, dict[str, tuple[np.ndarray, bool]], Quantity]] = [
        ("precision_clean", {clean: (claim, True)}, _share),
        ("precision_relabeled", {relabeled: (claim, True)}, _share),
        ("relabeled_wrong_before", {relabeled: (judged & ~fits, True)}, _share),
        ("precision_ood", {ood: (claim, True)}, _share),
        ("ood_wrong_before", {ood: (judged & ~fits, True)}, _share),
        ("recall_clean", {verdict: (fits, verdict == clean) for verdict in JUDGED}, _recall),
        ("label_accuracy", dict.fromkeys((clean, relabeled), (claim, True)), _share),
        ("noise_rate", dict.fromkeys(JUDGED, (fits, False)), _wrong),
    ]
    return [found for one in asked if (found := sample.finding(*one)) is not None]


@dataclass(frozen=True, slots=True)
class _Sample:
    """The drawn pictures: their verdicts, how many pictures have those, and which were judged: (n,) each."""

    verdict: np.ndarray
    stratum: np.ndarray
    judged: np.ndarray
    plan: bool

    def finding(self, name: str, counts: dict[str, tuple[np.ndarray, bool]], quantity: Quantity) -> Finding | None:
        """counts: verdict → which drawn pictures count as right, and whether the share grows with them."""
        there = [verdict for verdict in counts if (self.verdict == verdict).any()]
        if not there or (quantity is _recall and (there[0] != JUDGED[0] or len(there) == 1)):
            return None  # where all is clean, or nothing, there is nothing to be missed
        parts = [self._part(verdict, *counts[verdict]) for verdict in there]
        total = sum(part.total for part in parts)
        of_all = lambda *right: quantity(total, *right)  # noqa: E731
        more = further(parts, of_all, HALF_WIDTH) if self.plan else None
        return Finding(
            name, tuple(there), total, sum(part.seen for part in parts), sum(part.right for part in parts),
            sum(part.unknown for part in parts), estimate(parts, of_all),
            None if more is None else dict(zip(there, more, strict=True)),
        )  # fmt: skip

    def _part(self, verdict: str, hits: np.ndarray, rising: bool) -> Part:
        own = self.verdict == verdict
        seen = int((own & self.judged).sum())
        return Part(int(self.stratum[own][0]), seen, int((own & hits).sum()), int(own.sum()) - seen, rising)


def _share(total: int, *right: np.ndarray) -> np.ndarray:
    return np.add.reduce(right) / total


def _wrong(total: int, *right: np.ndarray) -> np.ndarray:
    return 1 - _share(total, *right)


def _recall(total: int, kept: np.ndarray, *lost: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to be found."""
    there = kept + sum(lost)
    return np.where(there > 0, kept / np.maximum(there, 1e-12), np.nan)


def _range(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"

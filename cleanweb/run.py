"""A finished run, for Python: what the commands do, as methods. What they return is pandas, or a path.

    run = cleanweb.load_run("cleanweb-run")
    run.images("relabeled", where="confidence > 0.9")
    run.sql("SELECT verdict, count(*) AS n FROM images GROUP BY 1")

All errors are `CleanwebError`s: `UsageError` for what is asked wrongly, `RunError` for a folder that is no finished
run, `MachineError` for what the machine lacks. torch is loaded by `predict`, `classifier` and `export_model` alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cleanweb.errors import UsageError, did_you_mean
from cleanweb.records import MEANING
from cleanweb.remote import place
from cleanweb.schema import TABLES

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from cleanweb.audit import Audit
    from cleanweb.summary import Summary


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder that holds a manifest. Every call reads it anew: what `retag` has changed is seen at once."""

    folder: Path
    notes: tuple[str, ...] = ()  # what the user should know of how it came about, a line each

    @classmethod
    def open(cls, folder: Path | str = "cleanweb-run") -> "Run":
        """The run in that folder. Raises RunError where there is none, or one of another version."""
        from cleanweb import manifest

        manifest.read(Path(folder), "runs")
        return cls(Path(folder))

    # --- what it says -------------------------------------------------------------------------------------------

    def images(self, *only: str, where: str | None = None) -> "pd.DataFrame":
        """One row per sample, in the order of the crawl: path, given_label, verdict, final_label, p_clean …

        only: any of "clean", "relabeled", "ood", "unusable", "trainable"; default: all. where: a condition in SQL, as
        "confidence > 0.9". Probabilities are in [0, 1], sizes in px and bytes. Raises UsageError where either is wrong.
        """
        from cleanweb import manifest

        if not only and where is None:
            return manifest.read(self.folder, "images")
        return manifest.select(self.folder, only or [*MEANING], where)

    def table(self, name: str) -> "pd.DataFrame":
        """A whole table of the manifest: "images", "classes", "reviews", "audits" … (`schema.TABLES`)."""
        from cleanweb import manifest

        if name not in TABLES:
            raise UsageError(f"There is no table {name!r}.{did_you_mean(name, TABLES)} There are: {', '.join(TABLES)}.")
        return manifest.read(self.folder, name)

    def sql(self, query: str) -> "pd.DataFrame":
        """The rows of one SQL query on the manifest. Raises UsageError, in DuckDB's words, where it is wrong."""
        from cleanweb import manifest

        return manifest.frame(self.folder, query)

    def summary(self) -> "Summary":
        """What `cleanweb fit` prints at its end: print(run.summary()), or its fields."""
        from cleanweb import summary

        return summary.summarise(self.folder, [*self.notes])

    # --- what can be done with it -------------------------------------------------------------------------------

    def retag(
        self, min_precision: float | None = None, keep: float | None = None, trusted: Path | str | None = None
    ) -> "Run":
        """Decide again from the stored scores, in place and in seconds; gives the run back.

        The most probable verdicts; or, as clean, as many images as leave the share `min_precision` of them right, or
        the share `keep` of them. trusted: a table of labels that a person has verified since. Raises RunError where
        there are no scores, UsageError where a share is none or the table does not fit the crawl.
        """
        from cleanweb import retagging

        table = None if trusted is None else place(trusted)
        done = retagging.retag(self.folder, retagging.target(min_precision, keep), table)
        return Run(self.folder, tuple(done.notes))

    def export(
        self, out: Path | str, format: str | None = None, *, only: Sequence[str] = ("trainable",),
        where: str | None = None, link: str = "copy", split: str | None = None, seed: int = 0, relabel: bool = True,
    ) -> int:  # fmt: skip
        """Hand over the images that `only` and `where` select, as in `images`, and what else `cleanweb export` takes.

        format: by default the table that `out` ends in, else csv. Gives how many were written: files that cannot be
        read are left out. Raises UsageError where `out` exists, lies inside the crawl, or a choice is wrong;
        MachineError where the disk refuses.
        """
        from cleanweb import exporting

        return exporting.export(
            self.folder, format, place(out), only=only, where=where, link=link, split=split, seed=seed, relabel=relabel
        ).written

    def export_model(self, out: Path | str, format: str = "timm") -> Path:
        """Hand over the retrained classifier, as `cleanweb export-model` does; gives its folder.

        format: "timm", "onnx" or "torch-export". Raises UsageError where `out` exists, RunError where there is no
        classifier, MachineError where a library is missing or the copy does not say what the original says.
        """
        from cleanweb import modelexport

        modelexport.export(self.folder, format, Path(out))
        return Path(out)

    def audit(
        self, n: int | None = None, seed: int | None = None, *, sheet: Path | str | None = None,
        answers: Path | str | None = None, who: str = "",
    ) -> "Audit":  # fmt: skip
        """How far can it be trusted? Draws n pictures (default: 200) for a person to judge, or goes on with those that
        were drawn; gives the audit: print it, or take its `to_json()`, or its `rows`, a DataFrame.

        sheet: where to write the pictures as a table to fill in; answers: such a table, filled in. Another seed draws
        a new audit. Raises UsageError where `sheet` exists or the answers do not fit, CrawlError where there is
        nothing to judge.
        """
        from cleanweb import report
        from cleanweb.audit import draw
        from cleanweb.audit import sheet as sheets

        if answers is not None:
            if n is not None or seed is not None or sheet is not None:
                raise UsageError("answers are to the audit drawn last: give them without n, seed and sheet.")
            told = sheets.take(self.folder, Path(answers), who)
            report.write_if_possible(self.folder)
            return told
        drawn = draw.go_on(self.folder, n, seed)
        if sheet is not None:
            sheets.write(self.folder, drawn, Path(sheet))
        return drawn

    def report(self, out: Path | str | None = None) -> Path:
        """Write the report, one HTML file; gives its path. out: default: report.html in the run folder, replaced.

        Raises UsageError where something else is at `out`: only the run's own report is ever replaced.
        """
        from cleanweb import report

        return report.write(self.folder, None if out is None else Path(out))

    def predict(self, images: Path | str | Iterable[Path | str], device: str = "auto") -> "pd.DataFrame":
        """Label images, or folders of images, with the retrained classifier.

        One row per file: path, label, probability (of that label, in [0, 1]), error. A file that is no image has no
        label, and an error. Raises RunError where there is no classifier, MachineError where there is no such device.
        """
        import pandas as pd

        from cleanweb import prediction

        sources = [place(x) for x in ([images] if isinstance(images, Path | str) else images)]
        answers = [asdict(answer) for answer in prediction.predict(sources, self.folder / "classifier", device)]
        return pd.DataFrame(answers, columns=["path", "label", "probability", "error"])

    def classifier(self) -> "tuple[nn.Module, list[str]]":
        """The retrained classifier, in evaluation mode, and its class names in the order of its logits."""
        from cleanweb import classifier

        return classifier.load_classifier(self.folder / "classifier")

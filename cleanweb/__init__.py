"""cleanweb: learn from a crawled image set with noisy labels; tag every image clean, relabeled or out of distribution.

    import cleanweb
    run = cleanweb.fit("crawl", labels="labels.csv")
    run.tables["images"]                                  # a pandas DataFrame, one row per sample
    model, class_names = cleanweb.load_classifier("cleanweb-run/classifier")

Importing this loads no torch; the first call does.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Verdict", "fit", "load_classifier", "retag"]

if TYPE_CHECKING:
    from torch import nn

    from cleanweb.records import Verdict
    from cleanweb.runfolder import Run


def fit(
    source: Path | str, labels: Path | str | None = None, out: Path | str = "cleanweb-run", **settings: Any
) -> "Run":
    """Learn from the noisy labels of a crawl, judge every image, write the manifest into `out`.

    settings: the fields of `cleanweb.settings.Settings` by name. Raises CleanwebError with words to act on. Reads with
    worker processes: in a script, call it under `if __name__ == "__main__":`, or give workers=0.
    """
    from cleanweb import pipeline
    from cleanweb.settings import Settings

    table = None if labels is None else Path(labels)
    return pipeline.fit(Settings(source=Path(source), labels=table, out=Path(out), **settings))


def retag(
    run: Path | str = "cleanweb-run",
    min_precision: float | None = None,
    keep: float | None = None,
    trusted: Path | str | None = None,
) -> "Run":
    """Decide again from the stored scores of a run: the most probable verdicts, or, as clean, as many images as leave
    the share `min_precision` of them right, or the share `keep` of them. trusted: a table of labels verified since.
    Raises RunError where there are no scores."""
    from cleanweb import retagging

    table = None if trusted is None else Path(trusted)
    return retagging.retag(run, retagging.target(min_precision, keep), table)


def load_classifier(folder: Path | str) -> "tuple[nn.Module, list[str]]":
    """The retrained classifier, in evaluation mode, and its class names in the order of its logits."""
    from cleanweb import network

    return network.load_classifier(Path(folder))


def __getattr__(name: str) -> Any:
    if name == "Verdict":
        from cleanweb.records import Verdict

        return Verdict
    raise AttributeError(f"module 'cleanweb' has no attribute {name!r}")

"""cleanweb: learn from a crawled image set with noisy labels; tag every image clean, relabeled or out of distribution.

    import cleanweb

    run = cleanweb.fit("crawl", labels="labels.csv", progress=True)
    run.images("ood")                                     # a pandas DataFrame, one row per image
    run.sql("SELECT verdict, count(*) AS n FROM images GROUP BY 1")
    run = cleanweb.load_run("cleanweb-run")               # another day

Importing this loads neither torch nor pandas; the first call does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["CleanwebError", "Run", "Verdict", "fit", "load_classifier", "load_run", "retag"]

if TYPE_CHECKING:
    from torch import nn

    from cleanweb.errors import CleanwebError
    from cleanweb.records import Verdict
    from cleanweb.run import Run

_LATER = {"CleanwebError": "cleanweb.errors", "Run": "cleanweb.run", "Verdict": "cleanweb.records"}


def fit(
    source: Path | str,
    labels: Path | str | None = None,
    out: Path | str = "cleanweb-run",
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    trusted: Path | str | None = None,
    merge_labels: bool = False,
    allow_outside: bool = False,
    method: str = "josrc",
    recipe: str = "auto",
    noise_rate: float | None = None,
    backbone: str = "auto",
    weights: str = "auto",
    tune: str = "auto",
    pretrain: str = "auto",
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    deterministic: bool = False,
    workers: int | None = None,
    cache_dir: Path | str | None = None,
    cache_size: float | None = None,
    parts: str | None = None,
    fresh: bool = False,
    hyperparameters: Mapping[str, float | int | str] | None = None,
    progress: bool = False,
) -> "Run":
    """Learn from the noisy labels of a crawl, judge every image, write the manifest into `out`.

    The arguments are the options of `cleanweb fit`; None means: chosen, and said in the run's notes. image_size is in
    px, cache_size in GB, noise_rate a share in [0, 1), hyperparameters what `--set` takes, as {"lr": 0.01}. progress:
    bars on stderr. No settings file is read. An interrupted run goes on when it is called again.

    Raises CleanwebError with words to act on: UsageError for a wrong argument, CrawlError for a crawl that cannot be
    learned from, MachineError for what the machine lacks, RunError where `out` holds another run (give fresh=True).
    Reads with worker processes: in a script, call it under
    `if __name__ == "__main__":`, or give workers=0.
    """
    asked = dict(locals())
    from cleanweb import pipeline
    from cleanweb.remote import place
    from cleanweb.run import Run
    from cleanweb.settings import Settings, checked, located, outputs
    from cleanweb.terminal import showing_progress

    del asked["progress"]
    asked |= {name: place(path) for name in ("source", "labels", "trusted") if (path := asked[name]) is not None}
    asked |= outputs(out) | {"parts": located(parts)}
    asked["cache_dir"] = None if cache_dir is None else Path(cache_dir)
    asked["hyperparameters"] = {name: checked(name, value) for name, value in (hyperparameters or {}).items()}
    with showing_progress(quiet=not progress) as show:
        done = pipeline.fit(Settings(**asked), show)
    return Run(done.folder, tuple(done.notes))


def load_run(folder: Path | str = "cleanweb-run") -> "Run":
    """A finished run. Raises RunError where there is none."""
    from cleanweb.run import Run

    return Run.open(folder)


def retag(
    run: Path | str = "cleanweb-run",
    min_precision: float | None = None,
    keep: float | None = None,
    trusted: Path | str | None = None,
) -> "Run":
    """`Run.retag` of the run in that folder."""
    return load_run(run).retag(min_precision, keep, trusted)


def load_classifier(folder: Path | str) -> "tuple[nn.Module, list[str]]":
    """The retrained classifier, in evaluation mode, and its class names in the order of its logits."""
    from cleanweb import classifier

    return classifier.load_classifier(Path(folder))


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'cleanweb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

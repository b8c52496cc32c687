"""Clean labelled sets, which worlds are made of. Read as any crawl is; the images stay where they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cleanweb import readers
from cleanweb.errors import UsageError
from cleanweb.records import Sample, Status

HELD_OUT = 0.2  # of each class, where a source has no test split of its own


@dataclass(frozen=True)
class Source:
    """A clean labelled set of n images of K classes; `opening.contents` opens the images."""

    samples: list[Sample]
    labels: np.ndarray  # (n,) int64
    in_test: np.ndarray  # (n,) bool: kept for testing
    names: list[str]  # of the K classes
    superclass: np.ndarray | None  # (K,) int64; None where none are known
    name: str = ""  # what its folder or file is called


def read_source(path: Path, seed: int = 0) -> Source:
    """Parquet files as Hugging Face writes them, or a folder with one sub-folder per class, or whatever is a crawl.

    Classes stand in the order of the column label_id where there is one, else of their names; superclasses are those
    of the column coarse_id. The test images are those of Parquet files called test…; where there are none, a fifth of
    each class by seed.
    """
    samples = readers.read(path, allow_outside=True).samples  # a clean set of one's own may be made of links
    ids, coarse = _column(path, "label_id"), _column(path, "coarse_id")
    usable = [i for i, sample in enumerate(samples) if sample.status == Status.OK]
    row_of = {str(samples[i].given_label): i for i in usable}  # one for each class
    names = sorted(row_of, key=lambda name: (int(ids[row_of[name]] or 0) if ids else 0, name))
    if unfit := [name for name in names if Path(name).name != name]:
        raise UsageError(f"{path}: the class {unfit[0]!r} cannot name a folder. Rename it.")
    class_of = {name: c for c, name in enumerate(names)}
    found = [samples[i] for i in usable]
    labels = np.array([class_of[str(sample.given_label)] for sample in found])
    in_test = np.array([sample.row is not None and Path(sample.file).name.startswith("test") for sample in found])
    superclass = np.unique([coarse[row_of[name]] for name in names], return_inverse=True)[1] if coarse else None
    in_test = in_test if in_test.any() else _held_out(labels, seed)
    return Source(found, labels, in_test, names, superclass, path.resolve().name)


def _column(path: Path, name: str) -> list[str | None] | None:
    """What a column says of every image; None where there is no such column. It is read as if it were the label."""
    try:
        return [sample.given_label for sample in readers.read(path, label_column=name, allow_outside=True).samples]
    except UsageError:
        return None


def _held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    rng = stream(seed, "held out")
    in_test = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == c))
        in_test[own[: round(HELD_OUT * len(own))]] = True
    return in_test


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers for one purpose: what else is drawn from the same seed does not shift them."""
    return np.random.default_rng([seed, *purpose.encode()])

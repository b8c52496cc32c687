"""Worlds: a clean labelled set made into an ordinary crawl whose truth is known and hidden.

    out/crawl/000000.webp …        the images as they were encoded, in an order and under names that tell nothing
    out/labels.csv                 path, label: what a crawler would hand over
    out/truth.csv                  path, label, truth: the true label, empty where the image is of no class
    out/test/<class>/000000.webp   clean images of the same classes, that the crawl does not hold
    out/world.json                 the world, its source, the seed, the classes

Same source, world and seed, same files. Every kind of choice has a random stream of its own, so that worlds of one seed
share what they can: the classes and images of "noise5" are those of "noise50".
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from cleanweb import opening, spreadsheet, writers
from cleanweb.bench import noise
from cleanweb.bench.sources import Source, stream
from cleanweb.errors import UsageError
from cleanweb.records import Progress, Sample, silent

TINY = 8  # images of a tiny class: fewer than are judged
FOREIGN = -1  # the true class of an image of no class


# --- what worlds there are ------------------------------------------------------------------------------------------


Noise = Literal["symmetric", "pair", "block", "superclass", "instance"]


@dataclass(frozen=True)
class World:
    """A recipe: which classes of a source become the crawl's, which are foreign to it, and how labels go wrong."""

    name: str
    noise: Noise = "symmetric"
    rate: float = 0.2  # of wrong labels among the images that belong to a class, in [0, 1]
    n_inside: int = 10
    n_outside: int = 3  # classes whose images are foreign; they are labelled uniformly
    per_class: int | None = 500  # images of a class; None: all there are
    # by id; by seed; foreign classes of the same superclasses, of other ones; whole superclasses inside
    choice: Literal["first", "any", "near", "far", "families"] = "any"
    imbalance: float = 1.0  # the largest class to the smallest, exponential between them (Cui et al. 2019)
    n_tiny: int = 0  # of the classes inside, how many have no more than `TINY` images
    ood_share: float | None = None  # of all images; None: as the foreign classes give


# the four of Jo-SRC's tables, as its code draws them
_PAPER: dict[str, tuple[Noise, float]] = {
    "sym20": ("symmetric", 0.2),
    "sym50": ("symmetric", 0.5),
    "sym80": ("symmetric", 0.8),
    "asym40": ("pair", 0.4),
}

WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        # Jo-SRC's CIFAR80N-O and CIFAR100N-C
        *(World(f"cifar80n-o-{name}", *what, 80, 20, None, "first") for name, what in _PAPER.items()),
        *(World(f"cifar100n-c-{name}", *what, 100, 0, None, "first") for name, what in _PAPER.items()),
        World("cifar100n-c-block40", "block", 0.4, 100, 0, None, "first"),  # asymmetric as JoCoR's code draws it
        # the first of them, in minutes
        *(World(f"scaled-{name}", *what, 16, 4) for name, what in _PAPER.items()),
        # where cleaning may break: one thing at a time
        World("few-classes", n_inside=5, n_outside=1),
        World("many-classes", n_inside=80, n_outside=20, per_class=100),
        World("tiny-classes", n_inside=20, n_outside=4, n_tiny=5),
        World("imbalance50", imbalance=50, ood_share=0.2),
        World("noise0", rate=0, n_outside=0),
        World("noise5", rate=0.05),
        World("noise20"),  # what the others are to be compared with
        World("noise50", rate=0.5),
        World("noise80", rate=0.8),
        World("no-ood", n_outside=0),
        World("ood50", n_outside=10, ood_share=0.5),
        World("near-ood", choice="near"),
        World("far-ood", choice="far"),
        World("human", "superclass", choice="families"),
        World("instance20", "instance"),
    )
}


# --- drawing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """A world drawn from a source, before labels go wrong: n images of K classes and of none, in the crawl's order."""

    samples: list[Sample]
    truth: np.ndarray  # (n,) int64, `FOREIGN` where of no class
    classes: list[str]  # (K,)
    foreign_classes: list[str]
    superclass: np.ndarray | None  # (K,)
    test: list[Sample]
    test_labels: np.ndarray  # of those: int64


def draw(world: World, source: Source, seed: int, foreign: Source | None = None) -> Drawn:
    """Choose classes and images. foreign: another source, whose classes are the foreign ones; else they are `source`'s
    own. Raises UsageError where a source does not hold what the world asks for."""
    inside, outside = choose_classes(world, source, seed, foreign)
    strange = foreign or source
    rng = stream(seed, "images")
    own = [_some(source, c, size, rng) for c, size in zip(inside, class_sizes(world), strict=True)]
    others = [_some(strange, c, world.per_class, rng) for c in outside]
    rows = np.concatenate(own)
    foreign_rows = _share(np.concatenate([np.zeros(0, int), *others]), len(rows), world, rng)
    truth = np.concatenate([np.repeat(np.arange(len(own)), list(map(len, own))), np.full(len(foreign_rows), FOREIGN)])
    samples = [source.samples[i] for i in rows] + [strange.samples[i] for i in foreign_rows]
    order = stream(seed, "order").permutation(len(samples))
    place = np.full(len(source.names), FOREIGN)
    place[inside] = np.arange(len(inside))
    test = np.flatnonzero(source.in_test & (place[source.labels] != FOREIGN))
    return Drawn(
        samples=[samples[i] for i in order],
        truth=truth[order],
        classes=[source.names[c] for c in inside],
        foreign_classes=[strange.names[c] for c in outside],
        superclass=None if source.superclass is None else source.superclass[inside],
        test=[source.samples[i] for i in test],
        test_labels=place[source.labels[test]],
    )


def choose_classes(
    world: World, source: Source, seed: int, foreign: Source | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The classes inside, of `source`, and the foreign ones, of `foreign` or else of `source` too: ids, in the order in
    which they are the crawl's. Raises UsageError where there are not enough."""
    rng, families = stream(seed, "classes"), np.empty(0) if source.superclass is None else source.superclass
    if world.choice in ("near", "far", "families") and (not len(families) or foreign):
        raise UsageError(f"The world {world.name} needs one source whose superclasses are known (column coarse_id).")
    n, k = len(source.names), world.n_inside
    order = np.arange(n) if world.choice == "first" else rng.permutation(n)
    if world.choice == "families":  # one superclass after the other, as far as they go inside
        order = order[rng.permutation(n)[families[order]].argsort(kind="stable")]
        order[k:] = rng.permutation(order[k:])
    inside, outside = order[:k], order[k:]
    if foreign:  # which may hold some of the same classes
        known = [foreign.names.index(source.names[c]) for c in inside if source.names[c] in foreign.names]
        outside = rng.permutation(np.delete(np.arange(len(foreign.names)), known))
    if world.choice in ("near", "far"):
        near = np.isin(families[outside], families[inside])
        outside = outside[near if world.choice == "near" else ~near]
    if len(inside) < k or len(outside) < world.n_outside:
        raise UsageError(
            f"The world {world.name} asks for {k} classes and {world.n_outside} foreign ones; found {len(inside)} and "
            f"{len(outside)}."
        )
    return inside, outside[: world.n_outside]


def class_sizes(world: World) -> list[int | None]:
    """How many images each class inside shall have, largest first; None where all."""
    if world.per_class is None:
        return [None] * world.n_inside
    ranks = np.arange(world.n_inside) / (world.n_inside - 1)
    sizes = np.round(world.per_class * world.imbalance**-ranks).astype(int)
    sizes[world.n_inside - world.n_tiny :] = TINY
    return sizes.tolist()


def _some(source: Source, c: int, size: int | None, rng: np.random.Generator) -> np.ndarray:
    """Up to `size` of the class's training images."""
    return rng.permutation(np.flatnonzero((source.labels == c) & ~source.in_test))[:size]


def _share(foreign: np.ndarray, n_inside: int, world: World, rng: np.random.Generator) -> np.ndarray:
    """As many of the foreign images as are `ood_share` of all."""
    if world.ood_share is None:
        return foreign
    wanted = round(n_inside * world.ood_share / (1 - world.ood_share))
    if wanted > len(foreign):
        raise UsageError(f"The world {world.name} asks for {wanted:,} foreign images; found {len(foreign):,}.")
    return rng.permutation(foreign)[:wanted]


# --- labels ---------------------------------------------------------------------------------------------------------


def given_labels(world: World, drawn: Drawn, seed: int, pixels: Callable[[], np.ndarray]) -> np.ndarray:
    """What the crawl calls its images: (n,) int64. pixels() gives (n, d), asked for only where the noise needs them."""
    rng, k, inside = stream(seed, "labels"), len(drawn.classes), drawn.truth != FOREIGN
    truth = drawn.truth[inside]
    given = noise.open_set_labels(len(drawn.truth), k, rng)
    match world.noise:
        case "instance":
            given[inside] = noise.instance_dependent(truth, world.rate, pixels()[inside], k, rng)
            return given
        case "symmetric":
            matrix = noise.symmetric(k, world.rate)
        case "pair":
            matrix = noise.pair_flip(k, world.rate)
        case "block":
            matrix = noise.block_flip(k, world.rate)
        case "superclass":
            assert drawn.superclass is not None, "choose_classes has asked for it"
            matrix = noise.superclass_flip(drawn.superclass, world.rate)
    given[inside] = noise.flip(truth, matrix, rng)
    return given


# --- writing --------------------------------------------------------------------------------------------------------


def write(
    world: World, source: Source, seed: int, out: Path, foreign: Source | None = None, progress: Progress = silent
) -> None:
    """Draw a world and write it to `out`, whole or not at all. Raises UsageError where something stands there, and
    where a source does not hold what the world asks for; see `draw`."""
    drawn = draw(world, source, seed, foreign)
    with writers.draft(out, folder=True) as root:
        files = _write_images(drawn.samples, [root / "crawl"] * len(drawn.samples), partial(progress, "crawl"))
        test_folders = [root / "test" / drawn.classes[c] for c in drawn.test_labels]
        _write_images(drawn.test, test_folders, partial(progress, "test"))
        given = given_labels(world, drawn, seed, lambda: np.stack([_pixels(file) for file in files]))
        names = np.array([*drawn.classes, ""], dtype=object)  # names[FOREIGN] is no class
        columns = {"path": [file.name for file in files], "label": names[given], "truth": names[drawn.truth]}
        _write_table(pd.DataFrame(columns), root / "truth.csv")
        _write_table(pd.DataFrame(columns)[["path", "label"]], root / "labels.csv")
        facts = {
            "world": asdict(world),
            "source": f"{source.name} + {foreign.name}" if foreign else source.name,
            "seed": seed,
            "classes": drawn.classes,
            "foreign": drawn.foreign_classes,
        }
        (root / "world.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_images(samples: list[Sample], folders: list[Path], progress: Callable[[int, int], None]) -> list[Path]:
    """The images as they are, numbered, each into its folder. Their files, in the order of the samples."""
    files: dict[int, Path] = {}
    for folder in set(folders):
        folder.mkdir(parents=True)
    for i, content in opening.contents(samples):
        data = opening.bytes_of(content)
        files[i] = folders[i] / f"{i:06d}{_suffix(data, samples[i])}"
        files[i].write_bytes(data)
        progress(len(files), len(samples))
    return [files[i] for i in range(len(samples))]


def _suffix(data: bytes, sample: Sample) -> str:
    """As the bytes say, whatever the file was called."""
    try:
        with Image.open(BytesIO(data)) as picture:
            format = str(picture.format)
            return {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}.get(format, f".{format.lower()}")
    except UnidentifiedImageError:
        raise UsageError(f"{sample.path} is no image: a world is made of a clean set. Remove it.") from None


def _pixels(file: Path) -> np.ndarray:
    """A picture as 32 × 32 RGB in [0, 1], flat: (3072,) float32. That is what instance-dependent noise looks at."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB").resize((32, 32)), np.float32).reshape(-1) / 255


def _write_table(table: pd.DataFrame, file: Path) -> None:
    with file.open("x", encoding="utf-8", newline="") as text:
        spreadsheet.write(table.columns, table.itertuples(index=False), text, guarded=False)


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A world on disk, as `write` has left it."""

    folder: Path
    world: World
    source: str  # what the set is called that it is made of
    seed: int
    facts: dict[str, Any]  # all of world.json: equal facts, equal worlds
    truth: pd.DataFrame  # path, label, truth: text

    @property
    def wrong(self) -> float:
        """The share of labels that are wrong, in [0, 1]; those of foreign images all are."""
        return float((self.truth["label"] != self.truth["truth"]).mean())

    def __str__(self) -> str:
        return f"{self.world.name} of {self.source}, seed {self.seed}"


def read(folder: Path) -> Made:
    """What `write` wrote to `folder`. Raises UsageError where there is no world."""
    try:
        facts = json.loads((folder / "world.json").read_text(encoding="utf-8"))
        truth = pd.read_csv(folder / "truth.csv", dtype=str, keep_default_na=False)
        return Made(folder.resolve(), World(**facts["world"]), facts["source"], facts["seed"], facts, truth)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"There is no world in {folder}: looked for world.json and truth.csv, as "
                         "`cleanweb bench make` writes them.") from error  # fmt: skip

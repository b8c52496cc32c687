"""Every default once, with its source; the settings of a run."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from cleanweb.errors import UsageError, did_you_mean
from cleanweb.remote import Place, Remote, is_address, place

DEFAULT_RUN = "cleanweb-run"
TUNES = ("auto", "full", "head")
METHOD_NAMES = ("josrc", "standard", "decoupling", "coteaching", "coteaching+", "jocor", "dividemix", "codim")
PRETRAINS = ("auto", "none", "self", "sup")
PAPER_RECIPES = ("paper", "paper-c", "paper-ci", "paper-cio")  # Jo-SRC as printed, and its ablations in Table 6
CONTRASTS = ("self", "sup")  # contrastive pre-training without labels and with the given ones; CoDiM's variants
RECIPE_NAMES = ("auto", *PAPER_RECIPES, "snc", *CONTRASTS)  # snc: Jo-SNC, the authors' successor
ONLY = ("clean", "relabeled", "ood", "unusable", "trainable")
FORMATS = ("csv", "jsonl", "parquet", "imagefolder", "huggingface", "webdataset", "yolo", "coco", "fiftyone",
           "labelstudio")  # fmt: skip
MODEL_FORMATS = ("timm", "onnx", "torch-export")
LINKS = ("copy", "hardlink", "symlink")

# The default backbones: permissive licences, small enough for the device they are for.
DEFAULT_BACKBONE = {"cuda": "convnext_tiny.in12k_ft_in1k", "cpu": "mobilenetv2_100.ra_in1k"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyper-parameters of one method on one kind of network. Fractions are of all epochs."""

    epochs: int
    batch_size: int
    optimiser: str  # 'adam' or 'sgd' (Nesterov, momentum 0.9)
    lr: float
    weight_decay: float
    schedule: str  # 'linear' (constant, then linearly to 0 from decay_from on) or 'cosine'
    decay_from: float
    warmup: float  # t_w
    epsilon: float  # label smoothing in training, Eq. 5
    alpha: float  # weight of the consistency term, Eq. 10
    omega: float  # decay of the mean teacher, Eq. 8
    folds: int = 1  # cross-fitting: every sample is predicted without its label; 1: by a network that saw it
    rounds: int = 1  # of cross-fitting, each with folds and networks of its own; few images make single ones unsteady
    scale: float = 10.0  # s, Eq. 7
    tau_c: float = 0.75  # Eq. 12
    tau_m: float = 0.95  # Eq. 12
    refine: float = 0.0  # of the epochs, that many more: on labels set right by what held-out networks make of them
    noise_rate: float | None = None  # share of wrong labels, for the methods that must be told
    pretrain: str | None = None  # contrastive, before the method: one of `CONTRASTS`; by default not on few images

    def refining_epochs(self, epochs: int) -> int:
        """How many follow a run of that many epochs."""
        return round(self.refine * epochs)

    def warmup_epochs(self, epochs: int) -> int:
        """t_w for a run of that many epochs, at least 1."""
        return max(1, round(self.warmup * epochs))


# From what to what a number may be, where it is given.
LEAST = {"epochs": 1, "batch_size": 2, "image_size": 16, "workers": 0, "cache_size": 0, "seed": 0}
MOST_SEED = 2**32 - 1  # every generator takes it, and it can be multiplied with
# What `--set` can change in a recipe: these words, or numbers from … to …. The rest of a recipe has options of its own.
_WORDS = {"optimiser": ("adam", "sgd"), "schedule": ("linear", "cosine")}
_RANGES = {"lr": (0, 1000), "weight_decay": (0, 1000), "decay_from": (0, 1), "warmup": (0, 1), "epsilon": (0, 1),
           "alpha": (0, 1), "omega": (0, 1), "folds": (1, 10), "rounds": (1, 10), "refine": (0, 10),
           "scale": (1e-6, 1e6), "tau_c": (0, 1), "tau_m": (0, 1)}  # fmt: skip
_OWN_OPTION = {"epochs": "--epochs", "batch_size": "--batch-size", "noise_rate": "--noise-rate",
               "pretrain": "--pretrain"}  # fmt: skip
HYPERPARAMETERS = (*_WORDS, *_RANGES)


def checked(name: str, value: object) -> float | int | str:
    """A hyper-parameter's value, in its type. Raises UsageError where there is no such one, or it cannot be that."""
    if name in _OWN_OPTION:
        raise UsageError(f"{name} has an option of its own: give {_OWN_OPTION[name]}.")
    if name not in HYPERPARAMETERS:
        raise UsageError(f"There is no hyper-parameter {name!r}.{did_you_mean(name, HYPERPARAMETERS)} "
                         f"There are: {', '.join(HYPERPARAMETERS)}.")  # fmt: skip
    if name in _WORDS:
        if value not in _WORDS[name]:
            raise UsageError(f"{name} is {' or '.join(_WORDS[name])}, not {value!r}.")
        return str(value)
    low, high = _RANGES[name]
    whole = {f.name: f.type for f in fields(Recipe)}[name] is int
    try:
        number = float(str(value))
    except ValueError:
        number = -inf
    if not low <= number <= high or (whole and number != int(number)):
        raise UsageError(f"{name} is a {'whole ' * whole}number from {low:g} to {high:g}, not {value!r}.")
    return int(number) if whole else number


# The paper: §4.1 and the authors' CIFAR configuration for small networks (200 epochs, t_w = 10, decay from epoch 80);
# their Food101N configuration for large ones (ResNet-50 from ImageNet weights, 50 epochs, t_w = 5). The paper trains no
# heads: the large values on the head's own schedule.
_PAPER = {
    "small": Recipe(200, 128, "adam", 1e-3, 0.0, "linear", 0.4, 0.05, epsilon=0.6, alpha=0.5, omega=0.99),
    "large": Recipe(50, 128, "sgd", 1e-3, 5e-3, "cosine", 0.0, 0.1, epsilon=0.65, alpha=0.5, omega=0.99),
    "head": Recipe(15, 128, "adam", 1e-3, 1e-2, "cosine", 0.0, 0.1, epsilon=0.65, alpha=0.5, omega=0.99),
}
# The default. Small: the paper's optimiser and smoothing, smaller batches and a longer warm-up, since epochs are few.
# Head: little smoothing, since a linear head on frozen features has nothing to be kept from but its last percent.
_AUTO = {
    "small": Recipe(40, 32, "adam", 1e-3, 1e-4, "linear", 0.4, 0.5, epsilon=0.3, alpha=0.5, omega=0.99,
                    folds=3, rounds=3, refine=0.5, pretrain="self"),
    "large": Recipe(20, 64, "sgd", 1e-2, 1e-4, "cosine", 0.0, 0.2, epsilon=0.3, alpha=0.5, omega=0.99,
                    folds=2),
    "head": Recipe(15, 128, "adam", 1e-3, 1e-2, "cosine", 0.0, 0.2, epsilon=0.1, alpha=0.5, omega=0.99,
                   folds=5),
}  # fmt: skip
RECIPES = dict.fromkeys(("auto", "snc", *CONTRASTS), _AUTO) | dict.fromkeys(PAPER_RECIPES, _PAPER)
# DivideMix passes over the images about five times as often an epoch, and divides them only after a short warm-up.
_DIVIDEMIX = {
    "small": {"epochs": 20, "warmup": 0.25, "folds": 2, "rounds": 1},
    "large": {"epochs": 10, "warmup": 0.2, "folds": 2},
    "head": {"epochs": 10, "warmup": 0.2, "folds": 5},
}
OF_METHOD = {"dividemix": _DIVIDEMIX, "codim": _DIVIDEMIX}
# Small networks, going on from what they have learned on labels that have been set right.
REFINING = Recipe(10, 32, "adam", 5e-4, 1e-4, "cosine", 0.0, 0.0, epsilon=0.0, alpha=0.0, omega=0.99)
# The classifier, retrained on the final labels; where all of the network was trained it goes on from there.
CLASSIFIER = {
    "small": Recipe(10, 64, "adam", 5e-4, 1e-4, "cosine", 0.0, 0.0, epsilon=0.1, alpha=0.0, omega=0.99),
    "large": Recipe(5, 64, "sgd", 5e-3, 1e-4, "cosine", 0.0, 0.0, epsilon=0.1, alpha=0.0, omega=0.99),
    "head": Recipe(15, 128, "adam", 1e-3, 1e-2, "cosine", 0.0, 0.0, epsilon=0.1, alpha=0.0, omega=0.99),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What `fit` was asked for. None means: chosen for the crawl and the machine, and said in the summary."""

    source: Place
    labels: Place | None = None
    out: Path = Path(DEFAULT_RUN)
    parts: str | None = None  # where images lie in Parquet parts: "here", or an address; None: nowhere, unless too big
    copy_to: Remote | None = None  # the finished run is copied there
    path_column: str | None = None
    label_column: str | None = None
    trusted: Place | None = None
    merge_labels: bool = False  # labels that differ only in capitals or spaces are one
    allow_outside: bool = False  # open files outside the crawl folder, too
    method: str = "josrc"
    recipe: str = "auto"
    noise_rate: float | None = None  # share of wrong labels, for the methods that must be told
    backbone: str = "auto"
    weights: str = "auto"
    tune: str = "auto"
    pretrain: str = "auto"
    epochs: int | None = None
    batch_size: int | None = None
    image_size: int | None = None  # px, square
    seed: int = 0
    device: str = "auto"
    deterministic: bool = False
    workers: int | None = None
    cache_dir: Path | None = None  # where decoded images are kept beyond the run
    cache_size: float | None = None  # GB of them, at most
    fresh: bool = False
    strict: bool = False
    hyperparameters: Mapping[str, float | int | str] = field(default_factory=dict)  # what --set changes in the recipe
    origin: Mapping[str, str] = field(default_factory=dict)  # setting → where it stands, if not on the command line

    def __post_init__(self) -> None:
        """Raises UsageError for a number that cannot be."""
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= (MOST_SEED if name == "seed" else inf):
                most = f", and at most {MOST_SEED}" * (name == "seed")
                raise UsageError(f"--{name.replace('_', '-')} is at least {least}{most}, not {value}.")

    def to_json(self) -> dict[str, object]:
        written = {k: str(v) if isinstance(v, Path | Remote) else v for k, v in asdict(self).items()}
        return {k: v for k, v in written.items() if v != {}}

    def changed(self, recipe: Recipe) -> Recipe:
        """The recipe with what was asked for instead of its own. Raises UsageError where that cannot be."""
        values: dict[str, Any] = {name: checked(name, value) for name, value in self.hyperparameters.items()}
        return replace(recipe, batch_size=self.batch_size or recipe.batch_size, noise_rate=self.noise_rate, **values)

    def words(self) -> list[str]:
        """What was set elsewhere than on the command line, and what --set has changed: a line each."""
        places = dict.fromkeys(self.origin.values())
        lines = [f"From {place}: {', '.join(k for k, v in self.origin.items() if v == place)}." for place in places]
        changed = ", ".join(f"{name} = {value}" for name, value in self.hyperparameters.items())
        return lines + [f"Changed in the recipe: {changed}."] * bool(changed)


def outputs(out: Path | str | Remote) -> dict[str, Any]:
    """Where a run is written: `out`, and `copy_to` where an address is given; then it is made on this machine first, in
    the usual folder, or that which CLEANWEB_RUN names."""
    at = place(out)
    if isinstance(at, Path):
        return {"out": at}
    here = os.environ.get("CLEANWEB_RUN", DEFAULT_RUN)
    return {"out": Path(DEFAULT_RUN if is_address(here) else here), "copy_to": at}


def located(parts: str | None) -> str | None:
    """Where the parts of a manifest go: "here", or an address. Raises UsageError for anything else."""
    if parts is None or parts == "here" or is_address(parts):
        return parts if parts in (None, "here") else str(place(str(parts)))
    raise UsageError(f"--parts is here (the run folder), or an address as s3://bucket/folder, not {parts}.")


def fingerprint(parts: object) -> str:
    """A short digest of anything that can be written as JSON: equal settings and crawls, equal digests."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def fingerprint_of_all(parts: Iterable[object]) -> str:
    """The same of many parts, one after the other: they need not all be in memory."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()

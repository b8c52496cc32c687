"""What is chosen for a run that the user left open: network, way of training, recipe, epochs. And why, in words."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from cleanweb import machine, methods
from cleanweb import settings as defaults
from cleanweb.backbone import Backbone, choose_backbone
from cleanweb.errors import UsageError
from cleanweb.methods import METHODS, TAKE_NOISE_RATE
from cleanweb.network import FROM_SCRATCH
from cleanweb.settings import Recipe, Settings
from cleanweb.views import Pixels

FEW_IMAGES = 6_000  # so many are learned from in one round; a half, a third of them in two, three: single networks from
# scratch differ much on few images, and their mean is better. Fewer teach a contrast too little (bench/EXPERIMENTS.md)
MANY_IMAGES = 20_000  # from here on a GPU trains the whole network; fewer images teach a frozen backbone's head more
SMALL_PX = 64  # images of up to this side
LEAST_WORK = 30_000  # images × epochs × networks: less is done before processes have started


@dataclass(frozen=True, slots=True)
class Training:
    """How to train."""

    tune: str  # 'full' or 'head'
    recipe: Recipe
    epochs: int
    classifier: Recipe  # for the classifier on the final labels
    classifier_epochs: int
    processes: int  # that fit networks at the same time
    rule: dict[str, float] | None  # how to decide: the paper's criteria, or None for the evidence
    words: list[str]  # what was chosen and why, a line each

    def mark(self) -> list[object]:
        """What it would not be the same training without."""
        return [self.tune, asdict(self.recipe), self.epochs, asdict(self.classifier), self.classifier_epochs]


def network(settings: Settings, device: torch.device) -> tuple[Backbone, Pixels]:
    """The backbone, its weights found, and how it wants its images. Raises UsageError where wishes do not go together,
    MachineError where something is not to be had."""
    _refuse_impossible(settings)
    kind = "cuda" if device.type == "cuda" else "cpu"
    backbone = choose_backbone(settings.backbone, settings.weights, defaults.DEFAULT_BACKBONE[kind])
    if settings.tune == "head" and not backbone.pretrained:
        raise UsageError(f"--tune head needs a pretrained backbone, and {backbone.name} starts from scratch: its "
                         "frozen features say nothing. Use --tune full, or another --backbone.")  # fmt: skip
    if backbone.pretrained and settings.hyperparameters.get("refine"):
        raise UsageError(f"--set refine is for networks that start from scratch, and {backbone.name} is pretrained.")
    config = backbone.config()
    size = settings.image_size or config["input_size"][-1]
    return backbone, Pixels(size, tuple(config["mean"]), tuple(config["std"]))


def _refuse_impossible(settings: Settings) -> None:
    """Raises UsageError where there is no such choice, or the method lacks the noise rate or has no use for it."""
    for what, asked, known in (("method", settings.method, METHODS), ("tune", settings.tune, defaults.TUNES),
                              ("pretrain", settings.pretrain, defaults.PRETRAINS)):  # fmt: skip
        if asked not in known:
            raise UsageError(f"There is no --{what} {asked}, only {', '.join(known)}.")
    recipes = METHODS[settings.method]
    if settings.recipe not in recipes:
        raise UsageError(f"--method {settings.method} has no recipe {settings.recipe!r}, only {', '.join(recipes)}.")
    rate, takes_rate = settings.noise_rate, settings.method in TAKE_NOISE_RATE
    if rate is None and takes_rate:
        raise UsageError(f"--method {settings.method} must be told the share of wrong labels: give --noise-rate.")
    if rate is not None and not takes_rate:
        raise UsageError(f"--method {settings.method} takes no --noise-rate; {', '.join(TAKE_NOISE_RATE)} do.")
    if rate is not None and not 0 <= rate < 1:
        raise UsageError(f"--noise-rate is a share from 0 to below 1, not {rate}.")
    _pretrain(settings)


def training(settings: Settings, device: torch.device, backbone: Backbone, n: int) -> Training:
    """For n images with this backbone on this device."""
    pretrain = _pretrain(settings)
    tune, why = _tune(settings.tune, device, backbone, n, pretrain)
    size = "head" if tune == "head" else "large" if backbone.pretrained else "small"
    recipe = _recipe(settings, size, n, pretrain)
    classifier = defaults.CLASSIFIER[size]
    epochs = settings.epochs or recipe.epochs
    classifier_epochs = min(classifier.epochs, epochs)
    told = "" if settings.noise_rate is None else f" --noise-rate {settings.noise_rate:g}"
    words = [
        f"Backbone {backbone.name}, {'pretrained' if backbone.pretrained else 'from scratch'}, on {device}.",
        f"--tune {tune}: {why}",
        f"--method {settings.method} --recipe {settings.recipe}{told}, {epochs} epochs{_cross_fitting(recipe)}.",
        *settings.words(),
    ]
    if recipe.pretrain is not None:
        words.append(f"--pretrain {recipe.pretrain}: {epochs} epochs of contrastive learning before.")
    if more := recipe.refining_epochs(epochs):
        words.append(f"Then {more} epochs on labels that the networks set right for each other.")
    processes = _processes(settings, device, backbone, recipe, n * epochs)
    if processes > 1:
        words.append(f"{recipe.folds * recipe.rounds} networks, in {processes} processes at once.")
    by_criteria = settings.method == "josrc" and settings.recipe in defaults.PAPER_RECIPES
    rule = {"epsilon": recipe.epsilon, "tau": recipe.tau_m} if by_criteria else None
    words = [backbone.why] * bool(backbone.why) + words
    return Training(tune, recipe, epochs, classifier, classifier_epochs, processes, rule, words)


def _recipe(settings: Settings, size: str, n: int, pretrain: str | None) -> Recipe:
    """The method's, for n images, and what was asked for. pretrain: as `_pretrain` gives it."""
    recipe = defaults.RECIPES[settings.recipe][size]
    own: dict[str, Any] = defaults.OF_METHOD.get(settings.method, {}).get(size, {})
    refined = getattr(methods.load(settings.method, settings.recipe), "refined", False)
    if not refined:
        own = {"refine": 0.0, **own}
    if refined and settings.pretrain == "auto" and n >= FEW_IMAGES:
        pretrain = recipe.pretrain
    rounds = max(1, min(recipe.rounds, FEW_IMAGES // n))
    recipe = settings.changed(replace(recipe, **{"pretrain": pretrain, "rounds": rounds, **own}))
    recipe = replace(recipe, folds=min(recipe.folds, n))  # none is empty
    if recipe.folds == 1 and "refine" not in settings.hyperparameters:
        recipe = replace(recipe, refine=0.0)  # it would believe what it remembers
    return recipe


def _processes(settings: Settings, device: torch.device, backbone: Backbone, recipe: Recipe, work: int) -> int:
    """Small networks on a CPU are fitted at the same time, a core or a few each; larger ones use all cores and memory
    there is. work: images × epochs."""
    networks = recipe.folds * recipe.rounds
    small = backbone.name in FROM_SCRATCH and (settings.image_size or 0) <= SMALL_PX
    if device.type != "cpu" or not small or work * networks < LEAST_WORK:
        return 1
    return min(networks, machine.cores() if settings.workers is None else max(settings.workers, 1))


def _cross_fitting(recipe: Recipe) -> str:
    rounds = f" in {recipe.rounds} rounds" * (recipe.rounds > 1)
    return f" for each of {recipe.folds} folds{rounds}" if recipe.folds > 1 else rounds


def _pretrain(settings: Settings) -> str | None:
    """What is asked for, else what the method is built on. Raises UsageError where only a head would learn."""
    asked = settings.pretrain
    of_method = getattr(methods.load(settings.method, settings.recipe), "pretrain", None)
    pretrain = {"auto": of_method, "none": None}.get(asked, asked)
    if settings.tune == "head" and (pretrain or of_method):
        what = f"--method {settings.method}" if of_method else f"--pretrain {pretrain}"
        raise UsageError(f"{what} trains the whole network, --tune head only its last layer. Use --tune full.")
    return pretrain


def _tune(asked: str, device: torch.device, backbone: Backbone, n: int, pretrain: str | None) -> tuple[str, str]:
    if asked != "auto":
        return asked, "as asked."
    if not backbone.pretrained:
        return "full", f"{backbone.name} starts from scratch: all of it has to learn."
    if pretrain is not None:
        return "full", "contrastive learning trains the whole network."
    if device.type != "cuda":
        return "head", f"on a {device.type} the frozen backbone's features and a linear head take minutes."
    if n < MANY_IMAGES:
        return "head", f"{n} images are few: a head on frozen features learns less of their noise."
    return "full", f"{n} images and a GPU."

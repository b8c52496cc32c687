"""Two ways to train a backbone on n images, one interface: learn from given labels, then retrain on final ones.

Full   the whole network learns (the paper's way; for GPUs, and for small networks from scratch).
Head   the backbone is frozen and its features are kept on disk; a linear head learns on them.

Either way every sample is predicted by a network that never saw its label (cross-fitting, where the recipe has more
than one fold): what a network was fitted to it remembers, and a wrong label remembered looks right.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from cleanweb import checkpoint, machine, methods, pretrain
from cleanweb.features import FeatureBatches, MeanView, extract, moments
from cleanweb.network import Backbone, FeatureHead, Network, TimmModel
from cleanweb.records import Progress
from cleanweb.score import Features, believe
from cleanweb.settings import Recipe
from cleanweb.train import EpochRecord, train
from cleanweb.views import ImageBatches, Pixels, loaded_side, strong, weak

log = logging.getLogger(__name__)

_SCORE_BATCH = 256
Load = Callable[[np.ndarray, int], np.ndarray]
N = TypeVar("N", Network, FeatureHead)


@dataclass(frozen=True, slots=True)
class Task:
    """What there is to learn: n images, the labels of those that have one, and the machine to do it on."""

    load: Load  # (positions, side_px) → uint8 (b, side, side, 3)
    labels: np.ndarray  # (n,) int64 given labels, −1 where none
    n_classes: int
    backbone: Backbone
    pixels: Pixels
    device: torch.device
    seed: int
    folder: Path  # for checkpoints and features: what a killed run goes on from
    progress: Progress
    watch: methods.Watch = methods.unwatched  # of the folds only the last is watched, and then the classifier


@dataclass(frozen=True, slots=True)
class Learned:
    """What the trained networks believe of all n images."""

    probs: np.ndarray  # (n, c), mean over views
    disagreement: np.ndarray  # (n,): share of the pairs of views that name different classes
    features: Features  # (n, d)
    space: np.ndarray  # (n,) int64: which network's features these are; only those of one space can be compared
    epochs: list[EpochRecord]  # of the last fold


class Full:
    """Train the whole network."""

    def __init__(self, task: Task):
        self.task = task
        self.learned: Network | None = None

    def learn(self, method: str, recipe_name: str, recipe: Recipe, epochs: int) -> Learned:
        task, cls = self.task, methods.load(method, recipe_name)

        def fit(part: Task, k: int, known: np.ndarray) -> tuple[methods.Method, list[EpochRecord]]:
            torch.manual_seed(part.seed)  # the new layers' start; torch offers no generator for it
            network = self._network(task.backbone.build(task.n_classes))
            if recipe.pretrain is not None:
                self._pretrain(recipe.pretrain, part, network, k, known, recipe, epochs)
            return self._train(part, cls, network, known, task.labels[known], recipe, epochs, _name(k, recipe))

        learned, learner = _cross_fit(task, recipe, fit, self._views)
        self.learned = copy.deepcopy(_of(Network, learner))
        return learned

    def retrain(self, final: np.ndarray, recipe: Recipe, epochs: int) -> tuple[TimmModel, list[EpochRecord]]:
        """Go on from what has been learned, on final labels (n,), −1 where there is none: the classifier."""
        known, cls = np.flatnonzero(final >= 0), methods.load("standard", "auto")
        assert self.learned is not None, "learn comes first"
        network, task = self._network(self.learned.model.requires_grad_(True)), _stage(self.task, "classifier")
        learner, records = self._train(task, cls, network, known, final[known], recipe, epochs, "classifier")
        return _of(Network, learner).model, records

    def _network(self, model: TimmModel) -> Network:
        network = Network(model, self.task.backbone.pretrained).to(self.task.device)
        return network.to(memory_format=torch.channels_last)

    def _pretrain(
        self, kind: str, part: Task, network: Network, k: int, known: np.ndarray, recipe: Recipe, epochs: int
    ) -> None:
        """Without labels once, on all images; with labels in every fold, or it would see those it is to judge."""
        if kind == "self":
            task, members, name = self.task, np.arange(len(self.task.labels)), "pre-training.pt"
        else:
            task, members, name = part, known, f"pre-training, {_name(k, recipe)}.pt"

        def batches(views: tuple[str, ...], batch_size: int) -> ImageBatches:
            return self._batches(task, members, task.labels[members], views, batch_size)

        pretrain.pretrain(kind, network, batches, recipe, epochs, task.folder / name, task.progress)
        network.pretrained = True  # a second network of its kind keeps it

    def _train(
        self, task: Task, cls: methods.MethodClass, network: Network, known: np.ndarray, labels: np.ndarray,
        recipe: Recipe, epochs: int, name: str,
    ) -> tuple[methods.Method, list[EpochRecord]]:  # fmt: skip
        learner = cls(network, len(known), task.n_classes, recipe, epochs).to(task.device)
        batches = self._batches(task, known, labels, cls.views, recipe.batch_size)
        file = task.folder / f"{name}.pt"
        return learner, train(learner, batches, recipe, epochs, file, task.progress, task.watch)

    def _batches(
        self, task: Task, members: np.ndarray, labels: np.ndarray, views: tuple[str, ...], batch_size: int
    ) -> ImageBatches:
        """Batches of these images (m,), numbered from 0, and their labels."""

        def load(positions: np.ndarray, side: int) -> np.ndarray:
            return task.load(members[positions], side)

        return ImageBatches(load, labels, task.pixels, views, batch_size, task.seed, task.device)

    def _views(self, positions: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        """The whole, two weak and two strong views of these images, in order."""
        task, size = self.task, self.task.pixels.size_px
        for chunk in np.array_split(positions, max(1, len(positions) // _SCORE_BATCH)):
            images = torch.from_numpy(task.load(chunk, loaded_side(size))).to(task.device)
            generator = torch.Generator().manual_seed(task.seed * 1_000_003 + int(chunk[0]))
            views = [torch.from_numpy(task.load(chunk, size)).to(task.device)]
            views += [view(images, size, generator) for view in (weak, weak, strong, strong)]
            yield tuple(task.pixels.normalise(view) for view in views)


class Head:
    """Train a linear head on frozen features."""

    def __init__(self, task: Task):
        self.task = task
        body, file = task.backbone.build(0), task.folder / "features.npy"
        n = len(task.labels)
        self.features = extract(body, task.load, n, task.pixels, file, task.device, progress=task.progress)

    def learn(self, method: str, recipe_name: str, recipe: Recipe, epochs: int) -> Learned:
        task, cls = self.task, methods.load(method, recipe_name)

        def fit(part: Task, k: int, known: np.ndarray) -> tuple[methods.Method, list[EpochRecord]]:
            torch.manual_seed(part.seed)  # a second head's start
            return self._train(part, cls, known, task.labels[known], recipe, epochs, _name(k, recipe))

        learned, _ = _cross_fit(task, recipe, fit, self._views, with_features=False)
        return replace(learned, features=MeanView(self.features), space=np.zeros(len(task.labels), np.int64))

    def retrain(self, final: np.ndarray, recipe: Recipe, epochs: int) -> tuple[TimmModel, list[EpochRecord]]:
        """A head fitted on final labels (n,), −1 where there is none, folded into the backbone: the classifier."""
        known, cls = np.flatnonzero(final >= 0), methods.load("standard", "auto")
        task = _stage(self.task, "classifier")
        learner, records = self._train(task, cls, known, final[known], recipe, epochs, "classifier")
        model = self.task.backbone.build(self.task.n_classes)
        _of(FeatureHead, learner).cpu().fold_into(model.get_classifier())
        return model, records

    def _train(
        self, task: Task, cls: methods.MethodClass, known: np.ndarray, labels: np.ndarray, recipe: Recipe, epochs: int,
        name: str,
    ) -> tuple[methods.Method, list[EpochRecord]]:  # fmt: skip
        mean, std = map(torch.as_tensor, moments(self.features, known))
        head = FeatureHead(mean, std.clamp_min(float(std.mean()) * 0.05 + 1e-6), task.n_classes)
        learner = cls(head, len(known), task.n_classes, recipe, epochs).to(task.device)
        batches = FeatureBatches(
            self.features, labels, len(cls.views), recipe.batch_size, task.seed, task.device, known
        )
        file = task.folder / f"{name}.pt"
        with machine.one_thread(task.device):
            return learner, train(learner, batches, recipe, epochs, file, task.progress, task.watch)

    def _views(self, positions: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        for chunk in np.array_split(positions, max(1, len(positions) // _SCORE_BATCH)):
            yield tuple(torch.from_numpy(view[chunk].astype(np.float32)).to(self.task.device) for view in self.features)


Fit = Callable[[Task, int, np.ndarray], tuple[methods.Method, list[EpochRecord]]]
Views = Callable[[np.ndarray], Iterator[tuple[Tensor, ...]]]


def _cross_fit(
    task: Task, recipe: Recipe, fit: Fit, views: Views, with_features: bool = True
) -> tuple[Learned, methods.Method]:
    """Fit on the labels of all folds but one, believe of that one; with one fold, fit on and believe of everything. In
    several rounds, with folds and networks of their own, whose beliefs are averaged.

    Gives what is believed, with the first round's features, and the last learner.
    """
    rounds = [_round(task, recipe, r, fit, views, with_features) for r in range(recipe.rounds)]
    learned, learner = rounds[0][0], rounds[-1][1]
    assert learner is not None, "the last round's is there"
    if len(rounds) > 1:
        probs, disagreement = (
            np.mean([getattr(of, name) for of, _ in rounds], axis=0) for name in ("probs", "disagreement")
        )
        learned = replace(learned, probs=probs, disagreement=disagreement, epochs=rounds[-1][0].epochs)
    return learned, learner


def _round(
    task: Task, recipe: Recipe, r: int, fit: Fit, views: Views, with_features: bool
) -> tuple[Learned, methods.Method | None]:
    """One round; with its learner, where it is the last one. An image without a label is in a fold too, and teaches
    nothing."""
    n_folds, n_parts = recipe.folds, recipe.folds * recipe.rounds
    seed = task.seed + r * 1_009
    fold, parts = folds(task.labels, n_folds, seed), list[dict[str, np.ndarray]]()
    learner: methods.Method | None = None
    records: list[EpochRecord] = []
    probs = np.empty((len(fold), task.n_classes), np.float32)  # each fold's into its place: copies would be large
    for k in range(r * n_folds, (r + 1) * n_folds):
        file, mine = task.folder / f"believed-{k + 1}.npz", fold == k % n_folds
        part = checkpoint.read_arrays(file)
        if part is None or k == n_parts - 1:  # the last learner is there at once, from its checkpoint
            known = np.flatnonzero((task.labels >= 0) & (~mine | (n_folds == 1)))
            learner, records = fit(replace(_part(task, k, n_parts), seed=seed), k, known)
            log.info("fold %d of %d, %d labels: loss %.4g in the first epoch, %.4g in the last, %.1f s", k + 1, n_parts,
                     len(known), records[0].loss, records[-1].loss, sum(r.seconds for r in records))  # fmt: skip
        if part is None:
            assert learner is not None, "it has just been fitted"
            held_out = np.flatnonzero(mine)
            believed = believe(learner.predict, views(held_out), with_features)
            part = dict(zip(("probs", "disagreement", "features"), believed, strict=True)) | {"held_out": held_out}
            checkpoint.write_arrays(file, part)
        probs[part["held_out"]] = part.pop("probs")
        parts.append(part)
        task.progress("score", k + 1, n_parts)
    disagreement = np.empty(len(fold), np.float32)
    features = np.empty((len(fold), parts[0]["features"].shape[1]), np.float32)
    for part in parts:
        disagreement[part["held_out"]], features[part["held_out"]] = part["disagreement"], part["features"]
    return Learned(probs, disagreement, features, fold, records), learner


def _of(kind: type[N], learner: methods.Method) -> N:
    """What it has trained, which is of the kind it was given."""
    trained = learner.trained()
    assert isinstance(trained, kind)
    return trained


def _name(k: int, recipe: Recipe) -> str:
    """What the checkpoint of the k-th network is called."""
    n = recipe.folds * recipe.rounds
    return "training" if n == 1 else f"fold {k + 1} of {n}"


def _part(task: Task, k: int, n: int) -> Task:
    """The k-th of n equal parts of a task: its progress is part of the whole's, and only the last is watched."""

    def progress(stage: str, done: int, total: int) -> None:
        task.progress(stage, k * total + done, n * total)

    return replace(task, progress=progress, watch=task.watch if k == n - 1 else methods.unwatched)


def _stage(task: Task, stage: str) -> Task:
    """The same task, its steps told under another name."""
    return replace(
        task,
        progress=lambda _, done, total: task.progress(stage, done, total),
        watch=lambda _, epoch, method: task.watch(stage, epoch, method),
    )


def folds(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """A fold in 0…k−1 for each of n samples, spread evenly within every class: (n,) int64."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(labels)), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % k
    return fold


class Tune(Protocol):
    """What both ways do."""

    def learn(self, method: str, recipe_name: str, recipe: Recipe, epochs: int) -> Learned: ...
    def retrain(self, final: np.ndarray, recipe: Recipe, epochs: int) -> tuple[TimmModel, list[EpochRecord]]: ...


TUNES: dict[str, Callable[[Task], Tune]] = {"full": Full, "head": Head}

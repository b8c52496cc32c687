"""Two ways to train a backbone on n images, one interface: learn from given labels, then retrain on final ones.

Full   the whole network learns (the paper's way; for GPUs, and for small networks from scratch).
Head   the backbone is frozen and its features are kept on disk; a linear head learns on them. Every sample is predicted
       by heads that never saw its label (cross-fitting), since a head remembers what it was fitted to.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cleanweb import methods
from cleanweb.features import FeatureBatches, extract
from cleanweb.network import Backbone, FeatureHead, Network
from cleanweb.records import Progress
from cleanweb.score import believe
from cleanweb.settings import Recipe
from cleanweb.train import EpochRecord, train
from cleanweb.views import ImageBatches, Pixels, centre, loaded_side, strong, weak

N_FOLDS = 5
_SCORE_BATCH = 256
Load = Callable[[np.ndarray, int], np.ndarray]


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
    folder: Path  # for checkpoints and features
    progress: Progress


@dataclass(frozen=True, slots=True)
class Learned:
    """What the trained model believes of all n images."""

    probs: np.ndarray  # (v, n, c)
    features: np.ndarray  # (n, d)
    epochs: list[EpochRecord]


class Full:
    """Train the whole network."""

    def __init__(self, task: Task):
        self.task = task
        torch.manual_seed(task.seed)  # the new layers' start; torch offers no generator for it
        self.model = task.backbone.build(task.n_classes)

    def learn(self, method: str, recipe_name: str, recipe: Recipe, epochs: int) -> Learned:
        task = self.task
        known = np.flatnonzero(task.labels >= 0)
        cls = methods.load(method, recipe_name)
        network = Network(self.model).to(task.device, memory_format=torch.channels_last)
        learner = cls(network, len(known), task.n_classes, recipe, epochs).to(task.device)
        batches = self._batches(known, task.labels[known], cls.views, recipe.batch_size)
        checkpoint = task.folder / "checkpoint" / "train.pt"
        records = train(learner, batches, recipe, epochs, checkpoint, task.progress)
        probs, features = believe(learner.predict, self._scoring_views())
        self.model = copy.deepcopy(learner.trained().model)
        return Learned(probs, features, records)

    def retrain(self, final: np.ndarray, recipe: Recipe, epochs: int) -> tuple[nn.Module, list[EpochRecord]]:
        """Fine-tune what has been learned on final labels (n,), −1 where there is none: the classifier."""
        task = self.task
        known = np.flatnonzero(final >= 0)
        network = Network(self.model).to(task.device, memory_format=torch.channels_last).requires_grad_(True)
        cls = methods.load("standard", "auto")
        learner = cls(network, len(known), task.n_classes, recipe, epochs).to(task.device)
        batches = self._batches(known, final[known], cls.views, recipe.batch_size)
        checkpoint = task.folder / "checkpoint" / "classifier.pt"
        records = train(learner, batches, recipe, epochs, checkpoint, task.progress)
        return learner.trained().model, records

    def _batches(self, known: np.ndarray, labels: np.ndarray, views: tuple[str, ...], batch_size: int) -> ImageBatches:
        task = self.task

        def load(positions: np.ndarray, side: int) -> np.ndarray:
            return task.load(known[positions], side)

        return ImageBatches(load, labels, self.task.pixels, views, batch_size, task.seed, task.device)

    def _scoring_views(self) -> Iterator[tuple[Tensor, ...]]:
        """The centre, two weak and two strong views of every image, in order."""
        task, size = self.task, self.task.pixels.size_px
        n = len(task.labels)
        for first in range(0, n, _SCORE_BATCH):
            positions = np.arange(first, min(first + _SCORE_BATCH, n))
            images = torch.from_numpy(task.load(positions, loaded_side(size))).to(task.device)
            generator = torch.Generator().manual_seed(task.seed * 1_000_003 + first)
            views = [centre(images, size)]
            views += [weak(images, size, generator) for _ in range(2)]
            views += [strong(images, size, generator) for _ in range(2)]
            yield tuple(self.task.pixels.normalise(view) for view in views)
            task.progress("score", int(positions[-1]) + 1, n)


class Head:
    """Train a linear head on frozen features."""

    def __init__(self, task: Task):
        self.task = task
        body, file = task.backbone.build(0), task.folder / "cache" / "features.npy"
        n = len(task.labels)
        self.features = extract(body, task.load, n, task.pixels, file, task.device, task.seed, progress=task.progress)

    def learn(self, method: str, recipe_name: str, recipe: Recipe, epochs: int) -> Learned:
        """Fold by fold: fit on the labels of the others, predict these. An image without a label is in a fold too, and
        teaches nothing."""
        task, cls = self.task, methods.load(method, recipe_name)
        fold = folds(task.labels, N_FOLDS, task.seed)
        probs = np.zeros((len(self.features), len(task.labels), task.n_classes), np.float32)
        records: list[EpochRecord] = []
        for k in range(N_FOLDS):
            known = np.flatnonzero((task.labels >= 0) & (fold != k))
            learner, records = self._fit(cls, known, task.labels[known], recipe, epochs)
            held_out = np.flatnonzero(fold == k)
            probs[:, held_out], _ = believe(learner.predict, self._stored_views(held_out))
            task.progress("train", k + 1, N_FOLDS)
        return Learned(probs, np.asarray(self.features, np.float32).mean(0), records)

    def retrain(self, final: np.ndarray, recipe: Recipe, epochs: int) -> tuple[nn.Module, list[EpochRecord]]:
        """A head fitted on final labels (n,), −1 where there is none, folded into the backbone: the classifier."""
        known = np.flatnonzero(final >= 0)
        cls = methods.load("standard", "auto")
        learner, records = self._fit(cls, known, final[known], recipe, epochs)
        model = self.task.backbone.build(self.task.n_classes)
        learner.trained().cpu().fold_into(model.get_classifier())
        return model, records

    def _fit(
        self, cls: type, known: np.ndarray, labels: np.ndarray, recipe: Recipe, epochs: int
    ) -> tuple[methods.Method, list[EpochRecord]]:
        task = self.task
        features = self.features[:, known]
        flat = features.reshape(-1, features.shape[2]).astype(np.float32)
        mean, std = torch.as_tensor(flat.mean(0)), torch.as_tensor(flat.std(0))
        head = FeatureHead(mean, std.clamp_min(float(std.mean()) * 0.05 + 1e-6), task.n_classes)
        learner = cls(head, len(known), task.n_classes, recipe, epochs).to(task.device)
        batches = FeatureBatches(features, labels, len(cls.views), recipe.batch_size, task.seed, task.device)
        return learner, train(learner, batches, recipe, epochs)

    def _stored_views(self, positions: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        for chunk in np.array_split(positions, max(1, len(positions) // 1024)):
            yield tuple(torch.from_numpy(view[chunk].astype(np.float32)).to(self.task.device) for view in self.features)


def folds(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """A fold in 0…k−1 for each of n samples, spread evenly within every class: (n,) int64."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(labels)), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % k
    return fold


TUNES = {"full": Full, "head": Head}

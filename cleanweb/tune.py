"""Two ways to train a backbone on n images, one interface: learn from given labels, then retrain on final ones.

Full   the whole network learns (the paper's way; for GPUs, and for small networks from scratch).
Head   the backbone is frozen and its features are kept on disk; a linear head learns on them.

Either way every sample is predicted by a network that never saw its label, where the recipe has more than one fold.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from cleanweb import atomic, checkpoint, machine, methods, pretrain, score, verdict
from cleanweb.crossfit import Learned, Lesson, Task, cross_fit, threads
from cleanweb.features import FeatureBatches, MeanView, extract, moments
from cleanweb.network import FeatureHead, Network, TimmModel
from cleanweb.records import silent
from cleanweb.refine import Refining
from cleanweb.settings import REFINING, Recipe
from cleanweb.train import EpochRecord, train
from cleanweb.views import ImageBatches, loaded_side, strong, weak

log = logging.getLogger(__name__)

_SCORE_BATCH = 256
N = TypeVar("N", Network, FeatureHead)


class Full:
    """Train the whole network."""

    def __init__(self, task: Task, lesson: Lesson):
        self.task, self.lesson = task, lesson
        self.learned: Network | None = None

    def learn(self) -> Learned:
        if self.lesson.recipe.pretrain == "self":
            self._pretrain_once()
        learned, learner = cross_fit(self)
        if self.lesson.refining_epochs:
            del learner  # with what it remembers of every image
            refined, learner = cross_fit(self._refined(learned))
            learned = replace(refined, epochs=learned.epochs, refining=refined.epochs)
        self.learned = copy.deepcopy(_of(Network, learner))
        return learned

    def fit(self, part: Task, k: int, known: np.ndarray) -> tuple[methods.Method, list[EpochRecord]]:
        task, lesson = self.task, self.lesson
        torch.manual_seed(part.seed)  # the new layers' start; torch offers no generator for it
        network = self._network(task.backbone.build(task.n_classes))
        if lesson.recipe.pretrain is not None:
            self._pretrain(lesson.recipe.pretrain, part, network, k, known)
        return self._train(part, lesson, network, known, task.labels[known], lesson.name(k))

    def retrain(self, final: np.ndarray, recipe: Recipe, epochs: int) -> tuple[TimmModel, list[EpochRecord]]:
        """Go on from what has been learned, on final labels (n,), −1 where there is none: the classifier."""
        known, task = np.flatnonzero(final >= 0), _stage(self.task, "classifier")
        assert self.learned is not None, "learn comes first"
        network, lesson = self._network(self.learned.model.requires_grad_(True)), _plain(recipe, epochs)
        with machine.threads(threads(task)):
            learner, records = self._train(task, lesson, network, known, final[known], "classifier")
        return _of(Network, learner).model, records

    def _network(self, model: TimmModel) -> Network:
        network = Network(model, self.task.backbone.pretrained).to(self.task.device)
        return network.to(memory_format=torch.channels_last)

    def _pretrain_once(self) -> None:
        """Before networks are fitted side by side: each of them goes on from what this leaves on the disk."""
        with machine.threads(threads(replace(self.task, processes=1))):
            torch.manual_seed(self.task.seed)
            network = self._network(self.task.backbone.build(self.task.n_classes))
            self._pretrain("self", self.task, network, 0, np.flatnonzero(self.task.labels >= 0))

    def _pretrain(self, kind: str, part: Task, network: Network, k: int, known: np.ndarray) -> None:
        """Without labels once, on all images; with labels in every fold, or it would see those it is to judge."""
        recipe, epochs = self.lesson.recipe, self.lesson.epochs
        if kind == "self":
            task, members, name = self.task, np.arange(len(self.task.labels)), "pre-training.pt"
        else:
            task, members, name = part, known, f"pre-training, {self.lesson.name(k)}.pt"

        def batches(views: tuple[str, ...], batch_size: int) -> ImageBatches:
            return self._batches(task, members, task.labels[members], views, batch_size)

        pretrain.pretrain(kind, network, batches, recipe, epochs, task.folder / name, task.progress)
        network.pretrained = True  # a second network of its kind keeps it

    def _refined(self, learned: Learned) -> "Refined":
        """Going on from what has been learned, on the labels that it sets right."""
        task = replace(self.task, folder=self.task.folder / "refined", watch=methods.unwatched)
        given = task.labels if task.given is None else task.given

        def targets() -> dict[str, np.ndarray]:
            scores = score.score(
                learned.probs, learned.disagreement, learned.features, learned.space, given, task.device
            )
            seen = scores.verified if task.verified is None else task.verified
            return {"targets": verdict.set_right(replace(scores, verified=seen))}

        atomic.make_folder(task.folder)
        atomic.remove_drafts(task.folder)
        checkpoint.once(task.folder / Refined.TARGETS, targets)
        return Refined(task, self.lesson)

    def _train(
        self, task: Task, lesson: Lesson, network: Network, known: np.ndarray, labels: np.ndarray, name: str
    ) -> tuple[methods.Method, list[EpochRecord]]:
        cls, recipe, epochs = lesson.method_class, lesson.recipe, lesson.epochs
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

    def views(self, positions: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        """The whole, two weak and two strong views of these images, in order."""
        task, size = self.task, self.task.pixels.size_px
        for chunk in np.array_split(positions, max(1, len(positions) // _SCORE_BATCH)):
            images = torch.from_numpy(task.load(chunk, loaded_side(size))).to(task.device)
            generator = torch.Generator().manual_seed(task.seed * 1_000_003 + int(chunk[0]))
            views = [torch.from_numpy(task.load(chunk, size)).to(task.device)]
            views += [view(images, size, generator) for view in (weak, weak, strong, strong)]
            yield tuple(task.pixels.normalise(view) for view in views)


class Refined(Full):
    """Networks that go on from where `Full` left them, on labels that those not taught them have set right."""

    TARGETS: ClassVar[str] = "targets.npz"

    def __init__(self, task: Task, lesson: Lesson):
        super().__init__(task, lesson)
        stored = checkpoint.read_arrays(task.folder / self.TARGETS)
        assert stored is not None, "whoever asks for this has left them there"
        self.targets = torch.from_numpy(stored["targets"])
        self.begun = Full(replace(task, folder=task.folder.parent), lesson)

    def fit(self, part: Task, k: int, known: np.ndarray) -> tuple[methods.Method, list[EpochRecord]]:
        task, lesson, begun = _stage(part, "refine"), self.lesson, replace(part, folder=self.begun.task.folder)
        network = _of(Network, self.begun.fit(replace(begun, progress=silent), k, known)[0]).requires_grad_(True)
        recipe = replace(REFINING, batch_size=lesson.recipe.batch_size)
        refining = Refining(network, self.targets[known].to(task.device), recipe.omega).to(task.device)
        batches = self._batches(task, known, task.labels[known], Refining.views, recipe.batch_size)
        file = task.folder / f"{lesson.name(k)}.pt"
        return refining, train(refining, batches, recipe, lesson.refining_epochs, file, task.progress)


class Head:
    """Train a linear head on frozen features."""

    def __init__(self, task: Task, lesson: Lesson):
        self.task, self.lesson = task, lesson
        body, file = task.backbone.build(0), task.folder / "features.npy"
        n = len(task.labels)
        self.features = extract(body, task.load, n, task.pixels, file, task.device, progress=task.progress)

    def learn(self) -> Learned:
        learned, _ = cross_fit(self, with_features=False)
        return replace(learned, features=MeanView(self.features), space=np.zeros(len(self.task.labels), np.int64))

    def fit(self, part: Task, k: int, known: np.ndarray) -> tuple[methods.Method, list[EpochRecord]]:
        torch.manual_seed(part.seed)  # a second head's start
        return self._train(part, self.lesson, known, self.task.labels[known], self.lesson.name(k))

    def retrain(self, final: np.ndarray, recipe: Recipe, epochs: int) -> tuple[TimmModel, list[EpochRecord]]:
        """A head fitted on final labels (n,), −1 where there is none, folded into the backbone: the classifier."""
        known, task = np.flatnonzero(final >= 0), _stage(self.task, "classifier")
        learner, records = self._train(task, _plain(recipe, epochs), known, final[known], "classifier")
        model = self.task.backbone.build(self.task.n_classes)
        _of(FeatureHead, learner).cpu().fold_into(model.get_classifier())
        return model, records

    def _train(
        self, task: Task, lesson: Lesson, known: np.ndarray, labels: np.ndarray, name: str
    ) -> tuple[methods.Method, list[EpochRecord]]:
        cls, recipe, epochs = lesson.method_class, lesson.recipe, lesson.epochs
        mean, std = map(torch.as_tensor, moments(self.features, known))
        head = FeatureHead(mean, std.clamp_min(float(std.mean()) * 0.05 + 1e-6), task.n_classes)
        learner = cls(head, len(known), task.n_classes, recipe, epochs).to(task.device)
        batches = FeatureBatches(
            self.features, labels, len(cls.views), recipe.batch_size, task.seed, task.device, known
        )
        file = task.folder / f"{name}.pt"
        with machine.one_thread(task.device):
            return learner, train(learner, batches, recipe, epochs, file, task.progress, task.watch)

    def views(self, positions: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        for chunk in np.array_split(positions, max(1, len(positions) // _SCORE_BATCH)):
            yield tuple(torch.from_numpy(view[chunk].astype(np.float32)).to(self.task.device) for view in self.features)


def _of(kind: type[N], learner: methods.Method) -> N:
    """What it has trained, which is of the kind it was given."""
    trained = learner.trained()
    assert isinstance(trained, kind)
    return trained


def _plain(recipe: Recipe, epochs: int) -> Lesson:
    """Cross-entropy on labels that are believed."""
    return Lesson("standard", "auto", recipe, epochs)


def _stage(task: Task, stage: str) -> Task:
    """The same task, its steps told under another name."""
    return replace(
        task,
        progress=lambda _, done, total: task.progress(stage, done, total),
        watch=lambda _, epoch, method: task.watch(stage, epoch, method),
    )


class Tune(Protocol):
    """What both ways do."""

    def learn(self) -> Learned: ...
    def retrain(self, final: np.ndarray, recipe: Recipe, epochs: int) -> tuple[TimmModel, list[EpochRecord]]: ...


TUNES: dict[str, Callable[[Task, Lesson], Tune]] = {"full": Full, "head": Head}

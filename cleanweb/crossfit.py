"""Cross-fitting: networks fitted on different parts of the labels, so that each image is judged by one that never saw
its label. What a network was fitted to it remembers, and a wrong label remembered looks right.

The networks know nothing of each other: where threads would wait for each other, they are fitted in processes of their
own, a thread or a few each, and torchrun's ranks share them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from cleanweb import checkpoint, distributed, machine, malloc, methods, scratch, workers
from cleanweb.backbone import Backbone
from cleanweb.errors import CleanwebError, MachineError
from cleanweb.labelnoise import blocks
from cleanweb.network import SMALL
from cleanweb.records import Progress, silent
from cleanweb.score import Features, believe
from cleanweb.settings import Recipe
from cleanweb.train import EpochRecord
from cleanweb.views import Pixels

log = logging.getLogger(__name__)

Load = Callable[[np.ndarray, int], np.ndarray]
SharedProgress = Callable[[int, str, int, int], None]  # of the k-th network: (k, stage, done, total)


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
    processes: int  # that fit networks at the same time; 1: this one
    progress: Progress
    watch: methods.Watch = methods.unwatched  # of the folds only the last is watched, and then the classifier
    given: np.ndarray | None = None  # (n,) labels as the crawl has them; None: those that are learned from
    verified: np.ndarray | None = None  # (n,) as in Scores; None: nobody has looked


@dataclass(frozen=True, slots=True)
class Lesson:
    """How it is to be learned."""

    method: str
    recipe_name: str
    recipe: Recipe
    epochs: int

    @property
    def method_class(self) -> methods.MethodClass:
        return methods.load(self.method, self.recipe_name)

    @property
    def refining_epochs(self) -> int:
        return self.recipe.refining_epochs(self.epochs)

    @property
    def n_networks(self) -> int:
        return self.recipe.folds * self.recipe.rounds

    def name(self, k: int) -> str:
        """What the checkpoint of the k-th network is called."""
        return "training" if self.n_networks == 1 else f"fold {k + 1} of {self.n_networks}"


@dataclass(frozen=True, slots=True)
class Learned:
    """What the trained networks believe of all n images."""

    probs: np.ndarray  # (n, c), mean over views
    disagreement: np.ndarray  # (n,): share of the pairs of views that name different classes
    features: Features  # (n, d)
    space: np.ndarray  # (n,) int64: which network's features these are; only those of one space can be compared
    epochs: list[EpochRecord]  # of the last fold
    refining: list[EpochRecord] = field(default_factory=list)  # those that followed


class Fitting(Protocol):
    """A way to fit one network. Picklable: it is sent to other processes."""

    @property
    def task(self) -> Task: ...

    @property
    def lesson(self) -> Lesson: ...

    def fit(self, part: Task, k: int, known: np.ndarray) -> tuple[methods.Method, list[EpochRecord]]:
        """The k-th network, fitted on the labels of these images (m,); goes on from its checkpoint."""

    def views(self, positions: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        """Views of these images (m,), in batches, as a network is asked what it believes of them."""


Make = Callable[[Task, Lesson], Fitting]


def cross_fit(way: Fitting, with_features: bool = True) -> tuple[Learned, methods.Method]:
    """Fit on the labels of all folds but one, believe of that one; with one fold, fit on and believe of everything. In
    several rounds, with folds and networks of their own, whose beliefs are averaged.

    Gives what is believed, with the first round's features, and the last learner.
    """
    task, recipe, n = way.task, way.lesson.recipe, way.lesson.n_networks
    n_images = len(task.labels)
    probs = scratch.zeros((n_images, task.n_classes), np.float32)  # each part into its place: copies would be large
    disagreement, features = np.zeros(n_images, np.float32), np.empty((n_images, 0), np.float32)
    with machine.threads(threads(task)):
        if task.processes > 1 or distributed.size() > 1:
            _fit_all(way, with_features)
        for k in range(n):
            part, learner, records = _believed(way, k, with_features)
            mine = part["held_out"]
            for rows in blocks(len(mine), task.n_classes):
                probs[mine[rows]] += part["probs"][rows] / recipe.rounds
            disagreement[mine] += part["disagreement"] / recipe.rounds
            if k < recipe.folds:
                if k == 0:
                    features = scratch.zeros((n_images, part["features"].shape[1]), np.float32)
                features[mine] = part["features"]
            task.progress("score", k + 1, n)
    assert learner is not None, "the last one is always there"
    return Learned(probs, disagreement, features, folds(task.labels, recipe.folds, task.seed), records), learner


def threads(task: Task) -> int:
    """Of each process that fits networks. One for the smallest, whose products take less than a millisecond: there
    threads bring little, and beside another program they take ten times as long (bench/EXPERIMENTS.md)."""
    if task.device.type != "cpu":
        return torch.get_num_threads()
    if task.backbone.name == SMALL:
        return 1
    return max(1, machine.cores() // task.processes) if task.processes > 1 else torch.get_num_threads()


def _believed(
    way: Fitting, k: int, with_features: bool
) -> tuple[dict[str, np.ndarray], methods.Method | None, list[EpochRecord]]:
    """What the k-th network believes of its own fold, from where an earlier run stopped; with the network and its
    epochs, where it had to be fitted or is the last. An image without a label is in a fold too, and teaches nothing."""
    task, lesson, n = way.task, way.lesson, way.lesson.n_networks
    file = task.folder / _believed_file(k)
    part, learner, records = checkpoint.read_arrays(file), None, list[EpochRecord]()
    if part is not None and k < n - 1:
        return part, learner, records
    n_folds, seed = lesson.recipe.folds, task.seed + k // lesson.recipe.folds * 1_009
    mine = folds(task.labels, n_folds, seed) == k % n_folds
    known = np.flatnonzero((task.labels >= 0) & (~mine | (n_folds == 1)))
    learner, records = way.fit(replace(_share(task, k, n), seed=seed), k, known)
    log.info("fold %d of %d, %d labels: loss %.4g in the first epoch, %.4g in the last, %.1f s", k + 1, n, len(known),
             records[0].loss, records[-1].loss, sum(r.seconds for r in records))  # fmt: skip
    if part is None:
        held_out = np.flatnonzero(mine)
        believed = believe(learner.predict, way.views(held_out), len(held_out), with_features)
        part = dict(zip(("probs", "disagreement", "features"), believed, strict=True)) | {"held_out": held_out}
        checkpoint.write_arrays(file, part)
    return part, learner, records


def _believed_file(k: int) -> str:
    return f"believed-{k + 1}.npz"


def _share(task: Task, k: int, n: int) -> Task:
    """The k-th of n equal parts of a task: its progress is part of the whole's, and only the last is watched."""

    def progress(stage: str, done: int, total: int) -> None:
        task.progress(stage, k * total + done, n * total)

    return replace(task, progress=progress, watch=task.watch if k == n - 1 else methods.unwatched)


def folds(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """A fold in 0…k−1 for each of n samples, spread evenly within every class: (n,) int64."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(labels)), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % k
    return fold


# --- in processes of their own --------------------------------------------------------------------------------------


def _fit_all(way: Fitting, with_features: bool) -> None:
    """Fit all networks that an earlier run has not: each leaves what it believes and its last checkpoint on the disk.
    The last one is left out where it is watched: who watches is in this process."""
    task, lesson = way.task, way.lesson
    mine = range(lesson.n_networks if task.watch is methods.unwatched else lesson.n_networks - 1)
    left = [k for k in mine if not (task.folder / _believed_file(k)).exists()]
    alone = replace(task, progress=silent, watch=methods.unwatched)
    elsewhere = partial(_fit_share, _made(way), alone, lesson, with_features)
    progress = _summed(task.progress, lesson.n_networks, len(mine) - len(left))
    distributed.share(lambda share: _fit_at_once(way, with_features, share, progress), elsewhere, left)


def _fit_share(make: Make, task: Task, lesson: Lesson, with_features: bool, share: Sequence[int]) -> None:
    """At another rank: some networks, without a word."""
    task = replace(task, device=distributed.device(task.device))
    _fit_at_once(make(task, lesson), with_features, share, lambda *_: None)


def _fit_at_once(way: Fitting, with_features: bool, share: Sequence[int], progress: SharedProgress) -> None:
    """Some networks, at the same time in processes of their own, or one after the other in this one."""
    task, lesson = way.task, way.lesson
    if task.processes == 1:
        for k in share:
            _believed(way, k, with_features)
        return
    if not share:  # a pool of no processes would begin in this one
        return
    alone = replace(task, processes=1, progress=_tell_progress, watch=methods.unwatched)
    make = partial(_made(way), alone, lesson)
    begin = partial(_begin, make, with_features, threads(task), log.getEffectiveLevel())
    pool = workers.run(begin, ((k, k) for k in share), min(task.processes, len(share)), inf, who="its process")
    with closing(pool):
        for k, answer in pool:
            match answer:
                case workers.Told(logging.LogRecord() as record):
                    logging.getLogger(record.name).handle(record)
                case workers.Told(done):
                    progress(k, *done)
                case workers.Failed(words):
                    raise MachineError(f"{lesson.name(k)} could not be fitted: {words}. Try --workers 0.")
                case CleanwebError():
                    raise answer


def _made(way: Fitting) -> Make:
    """How to make its like, elsewhere."""
    return cast(Make, type(way))


def _begin(
    make: Callable[[], Fitting], with_features: bool, threads: int, level: int, _: int
) -> Callable[[int], CleanwebError | None]:
    """In a process of its own: the function that fits the k-th network there."""
    torch.set_num_threads(threads)
    malloc.keep_freed()
    ours = logging.getLogger("cleanweb")
    ours.setLevel(level)
    ours.addHandler(_Teller())
    way = make()

    def fit(k: int) -> CleanwebError | None:
        try:
            _believed(way, k, with_features)
        except CleanwebError as error:  # the parent raises it
            return error
        return None

    return fit


def _tell_progress(stage: str, done: int, total: int) -> None:
    workers.tell((stage, done, total))


class _Teller(logging.Handler):
    """Hands log records on to the parent, in words: what else is in them may not be picklable."""

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = self.format(record), None, None
        workers.tell(record)


def _summed(progress: Progress, n: int, finished: int) -> SharedProgress:
    """One progress of n networks at once, of which some were finished before, from what each tells of its share."""
    of_stage: dict[str, dict[int, int]] = {}

    def tell(k: int, stage: str, done: int, total: int) -> None:
        share, steps = total // n, of_stage.setdefault(stage, {})
        steps[k] = done - k * share
        progress(stage, sum(steps.values()) + finished * share, total)

    return tell

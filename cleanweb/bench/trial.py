"""One trial: the product itself, run on a made world and held against its truth.

    world/runs/<name>/   what `cleanweb fit` writes, and accuracy.json: the test accuracy of the last epochs

An interrupted trial goes on by itself when it is run again, as `fit` does; a finished one is judged again.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cleanweb import atomic, inspection, machine, manifest, methods, pipeline, plan, readers
from cleanweb.backbone import Backbone
from cleanweb.bench import metrics, record
from cleanweb.bench.record import Result
from cleanweb.bench.worlds import Made
from cleanweb.classifier import load_classifier
from cleanweb.methods import TAKE_NOISE_RATE, Method, unwatched
from cleanweb.records import Progress, Sample, silent
from cleanweb.runfolder import RunFolder
from cleanweb.schema import TABLES
from cleanweb.settings import Settings
from cleanweb.views import Pixels

LAST = 10  # epochs over which the test accuracy is averaged, as the papers do
_BATCH = 256


@dataclass(frozen=True)
class Trial:
    """What is to be tried on a world, with nothing left open."""

    made: Made
    settings: Settings
    training: plan.Training
    backbone: Backbone
    pixels: Pixels
    device: torch.device

    @property
    def name(self) -> str:
        """What its result and its run folder are called."""
        return record.name(self.made, self.told())

    def told(self) -> Result:
        """The settings as a result tells them: what is done where `auto` was asked, and no folders. pretrain: what the
        method is not built on."""
        said = ("method", "recipe", "tune", "epochs", "batch_size", "noise_rate", "seed")
        backbone, checkpoint = self.backbone.name, self.backbone.checkpoint
        weights = checkpoint.name if checkpoint else "pretrained" if self.backbone.pretrained else "none"
        pretrain = self.training.recipe.pretrain
        of_method = getattr(methods.load(self.settings.method, self.settings.recipe), "pretrain", None)
        return (
            {key: getattr(self.settings, key) for key in said}
            | ({} if pretrain == of_method else {"pretrain": pretrain or "none"})
            | {
                "backbone": Path(backbone).name if backbone.startswith("local-dir:") else backbone,
                "weights": weights,
                "device": str(self.device),
            }
        )


def prepare(made: Made, asked: Settings) -> Trial:
    """What `fit` would choose for this world, chosen. Source, labels and out are the world's, whatever is asked. Raises
    CleanwebError as `fit` does."""
    rate = told_rate(made) if asked.noise_rate is None and asked.method in TAKE_NOISE_RATE else asked.noise_rate
    asked = replace(asked, source=made.folder / "crawl", labels=made.folder / "labels.csv", noise_rate=rate)
    device = machine.choose_device(asked.device)
    backbone, pixels = plan.network(asked, device)
    training = plan.training(asked, device, backbone, len(made.truth))
    settings = replace(
        asked,
        backbone=backbone.name,
        tune=training.tune,
        epochs=training.epochs,
        batch_size=training.recipe.batch_size,
    )
    trial = Trial(made, settings, training, backbone, pixels, device)
    return replace(trial, settings=replace(settings, out=made.folder / "runs" / trial.name))


def told_rate(made: Made) -> float:
    """The noise rate for a method that must be told one: the share of wrong labels, foreign images' among them; half of
    it where every class is taken for one other, as JoCoR's code has it (forget_rate)."""
    return made.wrong / 2 if made.world.noise in ("pair", "block") else made.wrong


def run(trial: Trial, progress: Progress = silent) -> Result:
    """Fit, unless that is done, and judge. Seconds and memory are those of a fit in one go, None where it was
    interrupted; looking at test images takes none of the seconds."""
    folder, in_one_go = RunFolder(trial.settings.out), not trial.settings.out.exists()
    with tempfile.TemporaryDirectory() as scratch:
        samples = readers.read(trial.made.folder / "test").samples
        test = CleanImages(samples, trial.pixels, trial.device, trial.settings.workers, Path(scratch))
        accuracies = Accuracies(trial, test)
        if not folder.manifest.exists():
            # a head learns on features: a test image tells it nothing
            pipeline.fit(trial.settings, progress, accuracies if trial.settings.tune == "full" else unwatched)
        made = {name: manifest.read(folder.path, name) for name in TABLES}
        classifier = accuracies.told(made["classes"]["label"].tolist())
        if (folder.classifier / "config.json").exists():  # not where no label was worth learning
            classifier["test_accuracy"] = test.of_classifier(folder.classifier)
    cost = {
        "seconds": float(made["runs"]["seconds"].iloc[0]) - accuracies.seconds if in_one_go else None,
        "images_per_second": _images_per_second(trial, made["images"], made["epochs"]),
        "peak_memory_mb": _peak_memory_mb() if in_one_go else None,
    }
    truth = trial.made.truth
    judged = metrics.judge(made["images"], truth) | metrics.judge_estimates(made, truth)
    return record.record(trial.made, trial.told(), judged, classifier, cost)


# --- clean test images ----------------------------------------------------------------------------------------------


class CleanImages:
    """Labelled test images, prepared as `predict` prepares what it labels: the centre square at the network's size.

    scratch: a folder for their pixels, which must stay there as long as this is used.
    """

    def __init__(
        self, samples: Sequence[Sample], pixels: Pixels, device: torch.device, workers: int | None, scratch: Path
    ):
        self.labels = [sample.given_label for sample in samples]
        self.pixels, self.device = pixels, device
        self.cache = inspection.inspect(samples, scratch, pixels.size_px, workers, silent)[1]

    @torch.inference_mode()
    def accuracy(self, predict: Callable[[Tensor], Tensor], classes: list[str], top: int = 1) -> float:
        """The share of the images, in [0, 1], whose class is among the `top` for which predict gives most: images
        (b, 3, h, w) → (b, c)."""
        place = {label: k for k, label in enumerate(classes)}
        truth, right = np.array([place.get(str(label), -1) for label in self.labels]), 0
        for chunk in np.array_split(np.arange(len(truth)), -(-len(truth) // _BATCH)):
            images = torch.from_numpy(self.cache.load(chunk, self.pixels.size_px)).to(self.device)
            found = predict(self.pixels.normalise(images))
            named = found.topk(min(top, found.shape[1]), dim=1).indices.cpu().numpy()
            right += int((named == truth[chunk, None]).sum())
        return right / len(truth)

    def of_classifier(self, folder: Path) -> float:
        """The accuracy of a classifier on disk."""
        model, classes = load_classifier(folder)
        return self.accuracy(model.to(self.device), classes)


class Accuracies:
    """Watches training: the test accuracy of the last epochs, in a file, so that an interruption loses none of them.

    'train' is the network that learns from the noisy labels, the one which is believed (a mean teacher, or the first of
    two), of the last fold where there are folds; 'classifier' goes on from it (refined, maybe) on the final labels.
    """

    def __init__(self, trial: Trial, test: CleanImages):
        self.test, self.file, self.seconds = test, trial.settings.out / "accuracy.json", 0.0
        self.classes = sorted(set(trial.made.truth["label"]))
        self.epochs = {"train": trial.training.epochs, "classifier": trial.training.classifier_epochs}

    def __call__(self, stage: str, epoch: int, method: Method) -> None:
        if epoch <= self.epochs[stage] - LAST:
            return
        started, seen = time.perf_counter(), self._seen()
        seen[stage][str(epoch)] = self.test.accuracy(lambda images: method.predict(images)[0], self.classes)
        atomic.write_text(self.file, json.dumps(seen))
        self.seconds += time.perf_counter() - started

    def told(self, classes: list[str]) -> Result:
        """What a result tells of them. classes: those of the run, in whose order the network counts; nothing is told
        where they are not those of the labels, since a class had only copies."""
        seen = self._seen() if classes == self.classes else self._nothing()
        train, classifier = (list(seen[stage].values()) for stage in ("train", "classifier"))
        counts: Result = {"test_epochs_seen": len(classifier), "teacher_epochs_seen": len(train)}
        if classifier:
            counts |= {"test_accuracy_mean_last_10": float(np.mean(classifier))}
        if train:
            counts |= {"teacher_test_accuracy": train[-1], "teacher_test_accuracy_mean_last_10": float(np.mean(train))}
        return counts

    def _seen(self) -> dict[str, dict[str, float]]:
        """stage → epoch → test accuracy"""
        return json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else self._nothing()

    def _nothing(self) -> dict[str, dict[str, float]]:
        return {stage: {} for stage in self.epochs}


# --- what it cost ---------------------------------------------------------------------------------------------------


def _images_per_second(trial: Trial, images: pd.DataFrame, epochs: pd.DataFrame) -> float | None:
    """Of the training on noisy labels, in its last fold; in a head's training an image is its features."""
    told, folds = epochs[epochs["stage"] == "train"], trial.training.recipe.folds
    learned = (images["duplicate_of"].isna() & (images["verdict"] != "unusable")).sum()
    share = (folds - 1) / folds if folds > 1 else 1
    return float(learned * share * len(told) / told["seconds"].sum())


def _peak_memory_mb() -> float | None:
    """The most that this process has held so far, whatever else it has done; workers are not counted."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS tells bytes, Linux kB

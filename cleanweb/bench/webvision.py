"""mini-WebVision: the first fifty classes of WebVision 1.0's Google part, and clean images of WebVision and ImageNet to
test on: what DivideMix and CoDiM are compared by. Who has the data runs it with one command; here it has not been run.

    WEBVISION/info/train_filelist_google.txt    google/q0001/….jpg 0
    WEBVISION/info/val_filelist.txt             val000001.jpg 0, of WEBVISION/val_images_256
    IMAGENET/n01440764/….JPEG                   or IMAGENET/0/…: a folder per class, the validation images

CoDiM as published, top-1/top-5 (InceptionResNetV2): WebVision 80.88/92.48 (sup), 80.12/93.52 (self); ImageNet
76.52/91.96, 77.24/92.48.
"""

import csv
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cleanweb import atomic, machine, pipeline
from cleanweb.bench.record import Result, commit, hardware, versions
from cleanweb.bench.trial import CleanImages
from cleanweb.classifier import load_classifier
from cleanweb.errors import UsageError
from cleanweb.records import Progress, Sample, silent
from cleanweb.runfolder import RunFolder
from cleanweb.settings import Settings
from cleanweb.views import Pixels

TOP = 1, 5
_TOLD = "method", "recipe", "backbone", "weights", "tune", "epochs", "batch_size", "seed"


def run(folder: Path, imagenet: Path | None, n_classes: int, asked: Settings, progress: Progress = silent) -> Result:
    """Fit on the first n_classes, unless asked.out holds that run, and test its classifier: top-1 and top-5 in [0, 1].
    An interrupted run goes on. Raises UsageError where the data lie otherwise, and CleanwebError as `fit` does."""
    tests = {"webvision": list(_webvision_test(folder, n_classes))}
    if imagenet is not None:
        tests["imagenet"] = list(_imagenet_test(imagenet, folder, n_classes))
    table = asked.out.parent / f"{asked.out.name}-list" / "labels.csv"  # a run may not lie beside what it is made of
    _write_table(_listed(folder / "info" / "train_filelist_google.txt", n_classes), folder, table)
    run_folder = RunFolder(asked.out)
    if not run_folder.manifest.exists():
        pipeline.fit(replace(asked, source=table, allow_outside=True), progress)
    found = {name: _accuracies(run_folder.classifier, samples, asked) for name, samples in tests.items()}
    told = {name: getattr(asked, name) for name in _TOLD}
    return {"classes": n_classes, "accuracy": found, "settings": told, "commit": commit(), "versions": versions(),
            "hardware": hardware(str(machine.choose_device(asked.device)))}  # fmt: skip


def _listed(file: Path, n_classes: int) -> Iterator[tuple[str, int]]:
    """The pictures of the first classes that a list names, and their class."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}). It is part of WebVision 1.0's info.tar.") from None
    for number, line in enumerate(lines, 1):
        path, _, label = line.rpartition(" ")
        if not path or not label.isdecimal():
            raise UsageError(f"{file}, line {number}: {line[:80]!r} is no path and class number.")
        if int(label) < n_classes:
            yield path, int(label)


def _write_table(listed: Iterator[tuple[str, int]], folder: Path, table: Path) -> None:
    atomic.make_folder(table.parent)
    with atomic.writing(table) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label"])
        rows.writerows((folder.resolve() / path, _name(label)) for path, label in listed)


def _name(label: int) -> str:
    """Sorted, names stand in the order of their numbers."""
    return f"{label:04d}"


def _webvision_test(folder: Path, n_classes: int) -> Iterator[Sample]:
    for path, label in _listed(folder / "info" / "val_filelist.txt", n_classes):
        yield Sample(path, path, str(folder / "val_images_256" / path), None, _name(label))


def _imagenet_test(imagenet: Path, folder: Path, n_classes: int) -> Iterator[Sample]:
    """ImageNet's validation images: a folder per class, called by its number or its synset, in WebVision's order."""
    synsets = folder / "info" / "synsets.txt"
    names = [line.split()[0] for line in synsets.read_text(encoding="utf-8").splitlines()] if synsets.exists() else []
    for label in range(n_classes):
        places = [imagenet / name for name in (str(label), *names[label : label + 1]) if (imagenet / name).is_dir()]
        if not places:
            raise UsageError(f"{imagenet} has no folder for class {label}: neither {label} nor its synset's name.")
        for file in sorted(places[0].iterdir()):
            yield Sample(file.name, file.name, str(file), None, _name(label))


def _accuracies(classifier: Path, samples: list[Sample], asked: Settings) -> Result:
    """Of a classifier on disk, on clean images."""
    model, classes = load_classifier(classifier)
    config, device = model.pretrained_cfg, machine.choose_device(asked.device)
    pixels = Pixels(config["input_size"][-1], tuple(config["mean"]), tuple(config["std"]))
    model = model.to(device)
    with tempfile.TemporaryDirectory() as scratch:
        test = CleanImages(samples, pixels, device, asked.workers, Path(scratch))
        return {f"top-{k}": test.accuracy(model, classes, k) for k in TOP} | {"images": len(samples)}

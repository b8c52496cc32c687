"""Label new images with a run's retrained classifier."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from cleanweb import images, machine
from cleanweb.errors import RunError, UsageError
from cleanweb.network import TimmModel, load_classifier
from cleanweb.readers import printable
from cleanweb.records import ImageFacts, Progress, Status, silent
from cleanweb.views import Pixels

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the classifier makes of one file."""

    path: str
    label: str | None  # None where the file is no usable image
    probability: float | None  # of that label, in [0, 1]
    error: str = ""  # why there is no label

    def to_json(self) -> dict[str, object]:
        return {"path": self.path, "label": self.label, "probability": self.probability, "error": self.error or None}


def predict(
    sources: Sequence[Path], classifier: Path, device: str = "auto", progress: Progress = silent
) -> Iterator[Prediction]:
    """One Prediction per file, in order; folders are walked. Raises RunError where there is no classifier."""
    if not (classifier / "config.json").exists():
        raise RunError(f"There is no classifier in {classifier}. Run `cleanweb fit` first, or give --run.")
    files = [file for source in sources for file in _files(Path(source))]
    at = machine.choose_device(device)
    model, names = load_classifier(classifier)
    model = model.to(at)
    config = model.pretrained_cfg
    pixels = Pixels(config["input_size"][-1], tuple(config["mean"]), tuple(config["std"]))
    opened = zip(files, images.squares(files, pixels.size_px, min(machine.cores(), len(files))), strict=True)
    done = 0
    while batch := list(islice(opened, _BATCH)):
        yield from _predict(batch, model, names, pixels, at)
        done += len(batch)
        progress("predict", done, len(files))


def _predict(
    opened: list[tuple[Path, tuple[ImageFacts, np.ndarray | None]]], model: TimmModel, names: list[str],
    pixels: Pixels, device: torch.device,
) -> Iterator[Prediction]:  # fmt: skip
    squares = [torch.from_numpy(square.copy()) for _, (_, square) in opened if square is not None]
    answers: Iterator[tuple[int, float]] = iter(())
    if squares:
        with torch.inference_mode():
            batch = torch.stack(squares).to(device)
            top = model(pixels.normalise(batch)).float().softmax(1).max(1)
        answers = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    for file, (facts, square) in opened:
        if square is None:
            yield Prediction(
                printable(str(file)), None, None, "no such file" if facts.status == Status.MISSING else facts.error
            )
        else:
            k, probability = next(answers)
            yield Prediction(printable(str(file)), names[k], probability)


def _files(source: Path) -> Iterator[Path]:
    if not source.is_dir():
        yield source
        return
    found = sorted(Path(folder) / name for folder, _, names in os.walk(source) for name in names)
    if not found:
        raise UsageError(f"There are no files in {source}.")
    yield from (file for file in found if not file.name.startswith("."))

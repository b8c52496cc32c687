"""Label new images with a run's retrained classifier."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from cleanweb import imageworkers, machine, opening, readers, remote, shards
from cleanweb.classifier import load_classifier
from cleanweb.errors import RunError, UsageError
from cleanweb.network import TimmModel
from cleanweb.readers import printable
from cleanweb.records import ImageFacts, Progress, Status, Unread, silent
from cleanweb.remote import Place, Remote, place
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
    sources: Sequence[Place], classifier: Path, device: str = "auto", progress: Progress = silent
) -> Iterator[Prediction]:
    """One Prediction per file, in order; folders are walked, and so are tars. Raises RunError where there is no
    classifier."""
    if not (classifier / "config.json").exists():
        raise RunError(f"There is no classifier in {classifier}. Run `cleanweb fit` first, or give --run.")
    of_files = [list(_items(file)) for source in sources for file in _files(place(source))]
    items = list(chain.from_iterable(of_files))
    at = machine.choose_device(device)
    model, names = load_classifier(classifier)
    model = model.to(at)
    config = model.pretrained_cfg
    pixels = Pixels(config["input_size"][-1], tuple(config["mean"]), tuple(config["std"]))
    squares = imageworkers.squares(_contents(of_files), pixels.size_px, min(machine.cores(), len(items)))
    opened = zip((name for name, _, _ in items), squares, strict=True)
    done = 0
    while batch := list(islice(opened, _BATCH)):
        yield from _predict(batch, model, names, pixels, at)
        done += len(batch)
        progress("predict", done, len(items))


def _predict(
    opened: list[tuple[str, tuple[ImageFacts, np.ndarray | None]]], model: TimmModel, names: list[str],
    pixels: Pixels, device: torch.device,
) -> Iterator[Prediction]:  # fmt: skip
    squares = [torch.from_numpy(square.copy()) for _, (_, square) in opened if square is not None]
    answers: Iterator[tuple[int, float]] = iter(())
    if squares:
        with torch.inference_mode():
            batch = torch.stack(squares).to(device)
            top = model(pixels.normalise(batch)).float().softmax(1).max(1)
        answers = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    for name, (facts, square) in opened:
        if square is None:
            yield Prediction(name, None, None, "no such file" if facts.status == Status.MISSING else facts.error)
        else:
            k, probability = next(answers)
            yield Prediction(name, names[k], probability)


def _files(source: Place) -> Iterator[Place]:
    if not source.is_dir():
        yield source
        return
    found: Sequence[Place] = sorted(Path(folder) / name for folder, _, names in os.walk(source) for name in names)
    if isinstance(source, Remote):
        found = [Remote(file) for file in readers.walk(source, [])]
    if not found:
        raise UsageError(f"There are no files in {source}.")
    yield from (file for file in found if not file.name.startswith("."))


def _items(file: Place) -> Iterator[tuple[str, str, int | None]]:
    """What there is in a file to predict: its name, the file, and where it lies in a tar."""
    where, shard = os.fspath(file), shards.Shard()
    name = printable(where)
    if file.suffix.lower() == ".tar":
        with suppress(OSError), opening.opened(where) as stream:
            shard = shards.open_shard(*stream, shards.LabelChoice("cls"))
    pictures = [picture for picture in shard.pictures if picture.member and not picture.member.kind]
    yield from ((f"{name}/{picture.name}", where, picture.member.place) for picture in pictures if picture.member)
    if shard.broken or not pictures:
        yield name, where, None  # an image; or it is said what it is instead


def _contents(of_files: Sequence[Sequence[tuple[str, str, int | None]]]) -> Iterator[Path | bytes | Unread]:
    """Of the items of each file; a file may come twice."""
    items = chain.from_iterable(of_files)
    far = remote.fetch_all(file for _, file, place in items if place is None and remote.is_address(file))
    for there in of_files:
        file, inside = there[0][1], [place for _, _, place in there if place is not None]
        if inside:
            yield from (content for _, content in opening.embedded_images(file, inside))
        yield from (next(far) if remote.is_address(file) else Path(file) for _, _, place in there if place is None)

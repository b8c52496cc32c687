"""The one training loop. It knows no method: it takes losses from a generator and steps the optimiser.

Takes a method, batches and a recipe; gives one record per epoch. A checkpoint (method with its teacher, optimiser,
records) after every epoch, or every few where they are short, lets the same call go on where it stopped; randomness
depends on seed and epoch alone, so that a resumed run equals an uninterrupted one. Never decides what is clean.
"""

import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from cleanweb import checkpoint
from cleanweb.errors import MachineError, RunError
from cleanweb.machine import out_of_memory
from cleanweb.methods import Batches, Learner, unwatched
from cleanweb.network import MeanTeacher
from cleanweb.records import NOTICE, Progress, silent
from cleanweb.settings import Recipe

_SLOWER = 0.1  # of the learning rate
_SAVING = 0.01  # of the time, at most, goes into checkpoints: epochs of half a second are not all kept
_LEAST_PART = 4  # images of a batch that is taken in parts: batch norm needs company

log = logging.getLogger(__name__)

L = TypeVar("L", bound=Learner)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch did: a row of the manifest's `epochs`."""

    epoch: int  # from 1
    loss: float  # mean over steps
    tau: float | None  # the clean threshold, where the method has one
    n_clean: int
    n_id: int
    n_ood: int
    lr: float
    seconds: float


@dataclass(slots=True)
class _Course:
    """How far training has come, and what had to change on the way."""

    records: list[EpochRecord]
    rate: float = 1.0  # what is left of the learning rate, since a loss was not finite
    parts: int = 1  # of a batch, since memory did not suffice


class _NotFiniteError(Exception):
    """A loss, or the weights after an epoch; where."""


def train(
    method: L,
    batches: Callable[[int], Batches],
    recipe: Recipe,
    epochs: int,
    file: Path | None = None,
    progress: Progress = silent,
    watch: Callable[[str, int, L], None] = unwatched,
) -> list[EpochRecord]:
    """Train `method` in place for epochs 1…epochs; `batches(t)` gives epoch t's batches.

    With `file` (a checkpoint), goes on after the last epoch stored there, and goes back to it where the loss is not
    finite (once, with a lower learning rate) or memory does not suffice (with batches in parts). Raises RunError and
    MachineError where that does not help.
    """
    optimiser = make_optimiser(method, recipe)
    course = _resume(file, method, optimiser)
    if file is not None and not course.records:
        _save(file, method, optimiser, course)  # what the first epoch can go back to
    elif file is not None and len(course.records) < epochs:
        log.log(NOTICE, "Going on after epoch %d of %d (%s).", len(course.records), epochs, file.stem)
    due = time.monotonic()  # of the next checkpoint
    while (t := len(course.records) + 1) <= epochs:
        for group in optimiser.param_groups:
            group["lr"] = course.rate * recipe.lr * learning_rate_factor(t, epochs, recipe)
        record = _tried(method, batches, optimiser, t, course.parts)
        if isinstance(record, Exception):
            remedy = _remedy(record, course, recipe, file)
            course, due = replace(remedy, records=_resume(file, method, optimiser).records), time.monotonic()
            continue
        course.records.append(record)
        watch("train", t, method)  # before it is stored: a run that stops here watches this epoch again
        if file is not None and (t == epochs or time.monotonic() >= due):
            begun = time.monotonic()
            _save(file, method, optimiser, course)
            due = time.monotonic() + (time.monotonic() - begun) / _SAVING
        progress("train", t, epochs)
    return course.records


def make_optimiser(method: Learner, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in method.parameters() if p.requires_grad]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)


def learning_rate_factor(t: int, epochs: int, recipe: Recipe) -> float:
    """In (0, 1] for epoch t of `epochs`: constant and then falling linearly, or half a cosine."""
    if recipe.schedule == "cosine":
        return (1 + math.cos(math.pi * (t - 1) / epochs)) / 2
    start = recipe.decay_from * epochs
    return min(1.0, (epochs + 1 - t) / (epochs + 1 - start))


def _tried(
    method: Learner, batches: Callable[[int], Batches], optimiser: torch.optim.Optimizer, t: int, parts: int
) -> EpochRecord | Exception:
    """Epoch t's record, or what went wrong, without the traceback that would keep its tensors."""
    try:
        return _epoch(method, batches(t) if parts == 1 else replace(batches(t), parts=parts), optimiser, t, parts)
    except _NotFiniteError as error:
        return error.with_traceback(None)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return MemoryError(f"{error}".split("\n")[0])


def _remedy(trouble: Exception, course: _Course, recipe: Recipe, file: Path | None) -> _Course:
    """How to try again, said; raises where nothing is left to try."""
    place = "" if file is None else f" ({file.stem})"
    if isinstance(trouble, _NotFiniteError):
        if file is None or course.rate < 1:
            again = "" if file is None else f", and again with {_SLOWER:g} of the learning rate"
            raise RunError(f"{trouble}{place}{again}: training has diverged. Try a larger --batch-size, a lower rate "
                           "(--set lr=…), another --backbone or --weights none.")  # fmt: skip
        log.warning("%s%s: back to the last checkpoint, and on with %g of the learning rate.", trouble, place, _SLOWER)
        return replace(course, rate=_SLOWER)
    parts = 2 * course.parts
    if file is None or recipe.batch_size // parts < _LEAST_PART:
        raise MachineError(f"Out of memory in training{place}, with batches in {course.parts} parts: {trouble}. Try a "
                           "smaller --image-size or another --backbone.")  # fmt: skip
    log.warning(
        "Out of memory%s: back to the last checkpoint, and on with every batch of %d in %d parts, whose gradients are "
        "added up. The result is the same but for batch norm's statistics and what a method compares within a batch.",
        place, recipe.batch_size, parts,
    )  # fmt: skip
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return replace(course, parts=parts)


def _epoch(method: Learner, batches: Batches, optimiser: torch.optim.Optimizer, t: int, parts: int) -> EpochRecord:
    """One epoch; a step is taken after so many losses, each of which counts as that part of it."""
    started, losses, tau = time.perf_counter(), list[float](), None
    counts = 0, 0, 0
    teachers = [module for module in method.modules() if isinstance(module, MeanTeacher)]
    for loss in method.epoch(t, batches):
        value = float(loss.value.detach())
        if not math.isfinite(value):
            raise _NotFiniteError(f"The loss became {value} in epoch {t}, step {len(losses) // parts + 1}")
        if len(losses) % parts == 0:
            optimiser.zero_grad(set_to_none=True)
        (loss.value / parts).backward()
        losses.append(value)
        whole = len(losses) % parts == 0
        if whole:
            optimiser.step()
        for teacher in teachers:  # follows whole steps
            teacher.paused = not whole
        counts = counts[0] + loss.n_clean, counts[1] + loss.n_id, counts[2] + loss.n_ood
        tau = loss.tau
    if not all(bool(parameter.isfinite().all()) for parameter in method.parameters()):
        raise _NotFiniteError(f"The weights were not finite after epoch {t}")
    lr = float(optimiser.param_groups[0]["lr"])
    return EpochRecord(t, sum(losses) / max(len(losses), 1), tau, *counts, lr, time.perf_counter() - started)


def _save(file: Path, method: Learner, optimiser: torch.optim.Optimizer, course: _Course) -> None:
    state = {"method": method.state_dict(), "optimiser": optimiser.state_dict(), "course": asdict(course)}
    checkpoint.write(file, lambda stream: torch.save(state, stream))


def _resume(file: Path | None, method: Learner, optimiser: torch.optim.Optimizer) -> _Course:
    stored = None if file is None else checkpoint.read(file)
    if stored is None:
        return _Course([])
    try:
        state = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
        method.load_state_dict(state["method"])
        optimiser.load_state_dict(state["optimiser"])
        records = [EpochRecord(**record) for record in state["course"]["records"]]
        return _Course(**{**state["course"], "records": records})
    except Exception as error:  # torch raises whatever its parsers raise
        raise RunError(f"The checkpoint {file} cannot be read: it is of another version of cleanweb. "
                       "Start again with --fresh.") from error  # fmt: skip

"""The one training loop. It knows no method: it takes losses from a generator and steps the optimiser.

Takes a method, batches and a recipe; gives one record per epoch. A checkpoint after every epoch (method with its
teacher, optimiser, records) lets the same call go on where it stopped; randomness depends on seed and epoch alone, so
that a resumed run equals an uninterrupted one. Never decides what is clean.
"""

import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from cleanweb import checkpoint
from cleanweb.errors import RunError
from cleanweb.methods import Batches, Method, Watch, unwatched
from cleanweb.records import Progress, silent
from cleanweb.settings import Recipe

log = logging.getLogger(__name__)


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


def train(
    method: Method,
    batches: Callable[[int], Batches],
    recipe: Recipe,
    epochs: int,
    file: Path | None = None,
    progress: Progress = silent,
    watch: Watch = unwatched,
) -> list[EpochRecord]:
    """Train `method` in place for epochs 1…epochs; `batches(t)` gives epoch t's batches.

    With `file` (a checkpoint), goes on after the last epoch stored there. Raises RunError where the loss is not finite.
    """
    optimiser = make_optimiser(method, recipe)
    records = _resume(file, method, optimiser)
    if 0 < len(records) < epochs:
        log.info("Going on after epoch %d of %d (%s).", len(records), epochs, file.stem)
    for t in range(len(records) + 1, epochs + 1):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * learning_rate_factor(t, epochs, recipe)
        records.append(_epoch(method, batches, optimiser, t))
        watch("train", t, method)  # before it is stored: a run that stops here watches this epoch again
        if file is not None:
            _save(file, method, optimiser, records)
        progress("train", t, epochs)
    return records


def make_optimiser(method: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
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


def _epoch(method: Method, batches: Callable[[int], Batches], optimiser: torch.optim.Optimizer, t: int) -> EpochRecord:
    started, losses, counts, tau = time.perf_counter(), [], [0, 0, 0], None
    for loss in method.epoch(t, batches(t)):
        value = float(loss.value.detach())
        if not math.isfinite(value):
            raise RunError(f"The loss became {value} in epoch {t}, step {len(losses) + 1}. Try a larger --batch-size.")
        optimiser.zero_grad(set_to_none=True)
        loss.value.backward()
        optimiser.step()
        losses.append(value)
        counts = [a + b for a, b in zip(counts, (loss.n_clean, loss.n_id, loss.n_ood), strict=True)]
        tau = loss.tau
    lr = float(optimiser.param_groups[0]["lr"])
    return EpochRecord(t, sum(losses) / max(len(losses), 1), tau, *counts, lr, time.perf_counter() - started)


def _save(file: Path, method: nn.Module, optimiser: torch.optim.Optimizer, records: list[EpochRecord]) -> None:
    state = {"method": method.state_dict(), "optimiser": optimiser.state_dict(), "records": [*map(asdict, records)]}
    stream = io.BytesIO()
    torch.save(state, stream)
    checkpoint.write(file, stream.getbuffer())


def _resume(file: Path | None, method: nn.Module, optimiser: torch.optim.Optimizer) -> list[EpochRecord]:
    stored = None if file is None else checkpoint.read(file)
    if stored is None:
        return []
    try:
        state = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
        method.load_state_dict(state["method"])
        optimiser.load_state_dict(state["optimiser"])
        return [EpochRecord(**record) for record in state["records"]]
    except Exception as error:  # torch raises whatever its parsers raise
        raise RunError(f"The checkpoint {file} cannot be read: it is of another version of cleanweb. "
                       "Start again with --fresh.") from error  # fmt: skip

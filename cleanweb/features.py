"""Frozen features: two views of every image go through the backbone once and are kept on disk.

Jo-SRC then trains a linear head on them, which takes minutes on a CPU. The file is n·v·d half-precision floats.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from cleanweb.atomic import sync, told, write_text
from cleanweb.machine import autocast, in_parts
from cleanweb.methods import Batch, Batches
from cleanweb.records import NOTICE, Progress, silent
from cleanweb.views import Pixels

log = logging.getLogger(__name__)

_ROWS = 4096  # images whose features are looked at together
_SHARD_S = 5.0  # what a kill costs at most, and a batch
N_VIEWS = 2  # the whole image and its mirror image: crops of it tell less (bench/EXPERIMENTS.md)


@torch.inference_mode()
def extract(
    model: nn.Module,
    load: Callable[[np.ndarray, int], np.ndarray],
    n: int,
    pixels: Pixels,
    file: Path,
    device: torch.device,
    batch_size: int = 32,
    progress: Progress = silent,
) -> np.ndarray:
    """Features of n images: memory-mapped float16 (v, n, d), written to `file`; goes on where an earlier call stopped.

    model: a timm model without classifier; load(positions, side) → uint8 (b, side, side, 3).
    """
    model = model.eval().to(device).to(memory_format=torch.channels_last)
    store = _Store(file, n)
    if 0 < store.done < n:
        log.log(NOTICE, "The features of %s of %s images are there already.", f"{store.done:,}", f"{n:,}")
    try:
        for first in range(store.done, n, batch_size):
            positions = np.arange(first, min(first + batch_size, n))
            images = torch.from_numpy(load(positions, pixels.size_px)).to(device)
            views = (images, images.flip(2))
            with autocast(device):
                found = [in_parts(lambda view: (model(pixels.normalise(view)).float(),), view)[0] for view in views]
            batch = torch.stack(found).half().cpu().numpy()
            store.append(batch)
            progress("features", store.done, n)
    finally:
        store.flush()
    return open_memmap(file, mode="c")  # torch takes no array that cannot be written; what is written stays in memory


class MeanView:
    """The mean over the views of stored features (v, n, d), float32, of the rows that are asked for: n·d numbers are
    not for the memory."""

    def __init__(self, features: np.ndarray):
        self.features = features

    def __len__(self) -> int:
        return self.features.shape[1]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """rows (m,) numbers → (m, d)."""
        return np.asarray(self.features[:, rows], np.float32).mean(0)


class _Store:
    """The file while it is being written, and beside it how many images are in it. Written to as a file: a full disk
    is an error in words there, and the end of the process in a memory map."""

    def __init__(self, file: Path, n: int):
        self.file, self.n, self.done_file = file, n, file.with_suffix(".done")
        known = self.done_file.exists() and file.exists()
        self.done = int(self.done_file.read_text(encoding="utf-8")) if known else 0
        self.flushed, self.flushed_at = self.done, time.monotonic()

    def append(self, batch: np.ndarray) -> None:
        """batch (v, b, d) float16: the features of the next b images. Raises MachineError where the disk refuses."""
        _, b, d = batch.shape
        with told(self.file):
            if self.done == 0:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                open_memmap(self.file, mode="w+", dtype=np.float16, shape=(N_VIEWS, self.n, d))
            start = self.file.stat().st_size - N_VIEWS * self.n * d * batch.itemsize
            with self.file.open("r+b") as stream:
                for view, rows in enumerate(batch):
                    stream.seek(start + (view * self.n + self.done) * d * batch.itemsize)
                    stream.write(np.ascontiguousarray(rows).data)
        self.done += b
        if time.monotonic() - self.flushed_at > _SHARD_S:
            self.flush()

    def flush(self) -> None:
        if self.done > self.flushed:
            with told(self.file):
                sync(self.file)
            write_text(self.done_file, str(self.done))
        self.flushed, self.flushed_at = self.done, time.monotonic()


def moments(features: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the stored features (v, n, d) of these images (m,), over images and views: (d,)
    float32 each. Memory: some rows."""
    shift = features[:, known[:1]].astype(np.float64).mean((0, 1))  # near the mean, lest squares cancel
    total, squares = np.zeros_like(shift), np.zeros_like(shift)
    for some in np.array_split(known, 1 + len(known) // _ROWS):
        rows = features[:, some].astype(np.float64) - shift
        total += rows.sum((0, 1))
        squares += (rows**2).sum((0, 1))
    n = len(features) * len(known)
    mean = total / n
    return (mean + shift).astype(np.float32), np.sqrt(np.maximum(squares / n - mean**2, 0)).astype(np.float32)


class FeatureBatches:
    """Batches of the frozen features of some images, each view drawn at random from the stored ones; call it with the
    epoch."""

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, n_views: int, batch_size: int, seed: int, device: torch.device,
        known: np.ndarray | None = None,
    ):  # fmt: skip
        """features (v, n, d) float16; labels (m,) int64, of the images at the places known (m,); None: of all."""
        self.features = torch.from_numpy(np.asarray(features)).to(device)  # on a CPU the memory map itself
        self.known = torch.as_tensor(np.arange(len(labels)) if known is None else known).to(device)
        self.labels = torch.as_tensor(labels).to(device)
        self.n_views, self.batch_size, self.seed = n_views, batch_size, seed

    def __call__(self, epoch: int) -> Batches:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return Batches(self._draw, torch.arange(len(self.labels)), self.batch_size, generator)

    def _draw(self, indices: Tensor, generator: torch.Generator | None) -> Batch:
        """As few views as are stored differ; where a method asks for more, they come again."""
        n_stored, device = len(self.features), self.known.device
        if generator is None:
            picks = torch.zeros(len(indices), 1, dtype=torch.int64)
        else:
            picks = torch.rand(len(indices), n_stored, generator=generator).argsort(1)
            picks = picks[:, torch.arange(self.n_views) % n_stored]
        picks, indices = picks.to(device), indices.to(device)
        places = self.known[indices]
        views = tuple(self.features[pick, places].float() for pick in picks.T)
        return Batch(indices, self.labels[indices], views)

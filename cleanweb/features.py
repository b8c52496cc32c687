"""Frozen features: two views of every image go through the backbone once and are kept on disk.

Jo-SRC then trains a linear head on them, which takes minutes on a CPU. The file is n·v·d half-precision floats.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from cleanweb import distributed
from cleanweb.atomic import sync, told, write_text
from cleanweb.machine import autocast, in_parts
from cleanweb.methods import Batch, Batches
from cleanweb.records import NOTICE, Progress, silent
from cleanweb.views import Pixels

log = logging.getLogger(__name__)

Load = Callable[[np.ndarray, int], np.ndarray]

_ROWS = 4096  # images whose features are looked at together
_SHARD_S = 5.0  # what a kill costs at most, and a batch
N_VIEWS = 2  # the whole image and its mirror image: crops of it tell less (bench/EXPERIMENTS.md)


def extract(
    model: nn.Module, load: Load, n: int, pixels: Pixels, file: Path, device: torch.device, batch_size: int = 32,
    progress: Progress = silent,
) -> np.ndarray:  # fmt: skip
    """Features of n images: memory-mapped float16 (v, n, d), written to `file`; goes on where an earlier call stopped.
    torchrun's ranks share the images.

    model: a timm model without classifier; load(positions, side) → uint8 (b, side, side, 3).
    """
    work = _Extraction(model, load, n, pixels, file, device, batch_size)
    if not work.is_done():
        work.allocate()
        distributed.share(partial(work.extract, progress=progress), work.extract, range(distributed.size()))
    return open_memmap(file, mode="c")  # torch takes no array that cannot be written; what is written stays in memory


@dataclass(frozen=True, slots=True)
class _Extraction:
    """What there is to extract, and in how many images at a time. Picklable: it is sent to other ranks."""

    model: nn.Module
    load: Load
    n: int
    pixels: Pixels
    file: Path
    device: torch.device
    batch_size: int

    def is_done(self) -> bool:
        return all(store.done == len(store.span) for store in map(self._store, range(distributed.size())))

    def allocate(self) -> None:
        """Make the file, zeros (v, n, d), unless shares of this size are there already, in part."""
        if any(store.done for store in map(self._store, range(distributed.size()))):
            return
        side = self.pixels.size_px
        with torch.inference_mode():
            d = self.model.eval().cpu()(torch.zeros(1, 3, side, side)).shape[1]
        with told(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            for of_other_shares in self.file.parent.glob(f"{self.file.stem}.*.done"):
                of_other_shares.unlink()
            open_memmap(self.file, mode="w+", dtype=np.float16, shape=(N_VIEWS, self.n, d))

    def extract(self, ranks: Sequence[int], progress: Progress = silent) -> None:
        """The shares of these ranks."""
        for rank in ranks:
            self._extract(self._store(rank), progress)

    @torch.inference_mode()
    def _extract(self, store: "_Store", progress: Progress) -> None:
        device, span = distributed.device(self.device), store.span
        model = self.model.eval().to(device).to(memory_format=torch.channels_last)
        if 0 < store.done < len(span):
            log.log(NOTICE, "The features of %s of %s images are there already.", f"{store.done:,}", f"{len(span):,}")
        try:
            for first in range(span.start + store.done, span.stop, self.batch_size):
                positions = np.arange(first, min(first + self.batch_size, span.stop))
                images = torch.from_numpy(self.load(positions, self.pixels.size_px)).to(device)
                store.append(self._features(model, images, device))
                progress("features", store.done, len(span))
        finally:
            store.flush()

    def _features(self, model: nn.Module, images: Tensor, device: torch.device) -> np.ndarray:
        """Of images (b, side, side, 3) and their mirror images: (v, b, d) float16."""
        with autocast(device):
            found = [
                in_parts(lambda view: (model(self.pixels.normalise(view)).float(),), view)[0]
                for view in (images, images.flip(2))
            ]
        half: np.ndarray = torch.stack(found).half().cpu().numpy()
        return half

    def _store(self, rank: int) -> "_Store":
        """A rank's share: whole batches, so that it does not matter to an image how many ranks there are."""
        batches, ranks = -(-self.n // self.batch_size), distributed.size()
        start, stop = (min(batches * r // ranks * self.batch_size, self.n) for r in (rank, rank + 1))
        return _Store(self.file, self.n, range(start, stop))


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
    """A share of the file while it is being written, and beside it how many of its images are there. Written to as a
    file: a full disk is an error in words there, and the end of the process in a memory map."""

    def __init__(self, file: Path, n: int, span: range):
        self.file, self.n, self.span = file, n, span
        self.done_file = file.with_suffix(f".{span.start}-{span.stop}.done")
        known = self.done_file.exists() and file.exists()
        self.done = int(self.done_file.read_text(encoding="utf-8")) if known else 0
        self.flushed, self.flushed_at = self.done, time.monotonic()

    def append(self, batch: np.ndarray) -> None:
        """batch (v, b, d) float16: the features of the next b images. Raises MachineError where the disk refuses."""
        _, b, d = batch.shape
        with told(self.file):
            start = self.file.stat().st_size - N_VIEWS * self.n * d * batch.itemsize
            with self.file.open("r+b") as stream:
                for view, rows in enumerate(batch):
                    stream.seek(start + (view * self.n + self.span.start + self.done) * d * batch.itemsize)
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

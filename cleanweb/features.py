"""Frozen features: two views of every image go through the backbone once and are kept on disk.

Jo-SRC then trains a linear head on them, which takes minutes on a CPU. The file is n·v·d half-precision floats.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import nn

from cleanweb.machine import autocast
from cleanweb.methods import Batch
from cleanweb.records import Progress, silent
from cleanweb.views import Pixels

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
    model = model.eval().to(device, memory_format=torch.channels_last)
    done_file = file.with_suffix(".done")
    done = int(done_file.read_text()) if done_file.exists() and file.exists() else 0
    store = None if done == 0 else open_memmap(file, mode="r+")
    for first in range(done, n, batch_size):
        positions = np.arange(first, min(first + batch_size, n))
        images = torch.from_numpy(load(positions, pixels.size_px)).to(device)
        views = (images, images.flip(2))
        with autocast(device):
            batch = torch.stack([model(pixels.normalise(view)).float() for view in views]).half().cpu().numpy()
        if store is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            store = open_memmap(file, mode="w+", dtype=np.float16, shape=(N_VIEWS, n, batch.shape[2]))
        store[:, positions] = batch
        store.flush()
        done_file.write_text(str(int(positions[-1]) + 1))
        progress("features", int(positions[-1]) + 1, n)
    return open_memmap(file, mode="r")


class FeatureBatches:
    """Shuffled batches of frozen features, each view drawn at random from the stored ones; call it with the epoch."""

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, n_views: int, batch_size: int, seed: int, device: torch.device
    ):
        """features (v, n, d) float16, labels (n,) int64."""
        self.features = torch.from_numpy(np.asarray(features)).to(device)
        self.labels = torch.as_tensor(labels).to(device)
        self.n_views, self.seed = n_views, seed
        self.steps = max(1, min(round(len(labels) / batch_size), len(labels) // 2))

    def __call__(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        n_stored, n, _ = self.features.shape
        order = torch.randperm(n, generator=generator)
        drawn = torch.rand(n, n_stored, generator=generator).argsort(1)[:, : self.n_views]  # views differ
        for indices in order.tensor_split(self.steps):
            picks = drawn[indices].to(self.labels.device)
            indices = indices.to(self.labels.device)
            views = tuple(self.features[picks[:, i], indices].float() for i in range(self.n_views))
            yield Batch(indices, self.labels[indices], views)

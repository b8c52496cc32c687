"""What the model believes of every image: offline, in evaluation mode, averaged over several weak and strong views.

Takes a prediction function and views; gives Scores. Never decides. Memory n·(c + d + k) floats.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cleanweb.divergence import js_divergence
from cleanweb.machine import in_parts
from cleanweb.neighbours import EXACT, near, nearest, shortened
from cleanweb.records import UNVERIFIED, Scores

N_NEIGHBOURS = 30


class Features(Protocol):
    """Features (n, d) in memory, or read when they are asked for."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


def believe(
    predict: Callable[[Tensor], tuple[Tensor, Tensor]],
    batches: Iterable[tuple[Tensor, ...]],
    with_features: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict every view of every batch: probabilities (v, n, c) and features (n, d), the mean over views; float32.

    `batches` gives, in order, tuples of v views, each (b, …). Without features these are (n, 0).
    """
    probs, features = [], []
    for views in batches:
        predictions = [in_parts(predict, view) for view in views]
        probs.append(torch.stack([p for p, _ in predictions]).float().cpu())
        whole = torch.stack([f[:, : None if with_features else 0] for _, f in predictions])
        features.append(whole.float().mean(0).cpu())
    return torch.cat(probs, 1).numpy(), torch.cat(features).numpy()


def view_disagreement(probs: np.ndarray) -> np.ndarray:
    """Share of the pairs of views that name different classes, Eq. 4 averaged over pairs: probs (v, n, c) → (n,)."""
    v, _, c = probs.shape
    if v < 2:
        return np.zeros(probs.shape[1], np.float32)
    counts = np.eye(c, dtype=np.float32)[probs.argmax(2)].sum(0)
    agreeing = (counts * (counts - 1)).sum(1) / (v * (v - 1))
    return (1 - agreeing).astype(np.float32)


def score(probs: np.ndarray, features: Features, space: np.ndarray, labels: np.ndarray, device: torch.device) -> Scores:
    """Gather what is believed of n samples. probs (v, n, c), features (n, d), labels (n,) with −1 where none is given.

    Neighbours are looked for among samples of the same feature space (n,) alone; in a large one most of them are found.

    js_clean is Eq. 3 against the label as it stands, not smoothed: smoothed, it is not monotone in p(label).
    """
    mean = probs.mean(0)
    one_hot = torch.zeros(mean.shape).scatter_(1, torch.as_tensor(labels).clamp_min(0)[:, None], 1.0)
    js_clean = (1 - js_divergence(torch.as_tensor(mean), one_hot)).numpy()
    neighbours, similarity = _neighbours(features, space, device)
    return Scores(
        labels=labels,
        probs=mean,
        view_disagreement=view_disagreement(probs),
        js_clean=np.where(labels < 0, np.nan, js_clean).astype(np.float32),
        neighbours=neighbours,
        similarity=similarity,
        verified=np.full(len(labels), UNVERIFIED),
    )


def _neighbours(features: Features, space: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """The nearest samples of each sample in its own space: indices (n, k) and similarities (n, k)."""
    k = max(0, min(N_NEIGHBOURS, int(np.bincount(space).min()) - 1))
    indices, similarity = np.empty((len(space), k), np.int32), np.empty((len(space), k), np.float32)
    for number in np.unique(space):
        members = np.flatnonzero(space == number)
        found, similarity[members] = _in_space(features, members, k, device)
        indices[members] = members[found]
    return indices, similarity


def _in_space(features: Features, members: np.ndarray, k: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    if len(members) <= EXACT:
        own = features[members]
        return nearest(torch.as_tensor(own - own.mean(0)).to(device), k)  # after a ReLU all are alike if not centred
    return near(shortened(lambda some: features[members[some]], len(members), 0), k, 0, device)

"""What the model believes of every image: offline, in evaluation mode, averaged over several weak and strong views.

Takes a prediction function and views; gives Scores. Never decides. Room for n·(c + d + k) floats, on the disk where
they are many (`scratch.py`).
"""

from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cleanweb import scratch
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
    n: int,
    with_features: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict every view of every batch: probabilities (n, c), in how many of the pairs of views the named classes
    differ (n,) and features (n, d), means over the views; float32.

    `batches` gives, in order, tuples of v views, each (b, …), of n images in all. Without features these are (n, 0).
    """
    probs, features = np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
    disagreement, done = np.zeros(n, np.float32), 0
    for views in batches:
        predictions = [in_parts(predict, view) for view in views]
        p = torch.stack([p for p, _ in predictions]).float().mean(0).cpu().numpy()
        whole = torch.stack([f[:, : None if with_features else 0] for _, f in predictions])
        f = whole.float().mean(0).cpu().numpy()
        if done == 0:
            probs, features = (scratch.zeros((n, found.shape[1]), np.float32) for found in (p, f))
        rows = slice(done, done + len(p))
        named = torch.stack([p.argmax(1) for p, _ in predictions]).cpu().numpy()
        probs[rows], features[rows], disagreement[rows] = p, f, view_disagreement(named)
        done += len(p)
    assert done == n, "every image once"
    return probs, disagreement, features


def view_disagreement(named: np.ndarray) -> np.ndarray:
    """Share of the pairs of views that name different classes, Eq. 4 averaged over pairs: named (v, n) → (n,)."""
    pairs = list(combinations(named, 2))
    differ = [one != other for one, other in pairs]
    return (np.sum(differ, axis=0) / len(pairs) if pairs else np.zeros(named.shape[1])).astype(np.float32)


def clean_likelihood(p_given: np.ndarray) -> np.ndarray:
    """Eq. 3 against the label as it stands, from what is believed of it (n,): 1 − D_JS(p ‖ y), in [0, 1], rising.

    Against a label that is certain, what of p falls on the other classes costs one bit whichever they are:
    2·D_JS = 2 + p log₂ p − (1 + p) log₂ (1 + p). Smoothed, it is not monotone in p(label).
    """
    p = p_given.astype(float)
    return ((1 + p) * np.log2(1 + p) - p * np.log2(np.maximum(p, np.finfo(float).tiny))) / 2


def score(
    probs: np.ndarray,
    disagreement: np.ndarray,
    features: Features,
    space: np.ndarray,
    labels: np.ndarray,
    device: torch.device,
) -> Scores:
    """Gather what is believed of n samples. probs (n, c), disagreement (n,) of their views, features (n, d), labels
    (n,) with −1 where none is given.

    Neighbours are looked for among samples of the same feature space (n,) alone; in a large one most of them are found.
    """
    neighbours, similarity = _neighbours(features, space, device)
    js_clean = clean_likelihood(probs[np.arange(len(labels)), labels])
    return Scores(
        labels=labels,
        probs=probs,
        view_disagreement=disagreement,
        js_clean=np.where(labels < 0, np.nan, js_clean).astype(np.float32),
        neighbours=neighbours,
        similarity=similarity,
        verified=np.full(len(labels), UNVERIFIED),
    )


def _neighbours(features: Features, space: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """The nearest samples of each sample in its own space: indices (n, k) and similarities (n, k)."""
    k = max(0, min(N_NEIGHBOURS, int(np.bincount(space).min()) - 1))
    indices, similarity = scratch.zeros((len(space), k), np.int32), scratch.zeros((len(space), k), np.float32)
    for number in np.unique(space):
        members = np.flatnonzero(space == number)
        found, similarity[members] = _in_space(features, members, k, device)
        for some in np.array_split(np.arange(len(members)), 1 + len(members) // 2**16):
            indices[members[some]] = members[found[some]]
    return indices, similarity


def _in_space(features: Features, members: np.ndarray, k: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    if len(members) <= EXACT:
        own = features[members]
        return nearest(torch.as_tensor(own - own.mean(0)).to(device), k)  # after a ReLU all are alike if not centred
    return near(shortened(lambda some: features[members[some]], len(members), 0), k, 0, device)

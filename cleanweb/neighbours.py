"""Nearest neighbours by cosine similarity: exact, in blocks; of a large set in a forest. No n×n matrix.

A tree halves the set again and again, at the median along the direction from one random point to another, until a leaf
holds at most LEAF points, among which the search is exact. What lies near is in one leaf in most of several trees. Time
n·log n for the trees, n·LEAF for the leaves.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cleanweb import scratch

_BLOCK_ELEMENTS = 2**23  # similarities held at once: 32 MB in float32, and twice as much of places
EXACT = 20_000  # samples up to which all pairs are compared: some seconds on two cores
LEAF, TREES = 2_048, 3
SHORT = 128  # principal directions in which the forest looks


def nearest(features: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar other samples of each sample, nearest first: exactly.

    features (n, d), any scale → indices (n, k) int32 and cosine similarities (n, k) float32; k is cut to n − 1.
    Time n²·d, memory n·(d + k) and one block.
    """
    unit = F.normalize(features.float(), dim=1)
    n = len(unit)
    k = max(0, min(k, n - 1))
    block = max(1, _BLOCK_ELEMENTS // max(n, 1))
    indices, similarities = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    for first in range(0, n, block):
        similarity = unit[first : first + block] @ unit.T
        rows = torch.arange(len(similarity), device=unit.device)
        similarity[rows, rows + first] = -2.0  # not its own neighbour
        indices[first : first + block], similarities[first : first + block] = _largest(similarity, k)
    return indices, similarities


def _largest(values: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the k largest numbers of each row (m, n), largest first, and these. On a processor NumPy parts rows
    of a leaf in a third of the time that torch.topk takes."""
    if values.device.type != "cpu" or k == 0:
        top = values.topk(k, dim=1)
        return top.indices.cpu().numpy(), top.values.cpu().numpy()
    rows = values.numpy()
    places = np.argpartition(rows, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(rows, places, 1), axis=1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return places, np.take_along_axis(rows, places, 1)


def near(unit: np.ndarray, k: int, seed: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, but in a forest: most of the k most similar ones, and others nearly as similar.

    unit (n, d) of length 1, n > LEAF ≥ 2·k; it may be a memory map. Memory: a leaf.
    """
    n = len(unit)
    indices, similarities = scratch.zeros((n, k), np.int32), scratch.zeros((n, k), np.float32)
    for tree in range(TREES):
        for leaf in leaves(unit, np.random.default_rng([seed, tree])):
            found, similarity = nearest(torch.from_numpy(unit[leaf].astype(np.float32)).to(device), k)
            found = leaf[found].astype(np.int32)
            if tree:
                found, similarity = _merged(indices[leaf], similarities[leaf], found, similarity)
            indices[leaf], similarities[leaf] = found, similarity
    return indices, similarities


def leaves(unit: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One tree's leaves: all n numbers, parted into sets of LEAF / 2 to LEAF, each ascending."""
    branches = [np.arange(len(unit))]
    while branches:
        members = branches.pop()
        if len(members) <= LEAF:
            yield members
            continue
        a, b = unit[np.sort(rng.choice(members, 2, replace=False))].astype(np.float32)
        where = _along(unit, members, a - b)
        order = np.argpartition(where, len(members) // 2)
        branches += [np.sort(members[half]) for half in (order[len(members) // 2 :], order[: len(members) // 2])]


def _along(unit: np.ndarray, members: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """How far each member lies along a direction: (m,), some at a time."""
    return np.concatenate([unit[some] @ direction for some in np.array_split(members, 1 + len(members) // 2**16)])


def _merged(
    indices: np.ndarray, similarities: np.ndarray, others: np.ndarray, their: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of two lists each (m, k), a sample that stands in both counted once."""
    k = indices.shape[1]
    both = np.concatenate([indices, others], 1)
    values = np.concatenate([similarities, their], 1)
    order = np.lexsort((-values, both), axis=1)
    again = np.take_along_axis(both, order, 1)
    twice = np.zeros(both.shape, bool)
    twice[:, 1:] = again[:, 1:] == again[:, :-1]
    sorted_values = np.where(twice, -3.0, np.take_along_axis(values, order, 1))
    best = np.argsort(-sorted_values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(again, best, 1), np.take_along_axis(sorted_values, best, 1)


def shortened(rows: Callable[[np.ndarray], np.ndarray], n: int, seed: int) -> np.ndarray:
    """The features' first principal directions, centred and of length 1: (n, min(d, SHORT)) float16.

    rows(numbers) gives features (b, d).
    """
    rng = np.random.default_rng([seed, n])
    sample = rows(np.sort(rng.choice(n, min(n, EXACT), replace=False))).astype(np.float32)
    mean = sample.mean(0)
    _, _, axes = torch.pca_lowrank(torch.from_numpy(sample - mean), min(SHORT, sample.shape[1]), center=False, niter=2)
    short = scratch.zeros((n, axes.shape[1]), np.float16)
    for some in np.array_split(np.arange(n), 1 + n // 2**14):
        x = torch.from_numpy(rows(some).astype(np.float32) - mean) @ axes
        short[some] = F.normalize(x, dim=1).numpy()
    return short

"""What is believed of every sample: what the model says and what its neighbours do, blended and calibrated.

The temperature and the weight of the blend are those under which the given labels are most likely. Both parts come from
other samples' labels, so that the blend is calibrated: of the images of which it says 0.3 for a class, about 30 % were
given it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cleanweb import scratch
from cleanweb.labelnoise import TEMPERATURES, blocks, enough, random_share, surprise, warmed, warmed_given
from cleanweb.records import Scores

_WEIGHTS = np.linspace(0, 1, 11)  # of the neighbours in the blend
_NUMBERS = 256  # for every image that the random labels are counted on: see `enough`


@dataclass(frozen=True, slots=True)
class Belief:
    """Of n samples and c classes."""

    q: np.ndarray  # (n, c): how likely each class is to be given to each sample; rows sum to 1
    random: tuple[float, float]  # the share of labels drawn without a look at the image: from … to …, in [0, 1]


def belief(scores: Scores) -> Belief:
    """Calibrated class probabilities of every sample, and how many labels nothing could foretell."""
    probs, (n, c) = scores.probs, scores.probs.shape
    rows = np.flatnonzero(scores.labels >= 0)
    prior = np.bincount(scores.labels[rows], minlength=c) / max(len(rows), 1)
    votes, k = vote(scores.neighbours, scores.similarity, scores.labels, c), scores.neighbours.shape[1]
    rows = rows[enough(len(rows), c)]
    labels = scores.labels[rows]
    heated = warmed_given(probs[rows], labels)
    heard = (k * votes[rows, labels] + prior[labels]) / (k + 1)
    temperature, weight = _likeliest(heated, heard)
    some = enough(len(rows), _NUMBERS)
    blends = ((1 - weight) * of_model[some] + weight * heard[some] for of_model in heated)
    random = random_share(blends, prior[labels[some]])
    for block in blocks(n, c):
        smoothed = (k * votes[block] + prior) / (k + 1)
        votes[block] = (1 - weight) * warmed(probs[block], temperature) + weight * smoothed
    return Belief(votes, random)


def _likeliest(heated: np.ndarray, heard: np.ndarray) -> tuple[float, float]:
    """The temperature of the model and the weight of the neighbours under which the labels are most likely. heated
    (t, n): what the model gives them at each of the `TEMPERATURES`; heard (n,): what the neighbours do."""
    best = (np.inf, TEMPERATURES[0], 1.0)
    for temperature, of_model in zip(TEMPERATURES, heated, strict=True):
        for weight in _WEIGHTS:
            found = surprise((1 - weight) * of_model + weight * heard)
            best = min(best, (found, temperature, weight), key=lambda b: b[0])
    return best[1:]


def vote(neighbours: np.ndarray, similarity: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """What the neighbours say: the shares of their labels, weighted by similarity.

    neighbours (n, k), similarity (n, k) in [−1, 1], labels (n,), −1 where there is none → (n, c) float32, rows summing
    to 1; uniform where no neighbour says anything.
    """
    n = len(labels)
    votes, rows, total = scratch.zeros((n, n_classes), np.float32), np.arange(n), np.zeros(n)
    for other, weight in _nearest(neighbours, similarity, labels):
        votes[rows, labels[other]] += weight
        total += weight
    for block in blocks(n, n_classes):
        some, heard = votes[block], total[block] > 0
        some[heard] /= total[block][heard, None].astype(np.float32)
        some[~heard] = 1 / n_classes
    return votes


def company(scores: Scores, wrong: np.ndarray) -> np.ndarray:
    """The share of wrong labels among the nearest samples, weighted by similarity: (n,) in [0, 1], 0 where there are
    none. wrong (n,): P(label is wrong). Images of no class lie among their like, wherever in the feature space that is;
    those of a class lie among images of the class, however their own label came out."""
    found, total = np.zeros(len(wrong)), np.zeros(len(wrong))
    for other, weight in _nearest(scores.neighbours, scores.similarity, scores.labels):
        found += weight * wrong[other]
        total += weight
    return found / np.maximum(total, 1e-9)


def _nearest(
    neighbours: np.ndarray, similarity: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of every sample its nearest, its second nearest … (n,), and what each one's label weighs: its similarity (n,),
    nothing where it has no label or is unlike."""
    for j in range(neighbours.shape[1]):
        other = neighbours[:, j]
        yield other, np.where(labels[other] < 0, 0, np.maximum(similarity[:, j], 0))

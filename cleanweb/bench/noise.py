"""Label noise as the literature draws it. Pure functions of a numpy Generator; true labels (n,) → given labels (n,).

Noise that depends on the class alone is a transition matrix (K, K), P(given | true): rows sum to 1, the diagonal is
1 − rate. `flip` draws every label for itself from its row, as the papers' code does (one multinomial draw a sample, in
JoCoR and Jo-SRC): the rate is met in expectation, and the number of wrong labels differs from seed to seed.
"""

import numpy as np

_RATE_SD = 0.1  # of the flip rates of single images (Xia et al. 2020)


# --- transition matrices --------------------------------------------------------------------------------------------


def symmetric(n_classes: int, rate: float) -> np.ndarray:
    """Any other class alike: rate / (K − 1) each. (K, K)"""
    return _confused(np.ones((n_classes, n_classes), bool), rate)


def pair_flip(n_classes: int, rate: float) -> np.ndarray:
    """Class i is taken for i + 1, the last for the first: what Jo-SRC's code calls asymmetric. (K, K)"""
    return block_flip(n_classes, rate, block=n_classes)


def block_flip(n_classes: int, rate: float, block: int = 5) -> np.ndarray:
    """The next class, in circles within blocks of ids: JoCoR's asymmetric noise on CIFAR-100. (K, K)

    CIFAR-100's ids are alphabetical, so its blocks are not its superclasses: for those see `superclass_flip`.
    """
    ids = np.arange(n_classes)
    start = ids // block * block
    size = np.minimum(start + block, n_classes) - start
    following = start + (ids - start + 1) % size
    return _confused(following[:, None] == ids, rate)


def superclass_flip(superclass: np.ndarray, rate: float) -> np.ndarray:
    """Any other class of the same superclass alike, as people err: (K, K). superclass (K,)."""
    return _confused(superclass[:, None] == superclass, rate)


def _confused(taken_for: np.ndarray, rate: float) -> np.ndarray:
    """The rate shared among the other classes that a class is taken for, (K, K) bool. Where there are none, its labels
    stay right."""
    others = taken_for & ~np.eye(len(taken_for), dtype=bool)
    count = others.sum(1)
    return rate * others / np.maximum(count, 1)[:, None] + np.diag(np.where(count > 0, 1 - rate, 1))


# --- labels ---------------------------------------------------------------------------------------------------------


def flip(labels: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Given labels (n,) int64, each drawn from its true label's row of the matrix (K, K)."""
    return _drawn(matrix[labels], rng)


def instance_dependent(
    labels: np.ndarray, rate: float, features: np.ndarray, n_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """Given labels (n,) int64 that are wrong as the image is: "IDN", the generator of Xia et al. 2020 (part-dependent
    noise) that later papers share.

    features (n, d). Every image has its own flip rate, from a normal distribution around `rate` cut to [0, 1] (which
    lifts the mean of low rates: 0 to 0.08, 0.2 to 0.2055), and is taken for the other classes by softmax(x · W_y), W_y
    (d, K) standard normal for each true class y. Features are taken as they are: the larger, the surer the direction.
    """
    rates = _rates(rate, len(labels), rng)
    probs = np.zeros((len(labels), n_classes))
    for y in range(n_classes):
        own = labels == y
        logits = features[own] @ rng.standard_normal((features.shape[1], n_classes))
        logits[:, y] = -np.inf
        odds = np.exp(logits - logits.max(1, keepdims=True))
        probs[own] = rates[own, None] * odds / odds.sum(1, keepdims=True)
        probs[own, y] = 1 - rates[own]
    return _drawn(probs, rng)


def open_set_labels(n: int, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """What foreign images are called: any class alike. (n,) int64"""
    return rng.integers(0, n_classes, n)


def _rates(mean: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) of a normal distribution cut to [0, 1]: what falls outside is drawn again."""
    rates = rng.normal(mean, _RATE_SD, n)
    while (outside := (rates < 0) | (rates > 1)).any():
        rates[outside] = rng.normal(mean, _RATE_SD, outside.sum())
    return rates


def _drawn(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A class for every row of probs (n, K): (n,) int64; never one of probability 0, whatever rounding does."""
    heights = probs.cumsum(1)
    heights /= heights[:, -1:]
    return (heights <= rng.random(len(probs))[:, None]).sum(1)

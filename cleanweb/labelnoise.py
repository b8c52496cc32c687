"""P(the given label is right), from calibrated beliefs and the noise floor: no threshold, no noise rate to be given.

q (n, c) says how likely each class is to be *given* to each image. Of that, the floor is what the class gets without
being right. Temperatures are chosen on the given labels, the only thing known for sure; truth is never asked for.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from cleanweb import scratch

# With four labels in five wrong a network is far too sure; after a few steps on a few hundred images not nearly enough.
TEMPERATURES = np.exp(np.linspace(-3.6, 2.8, 65))
_BLOCK = 2**19  # probabilities worked on at once: all of them many times over would not fit, with thousands of classes
_ENOUGH = 2**23  # probabilities that a temperature is chosen on
_SHARES = np.linspace(0, 1, 51)  # of labels that are drawn
_PLAUSIBLE = 1.92  # nats below the best: χ² with one degree of freedom, p = 0.05
_FEWEST = 5  # images to read a middle one off
_LEAST_SPREAD = 1e-3  # of the logarithms of how often classes are given: below, they are given alike


def blocks(n: int, c: int) -> Iterator[slice]:
    """The rows of n × c probabilities, some at a time."""
    step = max(1, _BLOCK // c)
    return (slice(first, first + step) for first in range(0, n, step))


def enough(n: int, c: int) -> np.ndarray:
    """Rows to choose a temperature on: all, or evenly spread ones where there are very many probabilities: (m,)."""
    return np.arange(0, n, max(1, -(-n * c // _ENOUGH)))


def warmed(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities with their logarithms divided by a temperature: (n, c), rows sum to 1."""
    found = scratch.zeros(probs.shape, probs.dtype)
    for rows in blocks(*probs.shape):
        logs = np.log(np.maximum(probs[rows], 1e-9), dtype=float) / temperature
        heated = np.exp(logs - logs.max(1, keepdims=True))
        found[rows] = heated / heated.sum(1, keepdims=True)
    return found


def warmed_given(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the probabilities give the labels (n,) at each of the `TEMPERATURES`: (t, n)."""
    found = scratch.zeros((len(TEMPERATURES), len(labels)))
    for rows in blocks(*probs.shape):
        logs = np.log(np.maximum(probs[rows], 1e-9), dtype=float)
        logs -= logs.max(1, keepdims=True)
        own = logs[np.arange(len(logs)), labels[rows]]
        for k, temperature in enumerate(TEMPERATURES):
            found[k, rows] = np.exp(own / temperature) / np.exp(logs / temperature).sum(1)
    return found


def surprise(given: np.ndarray) -> float:
    """Mean −ln of what the labels were given (n,): least where it is calibrated."""
    return float(-np.log(np.maximum(given, 1e-12)).mean())


def random_share(blends: Iterable[np.ndarray], chance: np.ndarray) -> tuple[float, float]:
    """What share ρ of labels is drawn without a look at the image: the lower and the upper end of its 95 % interval, by
    the likelihood of the given labels, (1 − ρ)·q(label) + ρ·chance (Wilks, 1938).

    blends: what the labels are given at one temperature or another (n,), each an attempt; chance (n,): how often each
    label is given at all. A label that a sharp belief did not foretell is drawn, one that a flat belief left open need
    not be: where a network knows little this is less than the noise.
    """
    if not len(chance):
        return 0.0, 1.0
    least = np.full(len(_SHARES), np.inf)
    for believed in blends:
        least = np.minimum(least, [surprise((1 - share) * believed + share * chance) for share in _SHARES])
    likely = _SHARES[len(chance) * (least - least.min()) <= _PLAUSIBLE]
    return float(likely[0]), float(likely[-1])


def calibrated(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probabilities at the temperature under which the given labels are most likely: (n, c)."""
    rows = enough(*probs.shape)
    surprises = [surprise(given) for given in warmed_given(probs[rows], labels[rows])]
    return warmed(probs, TEMPERATURES[int(np.argmin(surprises))])


def label_trust(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """P(the given label is right), taking every image to show one of the classes, and wrong labels to be of all classes
    alike: (n,) in [0, 1]."""
    q = calibrated(probs, labels)
    typical, alike, trust = typical_floors(q), np.full(q.shape[1], 1 / q.shape[1]), np.empty(len(q))
    for rows in blocks(*q.shape):
        believed, at = q[rows].astype(float), (np.arange(len(q[rows])), labels[rows])
        own, usual = own_floor(believed, alike), typical[believed.argmax(1)]
        share = class_share(believed, np.maximum(own, usual))
        trust[rows] = label_right(believed[at], np.maximum(own[at] * (1 - share[at]), usual[at]))
    return trust


def label_right(given: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """P(the given label is right) = 1 − floor / q(label), of what is believed of it and its floor (n,): in [0, 1]."""
    return np.clip(1 - floor / np.maximum(given, 1e-12), 0, 1)


def class_share(q: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """What each class gets of an image's belief above the floor: (n, c), rows sum to 1."""
    above = np.maximum(q - floor, 1e-9)
    return above / above.sum(1, keepdims=True)


def own_floor(q: np.ndarray, astray: np.ndarray) -> np.ndarray:
    """How likely a class is to be given to each image without being right, were all classes alike in that but for how
    often they are given `astray` (c,): (n, c), at most that. Measured by it, it is what the middle class gets, or the
    average one besides the first, whichever is less. A class or two that the image might show do not raise the middle
    one."""
    first = q.argmax(1)
    rest = (q.sum(1) - q[np.arange(len(q)), first]) / (1 - astray[first])  # 1 − max is rounded
    return np.minimum(np.minimum(np.median(q / astray, 1), rest), 1)[:, None] * astray


def astray(q: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often each class is given to images that do not show it: (c,), > 0, sums to 1. q (n, c); labels (n,), −1
    where none is given.

    Taken to be as (how often the class is given at all)^γ, 0 ≤ γ ≤ 1: 0 where labels go astray to all classes alike, 1
    where a share of what was found under every name is wrong. γ is read off the middle image of those believed to show
    another class: what it gives to the class.
    """
    given, c = labels >= 0, q.shape[1]
    often = np.log(np.bincount(labels[given], minlength=c) + 1.0)
    rows = enough(*q.shape)
    believed, first = q[rows], np.where(given[rows], q[rows].argmax(1), -1)
    middle = np.full(c, np.nan)
    for k in range(c):
        others = believed[(first >= 0) & (first != k), k]
        if len(others) >= _FEWEST:
            middle[k] = np.log(max(float(np.median(others)), 1e-9))
    known = np.isfinite(middle)
    x, y = (v[known] - v[known].mean() if known.any() else v[known] for v in (often, middle))
    gamma = np.clip((x @ y) / (x @ x + _LEAST_SPREAD * c), 0, 1)
    share = np.exp(gamma * often)
    return share / share.sum()


def typical_floors(q: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    """The same, for labels flipped from one class to another: what images predicted as j typically leave to k, whatever
    they look like: (c, c), 0 for the predicted class itself. given (n,): whose word counts."""
    predicted = np.where(True if given is None else given, q.argmax(1), -1)
    typical = np.zeros((q.shape[1], q.shape[1]), q.dtype)
    for j in np.unique(predicted[predicted >= 0]):
        of_class = np.flatnonzero(predicted == j)
        for columns in blocks(q.shape[1], len(of_class)):
            typical[j, columns] = np.median(q[of_class, columns], axis=0)
    np.fill_diagonal(typical, 0)
    return typical

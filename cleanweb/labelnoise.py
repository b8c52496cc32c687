"""P(the given label is right), from calibrated beliefs and the noise floor: no threshold, no noise rate to be given.

q (n, c) says how likely each class is to be *given* to each image. Of that, the floor is what the class gets without
being right. Temperatures are chosen on the given labels, the only thing known for sure; truth is never asked for.
"""

import numpy as np

TEMPERATURES = np.exp(np.linspace(-1.2, 2.8, 41))  # with four labels in five wrong a network is far too sure


def warmed(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities with their logarithms divided by a temperature: (n, c), rows sum to 1."""
    logs = np.log(np.maximum(probs, 1e-9)) / temperature
    heated = np.exp(logs - logs.max(1, keepdims=True))
    return heated / heated.sum(1, keepdims=True)


def surprise(q: np.ndarray, labels: np.ndarray) -> float:
    """Mean −ln of what q (n, c) gives the labels (n,): least where q is calibrated."""
    return float(-np.log(np.maximum(q[np.arange(len(labels)), labels], 1e-12)).mean())


def calibrated(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probabilities at the temperature under which the given labels are most likely: (n, c)."""
    return min((warmed(probs, t) for t in TEMPERATURES), key=lambda q: surprise(q, labels))


def label_trust(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """P(the given label is right), taking every image to show one of the classes: (n,) in [0, 1]."""
    q = calibrated(probs, labels)
    own, typical = own_floor(q), typical_floor(q)
    share = class_share(q, np.maximum(own, typical))
    return label_right(q, np.maximum(own * (1 - share), typical), labels)


def label_right(q: np.ndarray, floor: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """P(the given label is right) = 1 − floor / q(label): (n,) in [0, 1]. q, floor (n, c), labels (n,)."""
    rows = np.arange(len(labels))
    return np.clip(1 - floor[rows, labels] / np.maximum(q[rows, labels], 1e-12), 0, 1)


def class_share(q: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """What each class gets of an image's belief above the floor: (n, c), rows sum to 1."""
    above = np.maximum(q - floor, 1e-9)
    return above / above.sum(1, keepdims=True)


def own_floor(q: np.ndarray) -> np.ndarray:
    """How likely a class is to be given to each image without being right, were all classes alike in that: what the
    middle class gets, or the average one besides the first, whichever is less: (n, 1). A class or two that the image
    might show do not raise the middle one."""
    rest = (1 - q.max(1, keepdims=True)) / (q.shape[1] - 1)
    return np.minimum(np.median(q, 1, keepdims=True), rest)


def typical_floor(q: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    """The same, for labels flipped from one class to another: what images predicted as j typically leave to k, whatever
    they look like: (n, c), 0 for the predicted class itself."""
    predicted = q.argmax(1)
    given = np.ones(len(q), bool) if given is None else given  # (n,): whose word counts
    typical = np.zeros((q.shape[1], q.shape[1]))
    for j in np.unique(predicted[given]):
        typical[j] = np.median(q[given & (predicted == j)], axis=0)
    np.fill_diagonal(typical, 0)
    return typical[predicted]

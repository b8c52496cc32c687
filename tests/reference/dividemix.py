"""DivideMix's formulas in float64 numpy, written from the paper alone (Li et al., ICLR 2020). Nothing of cleanweb."""

import numpy as np


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def sharpen(p: np.ndarray, temperature: float) -> np.ndarray:
    raised = np.power(p, 1 / temperature)
    return raised / raised.sum(1)[:, None]


def co_refinement(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Eq. 3 and 4, T = 0.5."""
    return sharpen(w[:, None] * y + (1 - w[:, None]) * p, 0.5)


def co_guessing(predictions: list[np.ndarray]) -> np.ndarray:
    """Eq. 5: the mean over both networks and all augmentations, sharpened with T = 0.5."""
    return sharpen(sum(predictions) / len(predictions), 0.5)


def mixmatch_loss(
    weights: np.ndarray, images: np.ndarray, targets: np.ndarray, m: int, share: float, partner: np.ndarray, lam: float
) -> float:
    """Eq. 6 to 12 of a linear network (d, c): the first m of the images (b, d) keep their labels, λ′ = share."""
    x = share * images + (1 - share) * images[partner]
    t = share * targets + (1 - share) * targets[partner]
    p = softmax(x @ weights)
    supervised = -np.mean(np.sum(t[:m] * np.log(p[:m]), axis=1))
    unsupervised = np.mean(np.sum((t[m:] - p[m:]) ** 2, axis=1)) if len(t) > m else 0.0
    prior = 1 / p.shape[1]
    return supervised + lam * unsupervised + np.sum(prior * np.log(prior / p.mean(0)))


def warm_up_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Cross-entropy minus the entropy of the predictions, §3.2."""
    p = softmax(logits)
    return float(np.mean(-np.log(p[np.arange(len(p)), labels])) + np.mean(np.sum(p * np.log(p), axis=1)))

"""Probabilities of the three verdicts, set right by labels that a person has verified.

    p'_k ∝ p_k^a · e^{b_k},  b_0 = 0          a: too sure or not sure enough; b: a kind called too often or too seldom

Three numbers, found by maximum a posteriori: a ~ N(1, ½²), b ~ N(0, 1). With few verified labels little moves; with
none nothing does (Platt scaling with a prior; Guo et al., ICML 2017).

People look where it is doubtful, and what they find there must not decide of all the rest. So the crawl's own beliefs
are heard beside them, as `_OWN_WORD` verified labels drawn at random would be; and no belief is so sure that a single
label that contradicts it outweighs all others.
"""

import numpy as np

_EXPECTED = np.array([1.0, 0.0, 0.0])  # a, b₁, b₂
_PRECISION = np.diag([4.0, 1.0, 1.0])
_LEAST = 1e-6
_DOUBT = 1e-3  # added to every probability
_OWN_WORD = 100.0  # verified labels that the beliefs of the crawl count as
_ENOUGH = 10_000  # of its samples, to be heard


def recalibrated(p: np.ndarray, verified: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """p (3, n) of clean, ID, OOD; verified (m,) the samples whose truth is known, kinds (m,) in {0, 1, 2} what they
    are → (3, n), columns sum to 1."""
    beliefs = (p.T + _DOUBT) / (1 + 3 * _DOUBT)
    x, heard = _features(np.log(beliefs)), np.arange(0, len(beliefs), max(1, len(beliefs) // _ENOUGH))
    truth = np.concatenate([np.eye(3)[kinds], beliefs[heard]])
    weight = np.concatenate([np.ones(len(kinds)), np.full(len(heard), _OWN_WORD / len(heard))])
    return _softmax(x @ _fitted(np.concatenate([x[verified], x[heard]]), truth, weight)).T


def _features(logs: np.ndarray) -> np.ndarray:
    """What a, b₁ and b₂ are multiplied with: (n, 3 kinds, 3)."""
    offsets = np.broadcast_to(np.eye(3)[:, 1:], (len(logs), 3, 2))
    return np.concatenate([logs[:, :, None], offsets], 2)


def _fitted(x: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(a, b₁, b₂) by Newton's method; the objective is convex. x (m, 3 kinds, 3), truth (m, 3), weight (m,)."""
    theta = _EXPECTED.copy()
    for _ in range(30):
        r = _softmax(x @ theta)
        mean = np.einsum("nk,nkj->nj", r, x)
        gradient = np.einsum("n,nk,nkj->j", weight, r - truth, x) + _PRECISION @ (theta - _EXPECTED)
        curvature = np.einsum("n,nk,nki,nkj->ij", weight, r, x, x) - (weight * mean.T) @ mean + _PRECISION
        step = np.linalg.solve(curvature, gradient)
        theta = theta - step / max(1, np.abs(step).max())  # never further than 1 at once: Newton may overshoot
    return np.maximum(theta, [_LEAST, -np.inf, -np.inf])  # what is likelier stays likelier


def _softmax(logits: np.ndarray) -> np.ndarray:
    heated = np.exp(logits - logits.max(1, keepdims=True))
    return heated / heated.sum(1, keepdims=True)

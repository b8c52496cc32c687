"""Probabilities of the three verdicts, set right by labels that a person has verified.

    p'_k ∝ p_k^a · e^{b_k},  b_0 = 0          a: too sure or not sure enough; b: a kind called too often or too seldom

Three numbers, found by maximum a posteriori: a ~ N(1, ½²), b ~ N(0, 1). With few verified labels little moves; with
none nothing does (Platt scaling with a prior; Guo et al., ICML 2017).
"""

import numpy as np

_EXPECTED = np.array([1.0, 0.0, 0.0])  # a, b₁, b₂
_PRECISION = np.diag([4.0, 1.0, 1.0])
_LEAST = 1e-6


def recalibrated(p: np.ndarray, verified: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """p (3, n) of clean, ID, OOD; verified (m,) the samples whose truth is known, kinds (m,) in {0, 1, 2} what they
    are → (3, n), columns sum to 1."""
    logs = np.log(np.clip(p.T, _LEAST, 1))
    return _softmax(_features(logs) @ _fitted(_features(logs[verified]), kinds)).T


def _features(logs: np.ndarray) -> np.ndarray:
    """What a, b₁ and b₂ are multiplied with: (n, 3 kinds, 3)."""
    offsets = np.broadcast_to(np.eye(3)[:, 1:], (len(logs), 3, 2))
    return np.concatenate([logs[:, :, None], offsets], 2)


def _fitted(x: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(a, b₁, b₂) by Newton's method; the objective is convex."""
    theta, seen = _EXPECTED.copy(), np.eye(3)[kinds]
    for _ in range(30):
        r = _softmax(x @ theta)
        mean = np.einsum("nk,nkj->nj", r, x)
        gradient = np.einsum("nk,nkj->j", r - seen, x) + _PRECISION @ (theta - _EXPECTED)
        curvature = np.einsum("nk,nki,nkj->ij", r, x, x) - mean.T @ mean + _PRECISION
        step = np.linalg.solve(curvature, gradient)
        theta = theta - step / max(1, np.abs(step).max())  # never further than 1 at once: Newton may overshoot
    return np.maximum(theta, [_LEAST, -np.inf, -np.inf])  # what is likelier stays likelier


def _softmax(logits: np.ndarray) -> np.ndarray:
    heated = np.exp(logits - logits.max(1, keepdims=True))
    return heated / heated.sum(1, keepdims=True)

"""Divergences between categorical distributions, in bits.

Shapes: p, q (n, c), rows sum to 1. Everything is computed in float32 or better, under autocast too: a bfloat16
logarithm has two good digits and a divergence is a difference of logarithms. 0·log 0 = 0.
"""

import torch
from torch import Tensor


def _full(p: Tensor) -> Tensor:
    return p if p.dtype == torch.float64 else p.float()


def log2(p: Tensor) -> Tensor:
    """log₂ p, with log₂ 0 replaced by the logarithm of the smallest normal number: finite, gradient finite."""
    p = _full(p)
    return torch.log2(p.clamp_min(torch.finfo(p.dtype).tiny))


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """D_KL(p ‖ q) = Σ_c p_c·log₂(p_c / q_c), bits (n,), ≥ 0, finite: a zero in q costs at most 126 bits."""
    p, q = _full(p), _full(q)
    return (p * (log2(p) - log2(q))).sum(1)


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """D_JS(p ‖ q), Jo-SRC Eq. 2: bits (n,), in [0, 1], symmetric, 0 iff p = q."""
    middle = (_full(p) + _full(q)) / 2
    return ((kl_divergence(p, middle) + kl_divergence(q, middle)) / 2).clamp(0, 1)

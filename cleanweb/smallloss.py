"""The small-loss trick: wrong labels are learned late, so what fits best in a batch is taken for clean.

From Co-teaching (Han et al., NeurIPS 2018, https://arxiv.org/abs/1804.06872). How much is kept takes the noise rate for
known.
"""

import math

from torch import Tensor

_GRADUAL = 10 / 200  # T_k: the authors lower R(t) over 10 of 200 epochs


def kept_share(t: int, epochs: int, noise_rate: float) -> float:
    """R(t) = 1 − rate·min(t/T_k, 1) of epoch t (from 1): falls to 1 − rate while wrong labels are not learned yet.

    noise_rate in [0, 1) → (0, 1].
    """
    return 1 - noise_rate * min(t / max(1, round(_GRADUAL * epochs)), 1)


def smallest(losses: Tensor, share: float) -> Tensor:
    """Which of n losses (n,) are the smallest: indices (k,), smallest first, k the least number ≥ share·n."""
    return losses.detach().topk(math.ceil(share * len(losses)), largest=False).indices

"""JoCoR: joint training with co-regularisation.

Paper    Wei et al., CVPR 2020, https://arxiv.org/abs/2003.02752
Idea     Two networks are pulled towards each other and learn as one. They disagree on wrong labels, so that a sample's
         joint loss (both cross-entropies and their divergence) tells clean from noisy: the R(t)·b smallest are kept.
Symbols  p, p_peer (n, c): the predictions; weight: λ; R(t): see smallloss.py. It needs the noise rate.
Expected On 10,000 CIFAR-100 images (16 classes, 4 foreign, 20 % flips), cnn5, 15 epochs, seed 0, told the noise rate:
         macro-F1 52.2, classifier 59.4 % (bench/results/scaled-sym20-0-jocor-…).

Departures
- R(t) falls over 5 % of the epochs (10 of 200), and R(t)·b is rounded up, as printed (|D'| ≥ R(t)·|D|).
- λ = 0.85, the authors' choice for CIFAR-100, is used everywhere; they chose it anew for every data set.
- Adam's β₁ stays 0.9; the authors' code lowers it to 0.1 when the learning rate starts to fall.
- No mean teacher, no label smoothing; the first network is believed, where the authors report the mean of both.
"""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from cleanweb.methods import Batches, Loss
from cleanweb.network import AnyNetwork, Twins
from cleanweb.settings import Recipe
from cleanweb.smallloss import kept_share, smallest

_WEIGHT = 0.85  # λ


def joint_losses(logits: Tensor, logits_peer: Tensor, labels: Tensor, weight: float) -> Tensor:
    """ℓ = (1 − λ)·(CE(p, y) + CE(p_peer, y)) + λ·(D_KL(p ‖ p_peer) + D_KL(p_peer ‖ p)): nats, (n,), ≥ 0."""
    log_p, log_peer = logits.log_softmax(1), logits_peer.log_softmax(1)
    supervised = F.nll_loss(log_p, labels, reduction="none") + F.nll_loss(log_peer, labels, reduction="none")
    apart = ((log_p.exp() - log_peer.exp()) * (log_p - log_peer)).sum(1)  # both divergences at once
    return (1 - weight) * supervised + weight * apart


class JoCoR(Twins):
    """L = mean of the R(t)·b smallest ℓ of the batch."""

    views: ClassVar[tuple[str, ...]] = ("weak",)

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__(network)
        assert recipe.noise_rate is not None, "plan.py sees to it"
        self.noise_rate, self.epochs = recipe.noise_rate, epochs

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        share = kept_share(t, self.epochs, self.noise_rate)
        for batch in batches:
            logits, logits_peer = self(batch.views[0])
            losses = joint_losses(logits, logits_peer, batch.labels, _WEIGHT)
            kept = smallest(losses, share)
            yield Loss(losses[kept].mean(), n_clean=len(kept))

"""Co-teaching and Co-teaching+: two networks, each learning what the other finds easy.

Papers   Han et al., NeurIPS 2018, https://arxiv.org/abs/1804.06872
         Yu et al., ICML 2019, https://arxiv.org/abs/1901.04215
Idea     A network that picks its own samples repeats its own mistakes. So each picks the R(t)·b smallest losses of the
         batch, and its peer learns from them. Networks that teach each other grow alike, though: Co-teaching+ lets them
         pick among the samples on which they disagree.
Symbols  losses, losses_peer (b,): cross-entropy of either network; share: R(t), see smallloss.py. Both need the noise
         rate.
Expected On 10,000 CIFAR-100 images (16 classes, 4 foreign, 20 % flips), cnn5, 15 epochs, seed 0, told the noise rate:
         macro-F1 56.7, classifier 66.5 %; Co-teaching+ 54.5, 60.0 % (bench/results/scaled-sym20-0-coteaching…).

Departures
- Epochs are fractions of the run: R(t) falls over 5 % of it, Co-teaching+ sets in after 2.5 % (10 and 5 of 200).
- R(t)·b is rounded up, as printed (|D'| ≥ R(t)·|D|); the authors' code rounds down, and may keep none.
- Co-teaching+ without disagreement in a batch picks from all of it. The authors' code then learns from every label.
- Co-teaching+ learns from logits, as printed. The authors' code takes the softmax twice.
- No mean teacher, no label smoothing; the first network is believed, where the authors report both.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cleanweb.methods import Batches, Loss
from cleanweb.network import AnyNetwork, Twins
from cleanweb.settings import Recipe
from cleanweb.smallloss import kept_share, smallest

_TOGETHER = 5 / 200  # of all epochs, before Co-teaching+ looks at disagreement: the authors' choice for CIFAR-100


class CoTeaching(Twins):
    """L = mean of losses[smallest(losses_peer)] + mean of losses_peer[smallest(losses)]."""

    views: ClassVar[tuple[str, ...]] = ("weak",)

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__(network)
        assert recipe.noise_rate is not None, "plan.py sees to it"
        self.noise_rate, self.epochs = recipe.noise_rate, epochs

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        share = kept_share(t, self.epochs, self.noise_rate)
        for batch in batches:
            both = self(batch.views[0])
            among = self._candidates(t, *both)
            labels = batch.labels[among]
            losses, losses_peer = (F.cross_entropy(logits[among], labels, reduction="none") for logits in both)
            picked, picked_by_peer = smallest(losses, share), smallest(losses_peer, share)
            yield Loss(losses[picked_by_peer].mean() + losses_peer[picked].mean(), n_clean=len(picked))

    def _candidates(self, t: int, logits: Tensor, logits_peer: Tensor) -> Tensor:
        """Which samples of the batch may be picked: mask (b,), never empty."""
        return torch.ones(len(logits), dtype=torch.bool, device=logits.device)


class CoTeachingPlus(CoTeaching):
    """Co-teaching among the samples on which the two disagree."""

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__(network, n_samples, n_classes, recipe, epochs)
        self.together_epochs = max(1, round(_TOGETHER * epochs))

    def _candidates(self, t: int, logits: Tensor, logits_peer: Tensor) -> Tensor:
        apart = logits.argmax(1) != logits_peer.argmax(1)
        return apart if t > self.together_epochs and apart.any() else super()._candidates(t, logits, logits_peer)

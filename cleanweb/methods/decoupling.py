"""Decoupling: when to update is not how to update.

Paper    Malach and Shalev-Shwartz, NIPS 2017, https://arxiv.org/abs/1706.02613
Idea     Two networks learn from the samples on which they disagree, and from no other. Where both have learned a class
         they agree, and the wrong labels that are left there teach nothing. It needs no noise rate, but what they
         disagree on is rich in noise.
Expected On 10,000 CIFAR-100 images (16 classes, 4 foreign, 20 % flips), cnn5, 15 epochs, seed 0: macro-F1 60.8,
         classifier 62.2 % (bench/results/scaled-sym20-0-decoupling-…).

Departures
- The print leaves open how a step weighs its samples: the mean over those of the batch on which the two disagree.
- A batch without disagreement is a step of loss zero, not a batch left out.
- No mean teacher and no label smoothing, as printed; the first network is believed.
"""

from collections.abc import Iterator
from typing import ClassVar

from torch.nn import functional as F

from cleanweb.methods import Batches, Loss
from cleanweb.network import AnyNetwork, Twins
from cleanweb.settings import Recipe


class Decoupling(Twins):
    """L = mean of CE(f(x), label) + CE(g(x), label) over samples with argmax f(x) ≠ argmax g(x)."""

    views: ClassVar[tuple[str, ...]] = ("weak",)

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__(network)

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        for batch in batches:
            both = self(batch.views[0])
            apart = both[0].argmax(1) != both[1].argmax(1)
            labels, n = batch.labels[apart], int(apart.sum())
            loss, loss_peer = (F.cross_entropy(logits[apart], labels, reduction="sum") for logits in both)
            yield Loss((loss + loss_peer) / max(n, 1), n_clean=n)

"""DivideMix: learning with noisy labels as semi-supervised learning.

Paper    Li, Socher and Hoi, ICLR 2020, https://arxiv.org/abs/2002.07394
Idea     Wrong labels are learned late. After a warm-up, a mixture of two Gaussians is fitted to the losses of all
         samples: the low ones keep their labels, the others lose theirs. MixMatch then learns from both. Two networks
         divide for each other, so that neither confirms its own mistakes.
Symbols  clean (n,): w, probability that a label is right, as the other network's losses tell it; x: batch of samples
         that keep their labels; u: batch of the others.
Expected On 10,000 CIFAR-100 images (16 classes, 4 foreign, 20 % flips), cnn5, 15 epochs, seed 0: macro-F1 64.5,
         classifier 66.9 % (bench/results/scaled-sym20-0-dividemix-auto-cnn5-full-15-1a1589.json). Co-teaching:
         56.7, 66.5 %; plain cross-entropy, which has not learned the wrong labels yet: 68.9, 71.4 %. With 50 % flips
         and 40 epochs: 65.0, 64.6 % (scaled-sym50-0-dividemix-auto-cnn5-full-40-04b398.json); plain cross-entropy 48.4,
         61.7 %.

Departures
- λ_u is not chosen for the noise. The authors take 0 to 150 by hand, on the mean over classes: about 2 a class where
  half of the labels are wrong, nearly none where few are. Here it is 2·min(1, n_u/n_x) on the sum over classes.
- The confidence penalty is always on: the authors switch it on for asymmetric noise, and a crawl's noise is that.
- Epochs are fractions of the run: the warm-up is the recipe's, λ_u rises over 16 of 300.
- Both networks warm up on the same batches. The mixture may take 100 iterations to fit, not 10.
- No notion of images of no class: whether they are there is for the scores to tell.
"""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cleanweb.methods import Batch, Batches, Loss
from cleanweb.mixmatch import (
    brier,
    guessed,
    mixed,
    negative_entropy,
    one_sidedness,
    probability_of_low_loss,
    refined,
    soft_cross_entropy,
)
from cleanweb.network import AnyNetwork, Twins, predicted
from cleanweb.settings import Recipe

_CONCENTRATION = 4.0  # of MixUp's Beta: the authors' choice for CIFAR
_RAMP = 16 / 300  # of all epochs, over which λ_u rises


class DivideMix(Twins):
    """Algorithm 1."""

    views: ClassVar[tuple[str, ...]] = ("weak", "weak")

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__(network)
        self.n_samples, self.n_classes = n_samples, n_classes
        self.warmup_epochs = recipe.warmup_epochs(epochs)
        self.ramp_epochs = max(1, round(_RAMP * epochs))

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        if t <= self.warmup_epochs:
            yield from self._warm_up(batches)
            return
        ramp = min(1.0, (t - self.warmup_epochs) / self.ramp_epochs)
        clean, clean_by_peer = (self._divide(network, batches) for network in (self.network, self.peer))
        yield from self._mixmatch(self.network, self.peer, clean_by_peer, batches, ramp)
        yield from self._mixmatch(self.peer, self.network, clean, batches, ramp)

    def _warm_up(self, batches: Batches) -> Iterator[Loss]:
        self.train()
        for batch in batches:
            loss = self._warm_up_loss(self.network, batch) + self._warm_up_loss(self.peer, batch)
            yield Loss(loss, n_clean=len(batch.labels))

    def _warm_up_loss(self, learner: AnyNetwork, batch: Batch) -> Tensor:
        """Cross-entropy, less the entropy of the predictions: scalar."""
        logits, _ = learner(batch.views[0])
        return F.cross_entropy(logits, batch.labels) + negative_entropy(logits.softmax(1))

    @torch.no_grad()
    def _divide(self, network: AnyNetwork, batches: Batches) -> Tensor:
        """P(label is right) of every sample, as this network's losses tell it: (n,)."""
        network.eval()
        losses = [
            F.cross_entropy(network(batch.views[0])[0], batch.labels, reduction="none") for batch in batches.plain()
        ]
        device, seen = losses[0].device, batches.indices
        low = torch.as_tensor(probability_of_low_loss(torch.cat(losses).cpu().numpy()), dtype=torch.float32)
        return torch.zeros(self.n_samples).index_copy_(0, seen, low).to(device)

    def _mixmatch(
        self, learner: AnyNetwork, peer: AnyNetwork, clean: Tensor, batches: Batches, ramp: float
    ) -> Iterator[Loss]:
        """One epoch of one network, on its peer's division: one step for each batch that keeps its labels."""
        kept = clean > 0.5 if (clean > 0.5).any() else torch.ones_like(clean, dtype=torch.bool)
        labelled, unlabelled = batches.only(kept), batches.only(~kept)
        n_unlabelled = len(unlabelled.indices)
        weight = ramp * unlabelled_weight(len(labelled.indices), n_unlabelled)
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=batches.generator)))
        others = _endless(unlabelled)
        learner.train()
        peer.eval()
        for step, x in enumerate(labelled):
            u = next(others) if n_unlabelled else None
            targets = self._refine(learner, x, clean), self._guess(learner, peer, u)
            loss = self._loss(learner, x, u, targets, weight, rng)
            first = learner is self.network  # the other's division is not counted again
            yield Loss(loss, len(x.labels) * first, n_unlabelled * (first and step == 0))

    def _loss(
        self, learner: AnyNetwork, x: Batch, u: Batch | None, targets: tuple[Tensor, Tensor], weight: float,
        rng: np.random.Generator,
    ) -> Tensor:  # fmt: skip
        """L = L_x + λ_u·L_u + L_reg on the mixed views: scalar. targets: of x (b, c) and of u (b′, c)."""
        images = torch.cat([*x.views[:2], *(u.views[:2] if u else ())])
        images, mixture = mixed(images, torch.cat([t for t in targets for _ in range(2)]), rng, _CONCENTRATION)
        logits, m = learner(images)[0], 2 * len(x.labels)
        loss = soft_cross_entropy(logits[:m], mixture[:m]) + one_sidedness(logits.softmax(1))
        return loss if u is None else loss + weight * brier(logits[m:].softmax(1), mixture[m:])

    @torch.no_grad()
    def _refine(self, learner: AnyNetwork, x: Batch, clean: Tensor) -> Tensor:
        """Targets (b, c) of samples that keep their labels."""
        p = torch.stack([learner(view)[0].softmax(1) for view in x.views[:2]]).mean(0)
        return refined(F.one_hot(x.labels, self.n_classes).float(), p, clean[x.indices])

    @torch.no_grad()
    def _guess(self, learner: AnyNetwork, peer: AnyNetwork, u: Batch | None) -> Tensor:
        """Targets (b, c) of the others; (0, c) where there are none."""
        if u is None:
            return torch.zeros(0, self.n_classes, device=next(learner.parameters()).device)
        p, p_peer = (torch.stack([net(view)[0].softmax(1) for view in u.views[:2]]).mean(0) for net in (learner, peer))
        return guessed(p, p_peer)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of both networks' probabilities; features of the first."""
        (p, features), (p_peer, _) = predicted(self.network, images), predicted(self.peer, images)
        return (p + p_peer) / 2, features


def unlabelled_weight(n_labelled: int, n_unlabelled: int) -> float:
    """λ_u = 2·min(1, n_u/n_x) in [0, 2], for L_u summed over classes: see Departures."""
    return 2 * min(1.0, n_unlabelled / n_labelled)


def _endless(batches: Batches) -> Iterator[Batch]:
    while True:
        yield from batches

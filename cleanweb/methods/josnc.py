"""Jo-SNC: Jo-SRC with a vote of the neighbours, a graded view of OOD, and thresholds that each class sets itself.

Paper    Jo-SNC, the successor of Jo-SRC by its authors, 2026, https://arxiv.org/abs/2601.12795
Idea     A sample is clean where its own prediction fits its label, or where the predictions of its nearest neighbours
         do. Of the others those are OOD whose two predictions differ much. How much is much, each class tells: the mean
         over the samples that carry its label.
Symbols  p, p_prime (n, c): predictions of a weak and a strong view; beliefs (n, c), features (n, d): what the network
         last made of every sample; tau_clean, tau_ood (c,).
Expected On 10,000 CIFAR-100 images (16 classes, 4 foreign, 20 % flips), cnn5, 15 epochs, seed 0: macro-F1 67.3,
         classifier 71.4 % (bench/results/scaled-sym20-0-josrc-snc-cnn5-full-15-d63be8.json); `auto` 67.2, 71.1 %.

Departures
- What the authors add to the losses (partial labels, negative learning, neighbour and feature consistency) is left out:
  here are its selection and Jo-SRC's losses, with the disagreement of OOD samples neither rewarded nor punished.
- Neighbours are looked for among all samples, as they were last seen, not in a queue of the latest 32,000.
- A threshold may fall again: the authors' can only rise, and never recovers from an early overshoot.
- The verdicts are not taken from these thresholds, which call about half of every class noisy, but from the scores.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cleanweb.divergence import js_divergence
from cleanweb.methods import Batch, Batches, Loss
from cleanweb.methods.josrc import (
    JoSRC,
    classification_loss,
    clean_likelihood,
    consistency_loss,
    joint_loss,
    probabilities,
    smooth_labels,
)
from cleanweb.network import AnyNetwork
from cleanweb.settings import Recipe

_NEIGHBOURS = 10  # K
_TEMPERATURE = 0.1  # of the predictions whose divergence tells OOD
_MOMENTUM = 0.75, 0.975  # of the thresholds, in warm-up and after it: the authors' for CIFAR


def neighbour_likelihood(features: Tensor, beliefs: Tensor, bank: Tensor, oneself: Tensor, targets: Tensor) -> Tensor:
    """Mean of P_clean (Jo-SRC Eq. 3) of the nearest samples' beliefs against one's own label: (b,) in [0, 1].

    features (b, d); beliefs (n, c) and bank (n, d) of all samples; oneself (b,): whom not to ask; targets (b, c).
    """
    likeness = F.normalize(features, dim=1) @ F.normalize(bank, dim=1).T
    likeness.scatter_(1, oneself[:, None], -torch.inf)
    nearest = likeness.topk(min(_NEIGHBOURS, len(bank) - 1), dim=1).indices
    votes = [clean_likelihood(beliefs[k], targets) for k in nearest.T]
    return torch.stack(votes).mean(0) if votes else torch.zeros(len(features), device=features.device)


def graded_ood_likelihood(logits: Tensor, logits_prime: Tensor) -> Tensor:
    """D_JS of the sharpened predictions of two views, in bits: (b,) in [0, 1]."""
    return js_divergence(*((z / _TEMPERATURE).softmax(1) for z in (logits, logits_prime)))


class JoSNC(JoSRC):
    """`--recipe snc`."""

    views: ClassVar[tuple[str, ...]] = ("weak", "strong")
    beliefs: Tensor
    features: Tensor
    tau_clean: Tensor
    tau_ood: Tensor

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__(network, n_samples, n_classes, recipe, epochs)
        self.register_buffer("beliefs", torch.full((n_samples, n_classes), 1 / n_classes))
        self.register_buffer("features", torch.zeros(n_samples, network.n_features))
        self.register_buffer("tau_clean", torch.zeros(n_classes))
        self.register_buffer("tau_ood", torch.zeros(n_classes))

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        sums = torch.zeros(3, self.n_classes, device=self.tau_clean.device)  # P_clean, P_ood, samples
        for batch in batches:
            logits, features = self.network(batch.views[0])
            logits_prime, _ = self.network(batch.views[1])
            p, p_prime = probabilities(logits), probabilities(logits_prime)
            targets = smooth_labels(batch.labels, self.n_classes, self.recipe.epsilon)
            with torch.no_grad():
                p_clean, p_ood = clean_likelihood(p, targets), graded_ood_likelihood(logits, logits_prime)
                clean, noisy, ood = self._partition(batch, features, targets, p_clean, p_ood)
                sums.index_add_(1, batch.labels, torch.stack([p_clean, p_ood, torch.ones_like(p_ood)]))
                self.beliefs[batch.indices], self.features[batch.indices] = p.detach(), features.detach()
            if t <= self.warmup_epochs:
                yield Loss(-(targets * p.log()).sum(1).mean() + 0 * p_prime.sum(), n_clean=len(p))
            else:
                loss = self._loss(self._relabel(batch, targets, noisy, ood), p, p_prime, ood)
                yield Loss(loss, int(clean.sum()), int(noisy.sum()), int(ood.sum()))
            self.teacher.update(self.network)
        self._adapt(sums, _MOMENTUM[t > self.warmup_epochs])

    def _partition(
        self, batch: Batch, features: Tensor, targets: Tensor, p_clean: Tensor, p_ood: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boolean masks (b,) clean, ID, OOD; disjoint, together everything."""
        tau = self.tau_clean[batch.labels]
        vote = neighbour_likelihood(features, self.beliefs, self.features, batch.indices, targets)
        clean = (p_clean >= tau) | (vote > tau)
        ood = ~clean & (p_ood > self.tau_ood[batch.labels])
        return clean, ~clean & ~ood, ood

    def _loss(self, targets: Tensor, p: Tensor, p_prime: Tensor, ood: Tensor) -> Tensor:
        consistency = consistency_loss(p, p_prime, (~ood).float())
        return joint_loss(classification_loss(targets, p, p_prime), consistency, self.recipe.alpha)

    def _adapt(self, sums: Tensor, momentum: float) -> None:
        """τ ← β·τ + (1 − β)·mean of the class; a class without samples keeps its own. sums (3, c)."""
        there = sums[2] > 0
        for tau, total in zip((self.tau_clean, self.tau_ood), sums, strict=False):
            tau[there] = momentum * tau[there] + (1 - momentum) * total[there] / sums[2, there]

"""CoDiM: contrastive DivideMix.

Paper    Zhang et al., 2021, https://arxiv.org/abs/2111.11652. Only its abstract and its results were at hand: what
         follows is a RECONSTRUCTION from them, and from what is published next to it (C2D, Zheltonozhskii et al.,
         https://arxiv.org/abs/2103.13646). Its authors may have done otherwise.
Idea     CSSL, contrastive semi-supervised learning: an encoder that contrastive learning has prepared goes on to learn
         the classifier with the semi-supervised and the contrastive losses together. CoDiM takes DivideMix's division
         of the samples for it. Self: the contrast needs no labels. Sup: it draws together what carries one label.
Expected On 10,000 CIFAR-100 images (16 classes, 4 foreign), cnn5, 15 epochs, seed 0, `self`: macro-F1 and classifier,
         beside DivideMix's: 20 % flips 65.8, 69.2 % (64.5, 66.9 %); 50 % 61.0, 60.5 % (54.8, 55.4 %); 80 % 36.7, 40.6 %
         (33.1, 30.8 %); 40 % to the next class 55.5, 61.9 % (51.1, 55.7 %). bench/results/scaled-…-codim-…,
         scaled-…-dividemix-…. `sup` has not been run there.

Reconstructed
- Stage 0 is `pretrain.py`, of the same kind, for as many epochs. Stage 1 is DivideMix's warm-up, with λ·NT-Xent.
- What is contrasted are SimCLR's crops and colours (`views.distorted`); the rest learns from weak views.
- Stage 2: L = DivideMix's + λ·NT-Xent of all samples + (Sup) λ·SupCon of those that keep their label, refined, and of
  those whose guessed label is above 0.95. λ = 0.1: the contrast has done most of its work in stage 0, and a large one
  is known to be at odds with the classifier (PLReMix, https://arxiv.org/abs/2402.17589).
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cleanweb.contrastive import Projector, contrast, nt_xent
from cleanweb.methods import Batch
from cleanweb.methods.dividemix import DivideMix
from cleanweb.network import AnyNetwork
from cleanweb.settings import Recipe

_WEIGHT = 0.1  # λ of each contrastive term
_SURE = 0.95  # of a guessed label that is taken for the contrast


class CoDiM(DivideMix):
    """CoDiM-Self (`--recipe auto`, `self`)."""

    views: ClassVar[tuple[str, ...]] = ("weak", "weak", "distorted", "distorted")
    pretrain: ClassVar[str] = "self"

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__(network, n_samples, n_classes, recipe, epochs)
        self.projectors = nn.ModuleList(Projector(network.n_features) for _ in range(2))

    def _warm_up_loss(self, learner: AnyNetwork, batch: Batch) -> Tensor:
        return super()._warm_up_loss(learner, batch) + _WEIGHT * nt_xent(*self._points(learner, [batch]))

    def _loss(
        self, learner: AnyNetwork, x: Batch, u: Batch | None, targets: tuple[Tensor, Tensor], weight: float,
        rng: np.random.Generator,
    ) -> Tensor:  # fmt: skip
        loss = super()._loss(learner, x, u, targets, weight, rng)
        points = self._points(learner, [batch for batch in (x, u) if batch is not None])
        return loss + _WEIGHT * self._contrast(points, torch.cat(targets), len(x.labels))

    def _points(self, learner: AnyNetwork, batches: list[Batch]) -> tuple[Tensor, Tensor]:
        """Where the distorted views of these samples lie on the sphere: of either view (b, k)."""
        projector = self.projectors[learner is self.peer]
        z, z_prime = (projector(learner(torch.cat([batch.views[i] for batch in batches]))[1]) for i in (2, 3))
        return z, z_prime

    def _contrast(self, points: tuple[Tensor, Tensor], targets: Tensor, n_labelled: int) -> Tensor:
        """points: of either view (b, k); targets (b, c), the first n_labelled of them refined labels: scalar."""
        return nt_xent(*points)


class CoDiMSup(CoDiM):
    """CoDiM-Sup (`--recipe sup`)."""

    pretrain: ClassVar[str] = "sup"

    def _contrast(self, points: tuple[Tensor, Tensor], targets: Tensor, n_labelled: int) -> Tensor:
        sure = targets.max(1).values > _SURE
        sure[:n_labelled] = True
        labels = targets.argmax(1)[sure].repeat(2)
        return nt_xent(*points) + contrast(torch.cat([view[sure] for view in points]), labels)

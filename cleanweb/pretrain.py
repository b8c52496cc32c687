"""Contrastive pre-training: a start for networks where no published weights fit the crawl.

`self` takes no labels, `sup` the given ones, wrong as they may be. Only the backbone is kept: classifier and projector
are thrown away.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from cleanweb.contrastive import Projector, contrast, nt_xent
from cleanweb.methods import Batches, Loss
from cleanweb.network import Network
from cleanweb.records import Progress
from cleanweb.settings import Recipe
from cleanweb.train import train

_LEAST_BATCH = 128  # an image is told apart from the others of its batch: a few are too easy


class SelfSupervised(nn.Module):
    """NT-Xent on two distorted views of every image."""

    views: ClassVar[tuple[str, ...]] = ("distorted", "distorted")

    def __init__(self, network: Network):
        super().__init__()
        self.network, self.projector = network, Projector(network.n_features)

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        for batch in batches:
            z, z_prime = (self.projector(self.network(view)[1]) for view in batch.views)
            yield Loss(self._loss(z, z_prime, batch.labels))

    def _loss(self, z: Tensor, z_prime: Tensor, labels: Tensor) -> Tensor:
        return nt_xent(z, z_prime)


class Supervised(SelfSupervised):
    """SupCon on two distorted views of every image and the labels it was given."""

    def _loss(self, z: Tensor, z_prime: Tensor, labels: Tensor) -> Tensor:
        return contrast(torch.cat([z, z_prime]), labels.repeat(2))


KINDS: dict[str, type[SelfSupervised]] = {"self": SelfSupervised, "sup": Supervised}


def pretrain(
    kind: str,
    network: Network,
    batches: Callable[[tuple[str, ...], int], Callable[[int], Batches]],
    recipe: Recipe,
    epochs: int,
    checkpoint: Path,
    progress: Progress,
) -> None:
    """Train the backbone of `network`, as `kind` says; batches(views, batch size): as `train` takes it."""
    learner = KINDS[kind](network).to(next(network.parameters()).device)
    recipe = replace(recipe, batch_size=max(recipe.batch_size, _LEAST_BATCH))

    def told(_: str, done: int, total: int) -> None:
        progress("pretrain", done, total)

    train(learner, batches(learner.views, recipe.batch_size), recipe, epochs, checkpoint, told)

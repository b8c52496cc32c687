"""Learning once more, from labels that have been set right (`verdict.set_right`): what networks that were not taught a
label make of it is taught in its place, the flat target where they take the image for one of no class.

The labels a network remembers are those it was taught; so it is taught better ones, by the others. Pseudo-labels of
self-training (Xie et al., CVPR 2020, https://arxiv.org/abs/1911.04252), here of networks that were cross-fitted.
"""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from cleanweb.methods import Batches, Loss
from cleanweb.mixmatch import soft_cross_entropy
from cleanweb.network import AnyNetwork, MeanTeacher, Network, predicted


class Refining(nn.Module):
    """L = CE(softmax(f(x)), target), of one strong view; the mean teacher is believed."""

    views: ClassVar[tuple[str, ...]] = ("strong",)

    def __init__(self, network: Network, targets: Tensor, omega: float):
        """targets (n, c) of the training samples, where the network is; rows sum to 1."""
        super().__init__()
        self.network, self.targets = network, targets
        self.teacher = MeanTeacher(network, omega)

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        for batch in batches:
            logits, _ = self.network(batch.views[0])
            yield Loss(soft_cross_entropy(logits, self.targets[batch.indices]))
            self.teacher.update(self.network)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return predicted(self.trained(), images)

    def trained(self) -> AnyNetwork:
        return self.teacher.network

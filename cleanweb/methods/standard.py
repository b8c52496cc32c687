"""Plain cross-entropy on the given labels. It has no defence against noise: as a cleaner it is the baseline.

With label smoothing and a mean teacher it is how the classifier is retrained; `--recipe paper` is without either, the
"Standard" of the papers' tables.

Expected On 10,000 CIFAR-100 images (16 classes, 4 foreign, 20 % flips), cnn5, seed 0, `--recipe paper`: macro-F1 68.9,
         classifier 71.4 % after 15 epochs; 53.2, 70.2 % after 40, when it has learned the wrong labels, too;
         with 50 % flips 48.4, 61.7 % after 40 (bench/results/scaled-…-standard-…).
"""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from cleanweb.methods import Batches, Loss
from cleanweb.network import AnyNetwork, MeanTeacher, predicted
from cleanweb.settings import Recipe


class Standard(nn.Module):
    """L = CE(softmax(f(x)), label), labels smoothed by epsilon."""

    views: ClassVar[tuple[str, ...]] = ("weak",)

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__()
        self.network = network
        self.teacher = MeanTeacher(network, recipe.omega)
        self.epsilon = recipe.epsilon

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        for batch in batches:
            logits, _ = self.network(batch.views[0])
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.epsilon)
            yield Loss(loss, n_clean=len(batch.labels))
            self.teacher.update(self.network)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return predicted(self.trained(), images)

    def trained(self) -> AnyNetwork:
        return self.teacher.network


class Undefended(nn.Module):
    """L = CE(softmax(f(x)), label), and nothing else."""

    views: ClassVar[tuple[str, ...]] = ("weak",)

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__()
        self.network = network

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        for batch in batches:
            logits, _ = self.network(batch.views[0])
            yield Loss(F.cross_entropy(logits, batch.labels), n_clean=len(batch.labels))

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return predicted(self.network, images)

    def trained(self) -> AnyNetwork:
        return self.network

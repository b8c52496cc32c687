"""Jo-SRC: joint sample selection and model regularization based on consistency.

Paper    Yao et al., CVPR 2021, https://arxiv.org/abs/2103.13029
Idea     Two views of every image. A sample whose prediction is close to its label (Jensen-Shannon) is clean; of the
         others, one whose two predictions name different classes is out of distribution (OOD), the rest carry a wrong
         label (ID). Clean samples keep their label, ID ones take the mean teacher's, OOD ones a nearly uniform one.
Symbols  p, p_prime (n, c): the student's predictions of the two views; q, q_prime: the teacher's.

Expected On 6,500 CIFAR-100 images (10 classes, 3 foreign, 20 % flips), cnn7, 10 epochs, one seed: macro-F1 of clean,
         ID, OOD 49.7 as printed; more in bench/EXPERIMENTS.md. On 10,000 (16 classes, 4 foreign), cnn5, 40 epochs, seed
         0, macro-F1 and the classifier's accuracy: with 20 % flips `auto`, still without `refine.py`, 72.8, 74.6 % and
         `paper` 51.6, 68.6 %, with 50 % flips 67.1, 66.4 % and 53.8, 61.4 % (bench/results/
         scaled-sym20-0-josrc-auto-cnn5-full-40-154838.json, scaled-sym20-0-josrc-paper-cnn5-full-40-922091.json,
         scaled-sym50-0-josrc-auto-cnn5-full-40-bc02e8.json, scaled-sym50-0-josrc-paper-cnn5-full-40-352e37.json).

`JoSRC` is the paper and nothing else (`--recipe paper`). Where the print is silent or slips:
- Eq. 11 prints p twice; the second term is meant for p′, as Figure 2 draws it.
- Eq. 6 names no view: the mean over both, as the authors do.
- Eq. 9 is in bits, like Eq. 2; Eq. 11 in nats.
- The loss of an empty selection in warm-up is zero, not the mean of nothing.
- The teacher predicts in evaluation mode with batch-norm statistics that follow Eq. 8.
- Eq. 9's second sum is unbounded below for OOD samples; predictions are kept ≥ 1e-6 so that it stays finite.
"""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cleanweb import scratch
from cleanweb.divergence import js_divergence, kl_divergence
from cleanweb.labelnoise import label_trust
from cleanweb.methods import Batch, Batches, Loss
from cleanweb.network import AnyNetwork, MeanTeacher, predicted
from cleanweb.settings import Recipe

_LEAST_PROBABILITY = 1e-6  # bounds Eq. 9 at about 40 bits a sample and keeps every logarithm finite


def clean_likelihood(p: Tensor, targets: Tensor) -> Tensor:
    """P_clean = 1 − D_JS(p ‖ y), Eq. 3: (n,) in [0, 1]."""
    return 1 - js_divergence(p, targets)


def ood_likelihood(p: Tensor, p_prime: Tensor) -> Tensor:
    """P_ood = min(1, |argmax p − argmax p′|), Eq. 4: (n,), 1 where the views name different classes, else 0."""
    return (p.argmax(1) - p_prime.argmax(1)).abs().clamp(max=1).float()


def smooth_labels(labels: Tensor, n_classes: int, epsilon: float) -> Tensor:
    """1 − ε on the label, ε/(c − 1) on each other class, Eq. 5: (n, c), rows sum to 1."""
    targets = torch.full((len(labels), n_classes), epsilon / (n_classes - 1), device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - epsilon)


def teacher_labels(q: Tensor, q_prime: Tensor) -> Tensor:
    """The mean teacher's prediction, Eq. 6, over both views: (n, c)."""
    return (q + q_prime) / 2


def flatten_labels(q: Tensor, scale: float) -> Tensor:
    """softmax(q / s) of probabilities, not logits, Eq. 7: (n, c), nearly uniform for a large scale."""
    return (q / scale).softmax(1)


def consistency_loss(p: Tensor, p_prime: Tensor, rho: Tensor) -> Tensor:
    """L_o = mean of ρ·(D_KL(p ‖ p′) + D_KL(p′ ‖ p)), Eq. 9: bits, scalar. rho (n,): 1, or −1 for OOD samples."""
    return (rho * (kl_divergence(p, p_prime) + kl_divergence(p_prime, p))).mean()


def joint_loss(classification: Tensor, consistency: Tensor, alpha: float) -> Tensor:
    """L = (1 − α)·L_c + α·L_o, Eq. 10."""
    return (1 - alpha) * classification + alpha * consistency


def classification_loss(targets: Tensor, p: Tensor, p_prime: Tensor) -> Tensor:
    """L_c = −mean of Σ_c ỹ·ln p + ỹ·ln p′, Eq. 11: nats, scalar; 0 where no sample is left."""
    each = -(targets * (p.log() + p_prime.log())).sum(1)
    return each.sum() / max(len(each), 1)


def clean_threshold(t: int, warmup_epochs: int, epochs: int, tau_c: float, tau_m: float) -> float:
    """τ_clean of epoch t (from 1), Eq. 12: up to τ_c at the end of warm-up, then linearly up to τ_m."""
    if t <= warmup_epochs:
        return t / warmup_epochs * tau_c
    return (t - warmup_epochs) * (tau_m - tau_c) / (epochs - warmup_epochs) + tau_c


def partition(p_clean: Tensor, p_ood: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """Criteria 3.1 and 3.2: boolean masks (n,) clean, ID, OOD; disjoint, together everything."""
    clean = p_clean > tau
    ood = ~clean & (p_ood > 0.5)  # P_ood is 0 or 1: every τ_ood in (0, 1) is the same rule
    return clean, ~clean & ~ood, ood


def probabilities(logits: Tensor) -> Tensor:
    """Softmax in float32, kept away from 0 and renormalised: (n, c)."""
    p = logits.softmax(1).clamp_min(_LEAST_PROBABILITY)
    return p / p.sum(1, keepdim=True)


class JoSRC(nn.Module):
    """Algorithm 1."""

    views: ClassVar[tuple[str, ...]] = ("weak", "weak")

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__()
        self.network = network
        self.teacher = MeanTeacher(network, recipe.omega)
        self.n_classes, self.recipe, self.epochs = n_classes, recipe, epochs
        self.warmup_epochs = recipe.warmup_epochs(epochs)

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        recipe = self.recipe
        tau = clean_threshold(t, self.warmup_epochs, self.epochs, recipe.tau_c, recipe.tau_m)
        for batch in batches:
            p, p_prime = (probabilities(self.network(view)[0]) for view in batch.views)
            targets = smooth_labels(batch.labels, self.n_classes, recipe.epsilon)
            with torch.no_grad():
                clean, noisy, ood = partition(clean_likelihood(p, targets), ood_likelihood(p, p_prime), tau)
            if self._clean_alone(t):
                loss = classification_loss(targets[clean], p[clean], p_prime[clean])
            else:
                loss = self._loss(self._relabel(batch, targets, noisy, ood), p, p_prime, ood)
            yield Loss(loss, int(clean.sum()), int(noisy.sum()), int(ood.sum()), tau)
            self.teacher.update(self.network)

    def _clean_alone(self, t: int) -> bool:
        """Whether epoch t learns from selected clean samples alone: in warm-up."""
        return t < self.warmup_epochs

    def _loss(self, targets: Tensor, p: Tensor, p_prime: Tensor, ood: Tensor) -> Tensor:
        """After warm-up, Eq. 10 on the entire batch: scalar."""
        rho = 1 - 2 * ood.float()
        classification = classification_loss(targets, p, p_prime)
        return joint_loss(classification, consistency_loss(p, p_prime, rho), self.recipe.alpha)

    def _relabel(self, batch: Batch, targets: Tensor, noisy: Tensor, ood: Tensor) -> Tensor:
        """Eq. 6 for ID samples, Eq. 7 for OOD ones: (n, c)."""
        q = teacher_labels(*(self.teacher(view)[0].softmax(1) for view in batch.views))
        targets = torch.where(noisy[:, None], q, targets)
        return torch.where(ood[:, None], flatten_labels(q, self.recipe.scale), targets)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return predicted(self.trained(), images)

    def trained(self) -> AnyNetwork:
        return self.teacher.network


class CleanOnly(JoSRC):
    """Table 6, Jo-SRC-C (`--recipe paper-c`): only selected clean samples, to the end as in warm-up."""

    def _clean_alone(self, t: int) -> bool:
        return True


class CleanAndID(JoSRC):
    """Table 6, Jo-SRC-CI (`--recipe paper-ci`): clean samples and relabeled ID ones; OOD ones teach nothing."""

    def _loss(self, targets: Tensor, p: Tensor, p_prime: Tensor, ood: Tensor) -> Tensor:
        return classification_loss(targets[~ood], p[~ood], p_prime[~ood])


class WithoutConsistency(JoSRC):
    """Table 6, Jo-SRC-CIO (`--recipe paper-cio`): all samples, relabeled; Eq. 10 without L_o."""

    def _loss(self, targets: Tensor, p: Tensor, p_prime: Tensor, ood: Tensor) -> Tensor:
        return classification_loss(targets, p, p_prime)


class AdaptiveJoSRC(JoSRC):
    """Jo-SRC without its hand-set thresholds (`--recipe auto`).

    Departures
    - Criterion 3.1 with the smoothed reference is not monotone in p(label) and selects everything for few classes. Here
      every sample's predictions are averaged over the epochs, calibrated on the given labels, and held against the
      noise floor of `labelnoise.py`: no τ, no ε in the selection.
    - The partition is soft: ỹ = trust·y + (1 − trust)·q. The teacher's q is flat where it is undecided, so that
      OOD samples get the nearly uniform target of Eq. 7 without being named in training.
    - The views are turned, scaled and relit besides cropped and flipped, since crawls are small.
    - A network from scratch begins, on many images, with a contrast of their views (`pretrain.py`), and goes on
      afterwards, on labels that those not taught them have set right (`refine.py`).
    - ρ = 1: the unbounded reward for disagreement on OOD samples is gone.
    """

    views: ClassVar[tuple[str, ...]] = ("strong", "strong")
    refined: ClassVar[bool] = True  # what it has learned is worth going on from (`refine.py`)
    belief: Tensor  # (n, c), the running predictions
    labels: Tensor  # (n,) int64
    momentum = 0.7  # of a sample's running prediction, over epochs: about the last three count

    def __init__(self, network: AnyNetwork, n_samples: int, n_classes: int, recipe: Recipe, epochs: int):
        super().__init__(network, n_samples, n_classes, recipe, epochs)
        self.register_buffer("belief", torch.from_numpy(scratch.zeros((n_samples, n_classes), np.float32)))
        self.register_buffer("labels", torch.zeros(n_samples, dtype=torch.int64))

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        self.train()
        warm = t <= self.warmup_epochs
        trust = torch.ones(len(self.belief), device=self.belief.device) if warm else self.trust()
        for batch in batches:
            p, p_prime = (probabilities(self.network(view)[0]) for view in batch.views)
            targets = smooth_labels(batch.labels, self.n_classes, self.recipe.epsilon)
            clean = trust[batch.indices].to(p)[:, None]
            if not warm:
                q = teacher_labels(*(self.teacher(view)[0].softmax(1) for view in batch.views))
                targets = clean * targets + (1 - clean) * q
            consistency = consistency_loss(p, p_prime, torch.ones(len(p), device=p.device))
            n_clean = int((clean > 0.5).sum())
            yield Loss(
                joint_loss(classification_loss(targets, p, p_prime), consistency, self.recipe.alpha),
                n_clean,
                len(p) - n_clean,
            )
            self.teacher.update(self.network)
            self._remember(batch, (p + p_prime).detach() / 2, first=t == 1)

    def _remember(self, batch: Batch, p: Tensor, first: bool) -> None:
        self.labels[batch.indices] = batch.labels
        self.belief[batch.indices] = p if first else torch.lerp(p, self.belief[batch.indices], self.momentum)

    def trust(self) -> Tensor:
        """P(label is right) of every training sample, as its predictions of the last epochs tell it: (n,)."""
        trust = label_trust(self.belief.cpu().numpy(), self.labels.cpu().numpy())
        return torch.as_tensor(trust, dtype=torch.float32, device=self.belief.device)

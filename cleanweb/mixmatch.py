"""What semi-supervised learning with two networks is made of: division by loss, refined and guessed labels, MixMatch.

From DivideMix (Li et al., ICLR 2020, https://arxiv.org/abs/2002.07394), which builds on MixMatch (Berthelot et al.,
NeurIPS 2019, https://arxiv.org/abs/1905.02249). Targets and predictions are probabilities (b, c).
"""

import math
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor


def probability_of_low_loss(losses: np.ndarray) -> np.ndarray:
    """Losses (n,) → (n,) in [0, 1]: that each belongs to the lower of two Gaussians fitted to them, scaled to [0, 1].

    1 for all where they do not differ.
    """
    spread = float(np.ptp(losses))
    if spread == 0:
        return np.ones(len(losses))
    scaled = ((losses - losses.min()) / spread).reshape(-1, 1).astype(np.float64)
    mixture = GaussianMixture(2, max_iter=100, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few different losses: one Gaussian is enough
        mixture.fit(scaled)
    low: np.ndarray = mixture.predict_proba(scaled)[:, mixture.means_.argmin()]
    return low


def sharpened(p: Tensor, temperature: float = 0.5) -> Tensor:
    """p^(1/T), rows scaled to sum to 1: MixMatch Eq. 7."""
    raised = p ** (1 / temperature)
    return raised / raised.sum(1, keepdim=True)


def refined(given: Tensor, p: Tensor, clean: Tensor) -> Tensor:
    """Label co-refinement, DivideMix Eq. 3 and 4: w·y + (1 − w)·p, sharpened; clean (b,): w."""
    return sharpened(clean[:, None] * given + (1 - clean[:, None]) * p)


def guessed(p: Tensor, p_peer: Tensor) -> Tensor:
    """Label co-guessing, DivideMix Eq. 5: the mean of both networks' predictions, sharpened."""
    return sharpened((p + p_peer) / 2)


def mixed(images: Tensor, targets: Tensor, rng: np.random.Generator, concentration: float) -> tuple[Tensor, Tensor]:
    """MixUp, MixMatch Eq. 8 to 11: λ·x + (1 − λ)·x′ with a random partner x′, λ ≥ 1/2 from Beta(a, a), and the targets
    likewise."""
    share = float(rng.beta(concentration, concentration))
    share = max(share, 1 - share)
    partner = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    return share * images + (1 - share) * images[partner], share * targets + (1 - share) * targets[partner]


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """L_x, DivideMix Eq. 9: nats, scalar."""
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def brier(p: Tensor, targets: Tensor) -> Tensor:
    """L_u, DivideMix Eq. 10: the squared distance of the probabilities, in [0, 2], scalar.

    The sum over classes, where the authors' code takes their mean: so one weight fits any number of classes.
    """
    return ((p - targets) ** 2).sum(1).mean()


def one_sidedness(p: Tensor) -> Tensor:
    """L_reg, DivideMix Eq. 11: D_KL(uniform ‖ mean prediction) in nats, scalar; 0 where no class is preferred."""
    mean = p.mean(0).clamp_min(1e-8)
    return -(mean.log() + math.log(len(mean))).mean()


def negative_entropy(p: Tensor) -> Tensor:
    """Confidence penalty, DivideMix §3.2: the mean of Σ p·ln p in nats, scalar, ≤ 0."""
    return (p * p.clamp_min(1e-8).log()).sum(1).mean()

"""Contrastive losses: two views of an image shall be alike, and unlike all others.

NT-Xent needs no labels (SimCLR, Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709); SupCon draws together what
carries the same label (Khosla et al., NeurIPS 2020, https://arxiv.org/abs/2004.11362).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projector(nn.Module):
    """Features (n, d) → points on the unit sphere (n, k), where views are compared: two layers, as SimCLR has it."""

    def __init__(self, d: int, k: int = 128):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, k))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.layers(features.float()), dim=1)


def nt_xent(z: Tensor, z_prime: Tensor, temperature: float = 0.5) -> Tensor:
    """SimCLR Eq. 1, the mean over both views of b images: z, z_prime (b, k), rows of length 1 → nats, scalar."""
    return contrast(torch.cat([z, z_prime]), torch.arange(len(z), device=z.device).repeat(2), temperature)


def contrast(z: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """L_out of SupCon, Eq. 2: z (m, k), rows of length 1; labels (m,). Nats, scalar: −mean over the samples and their
    positives p of ln(exp(z·z_p/T) / Σ_a≠self exp(z·z_a/T)). Samples without a positive teach nothing; 0 where none has.
    """
    oneself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    likeness = (z @ z.T / temperature).masked_fill(oneself, -torch.inf)
    positives = (labels[:, None] == labels) & ~oneself
    log_p = likeness.log_softmax(1).masked_fill(~positives, 0.0)
    n_positives = positives.sum(1)
    return -(log_p.sum(1) / n_positives.clamp(min=1)).sum() / (n_positives > 0).sum().clamp(min=1)

"""Contrastive losses: against float64 numpy, what they reward, and a backbone that learns without labels."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cleanweb import network, pretrain
from cleanweb.contrastive import Projector, contrast, nt_xent
from cleanweb.network import Network
from cleanweb.settings import RECIPES
from cleanweb.views import ImageBatches, Pixels, strong

seeds = given(seed=st.integers(0, 10**6))
few = settings(max_examples=25, deadline=None)
CPU = torch.device("cpu")


def points(rng: np.random.Generator, n: int, k: int = 5) -> np.ndarray:
    z = rng.normal(size=(n, k))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def simclr(z: np.ndarray, z_prime: np.ndarray, temperature: float) -> float:
    """SimCLR, Eq. 1 and Algorithm 1, term by term."""
    every, b = np.concatenate([z, z_prime]), len(z)
    terms = []
    for i in range(2 * b):
        likeness = np.exp(every @ every[i] / temperature)
        terms.append(-np.log(likeness[(i + b) % (2 * b)] / (likeness.sum() - likeness[i])))
    return float(np.mean(terms))


def supcon(z: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """SupCon, Eq. 2, over the samples that have a positive."""
    terms = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        rest = sum(np.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
        if positives:
            terms.append(-np.mean([np.log(np.exp(z[i] @ z[p] / temperature) / rest) for p in positives]))
    return float(np.mean(terms)) if terms else 0.0


@seeds
@few
def test_losses_equal_the_reference(seed: int):
    rng = np.random.default_rng(seed)
    z, z_prime, labels = points(rng, 6), points(rng, 6), rng.integers(0, 8, 6)
    tensors = torch.as_tensor(z), torch.as_tensor(z_prime)
    assert nt_xent(*tensors).item() == pytest.approx(simclr(z, z_prime, 0.5))
    assert contrast(tensors[0], torch.as_tensor(labels)).item() == pytest.approx(supcon(z, labels, 0.1))


@seeds
@few
def test_views_that_are_alike_cost_less_than_views_that_are_not(seed: int):
    z = torch.as_tensor(points(np.random.default_rng(seed), 8, 32))
    assert nt_xent(z, z) < nt_xent(z, z.roll(1, 0))
    assert contrast(torch.cat([z, z]), torch.arange(8).repeat(2)) < contrast(torch.cat([z, z]), torch.arange(16) // 2)


def test_who_has_no_positive_teaches_nothing():
    z = torch.eye(3, requires_grad=True)
    loss = contrast(z, torch.arange(3))
    loss.backward()
    assert loss.item() == 0
    assert not z.grad.any()


def test_projections_lie_on_the_sphere():
    z = Projector(6, 4)(torch.randn(9, 6, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(9))


def unlike(net: Network, pictures: torch.Tensor, labels: torch.Tensor, pixels: Pixels) -> float:
    """How hard it is to tell from the features of two strong views of every picture what belongs together: nats."""
    generator = torch.Generator().manual_seed(9)
    views = torch.cat([pixels.normalise(strong(pictures, 32, generator)) for _ in range(2)])
    with torch.no_grad():
        features = net.eval()(views)[1]
    return contrast(F.normalize(features - features.mean(0), dim=1), labels.repeat(2), 0.5).item()


@pytest.mark.parametrize("kind", pretrain.KINDS)
def test_a_backbone_learns_what_belongs_together_and_a_second_run_only_reads_it(kind: str, tmp_path):
    rng = np.random.default_rng(0)
    pixels, labels = Pixels(32, (0.5,) * 3, (0.25,) * 3), np.arange(96) % 3
    squares = rng.integers(0, 156, (96, 4, 4, 3)) + 100 * np.eye(3, dtype=int)[labels][:, None, None]  # of a tint each
    pictures = torch.as_tensor(squares, dtype=torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    together = torch.arange(96) if kind == "self" else torch.as_tensor(labels)

    def batches(views: tuple[str, ...], batch_size: int) -> ImageBatches:
        return ImageBatches(lambda at, _: pictures.numpy()[at], labels, pixels, views, batch_size, 0, CPU)

    def made() -> Network:
        torch.manual_seed(0)
        return Network(timm.create_model(network.SMALL, num_classes=3))

    net, again, said = made(), made(), []
    before = unlike(net, pictures, together, pixels)
    for each in (net, again):
        recipe = replace(RECIPES["auto"]["small"], pretrain=kind)
        pretrain.pretrain(kind, each, batches, recipe, 15, tmp_path / "pretrain.pt", lambda *told: said.append(told))
    assert unlike(net, pictures, together, pixels) < before - 0.03
    assert said == [("pretrain", t, 15) for t in range(1, 16)]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))

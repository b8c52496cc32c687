"""Methods of two networks: who learns from which samples, against a few lines of numpy, and whether it helps.

The images are the rows of the identity, so that the weights of a head are the logits of its samples, and their gradient
tells which samples it learns from.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cleanweb import machine, methods
from cleanweb.features import FeatureBatches
from cleanweb.methods import TAKE_NOISE_RATE, Batch, Loss, jocor
from cleanweb.network import FeatureHead, Twins
from cleanweb.settings import Recipe
from cleanweb.train import train

B, C, EPOCHS = 20, 4, 40  # R(t) falls over two epochs, Co-teaching+ sets in with the second
TWINS = ("decoupling", "coteaching", "coteaching+", "jocor")
seeds = given(seed=st.integers(0, 10**6))
few = settings(max_examples=25, deadline=None)


def recipe(noise_rate: float | None = 0.4, **changes) -> Recipe:
    values = {"epochs": EPOCHS, "batch_size": B, "optimiser": "adam", "lr": 3e-3, "weight_decay": 0.0,
              "schedule": "cosine", "decay_from": 0.0, "warmup": 0.1, "epsilon": 0.0, "alpha": 0.5, "omega": 0.9,
              "noise_rate": noise_rate}  # fmt: skip
    return Recipe(**values | changes)


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (b, c) of either network, and labels (b,)."""
    generator = torch.Generator().manual_seed(seed)
    return *(2 * torch.randn(2, B, C, generator=generator)), torch.randint(0, C, (B,), generator=generator)


def twins(name: str, logits: Tensor, logits_peer: Tensor, noise_rate: float = 0.4) -> Twins:
    """A method whose two heads give these logits to the rows of the identity."""
    head = FeatureHead(torch.zeros(B), torch.ones(B), C)
    method = methods.load(name, "auto")(head, B, C, recipe(noise_rate), EPOCHS)
    method.network.fc.weight.data, method.peer.fc.weight.data = logits.T.clone(), logits_peer.T.clone()
    method.peer.fc.bias.data.zero_()
    return method


def step(method: Twins, t: int, labels: Tensor) -> tuple[Loss, set[int], set[int]]:
    """The loss of epoch t on these samples, and from which of them either network learns."""
    loss = next(iter(method.epoch(t, [Batch(torch.arange(B), labels, (torch.eye(B),))])))
    method.zero_grad(set_to_none=True)
    loss.value.backward()
    return loss, *(set(head.fc.weight.grad.norm(dim=0).nonzero().flatten().tolist())
                   for head in (method.network, method.peer))  # fmt: skip


# --- a second opinion in float64 ------------------------------------------------------------------------------------


def log_softmax(z: Tensor) -> np.ndarray:
    z = np.asarray(z, np.float64)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def cross_entropy(z: Tensor, labels: Tensor) -> np.ndarray:
    return -log_softmax(z)[np.arange(B), labels]


def smallest(losses: np.ndarray, among: np.ndarray, share: float) -> np.ndarray:
    return among[np.argsort(losses[among], kind="stable")[: math.ceil(share * len(among))]]


def exchanged(z: Tensor, z_peer: Tensor, labels: Tensor, among: np.ndarray, share: float):
    """Co-teaching's loss, and what either network learns from."""
    own, peers = cross_entropy(z, labels), cross_entropy(z_peer, labels)
    learned, learned_by_peer = smallest(peers, among, share), smallest(own, among, share)
    return own[learned].mean() + peers[learned_by_peer].mean(), set(learned), set(learned_by_peer)


def joint(z: Tensor, z_peer: Tensor, labels: Tensor, weight: float) -> np.ndarray:
    """JoCoR's loss of every sample, the two divergences one by one."""
    a, b = log_softmax(z), log_softmax(z_peer)
    apart = (np.exp(a) * (a - b)).sum(1) + (np.exp(b) * (b - a)).sum(1)
    return (1 - weight) * (cross_entropy(z, labels) + cross_entropy(z_peer, labels)) + weight * apart


# --- what all have in common ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TWINS)
def test_the_first_network_is_believed_and_left_in_evaluation_mode(name: str):
    logits, logits_peer, _ = drawn(0)
    method = twins(name, logits, logits_peer)
    method.train()
    torch.testing.assert_close(method.predict(torch.eye(B))[0], logits.softmax(1))
    assert method.trained() is method.network
    assert not method.network.training


@pytest.mark.parametrize("name", TAKE_NOISE_RATE)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45, 0.9])
@pytest.mark.parametrize("t", [1, 2, EPOCHS])
def test_the_kept_share_is_learned_from(name: str, rate: float, t: int):
    logits, _, labels = drawn(1)
    apart = logits.roll(1, 1)  # both disagree on every sample
    loss, learned, learned_by_peer = step(twins(name, logits, apart, rate), t, labels)
    kept = math.ceil((1 - rate * min(t / 2, 1)) * B)
    assert loss.n_clean == len(learned) == len(learned_by_peer) == kept


# --- Decoupling -----------------------------------------------------------------------------------------------------


@seeds
@few
def test_decoupling_learns_where_the_networks_disagree_and_nowhere_else(seed: int):
    logits, logits_peer, labels = drawn(seed)
    loss, learned, learned_by_peer = step(twins("decoupling", logits, logits_peer), 1, labels)
    apart = (logits.argmax(1) != logits_peer.argmax(1)).nonzero().flatten()
    assert learned == learned_by_peer == set(apart.tolist())
    assert loss.n_clean == len(apart)
    expected = (cross_entropy(logits, labels) + cross_entropy(logits_peer, labels))[apart].mean()
    assert loss.value.item() == pytest.approx(expected, abs=1e-5)


def test_decoupling_without_disagreement_is_a_loss_of_zero_that_reaches_everything():
    logits, _, labels = drawn(0)
    method = twins("decoupling", logits, 2 * logits)
    loss, learned, learned_by_peer = step(method, 1, labels)
    assert loss.value == 0
    assert loss.n_clean == 0
    assert not learned | learned_by_peer
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in method.parameters())


# --- Co-teaching and Co-teaching+ -----------------------------------------------------------------------------------


@seeds
@few
def test_coteaching_learns_from_what_the_peer_picked(seed: int):
    logits, logits_peer, labels = drawn(seed)
    loss, learned, learned_by_peer = step(twins("coteaching", logits, logits_peer), 5, labels)
    expected = exchanged(logits, logits_peer, labels, np.arange(B), share=0.6)
    assert loss.value.item() == pytest.approx(expected[0], abs=1e-5)
    assert (learned, learned_by_peer) == expected[1:]


def test_coteaching_never_learns_from_its_own_choice():
    """The first network finds one half easy, the second the other."""
    labels = torch.zeros(B, dtype=torch.int64)
    sure = torch.tensor([3.0, 0, 0, 0])
    first = torch.where(torch.arange(B)[:, None] < B // 2, sure, -sure)
    _, learned, learned_by_peer = step(twins("coteaching", first, first.flip(0), noise_rate=0.5), EPOCHS, labels)
    assert learned == set(range(B // 2, B))
    assert learned_by_peer == set(range(B // 2))


@seeds
@few
def test_coteaching_plus_picks_among_the_disagreement(seed: int):
    logits, logits_peer, labels = drawn(seed)
    loss, learned, learned_by_peer = step(twins("coteaching+", logits, logits_peer), 5, labels)
    apart = np.flatnonzero(logits.argmax(1) != logits_peer.argmax(1))
    expected = exchanged(logits, logits_peer, labels, apart, share=0.6)
    assert loss.value.item() == pytest.approx(expected[0], abs=1e-5)
    assert (learned, learned_by_peer) == expected[1:]


@pytest.mark.parametrize(("t", "agree"), [(1, False), (EPOCHS, True)])
def test_coteaching_plus_is_coteaching_at_first_and_where_the_networks_agree(t: int, agree: bool):
    logits, logits_peer, labels = drawn(3)
    logits_peer = logits / 2 if agree else logits_peer
    found, expected = (step(twins(name, logits, logits_peer), t, labels) for name in ("coteaching+", "coteaching"))
    assert found[0].value == expected[0].value
    assert found[1:] == expected[1:]


# --- JoCoR ----------------------------------------------------------------------------------------------------------


@seeds
@few
def test_jocor_learns_from_the_smallest_joint_losses_with_both_networks(seed: int):
    logits, logits_peer, labels = drawn(seed)
    loss, learned, learned_by_peer = step(twins("jocor", logits, logits_peer), 5, labels)
    losses = joint(logits, logits_peer, labels, weight=0.85)
    kept = smallest(losses, np.arange(B), share=0.6)
    assert loss.value.item() == pytest.approx(losses[kept].mean(), abs=1e-5)
    assert learned == learned_by_peer == set(kept)


@given(seed=st.integers(0, 10**6), weight=st.floats(0, 1))
@few
def test_the_joint_loss(seed: int, weight: float):
    z, z_peer, labels = drawn(seed)
    losses = jocor.joint_losses(z, z_peer, labels, weight)
    np.testing.assert_allclose(losses, joint(z, z_peer, labels, weight), atol=1e-4)
    torch.testing.assert_close(losses, jocor.joint_losses(z_peer, z, labels, weight))
    assert (losses >= 0).all()
    alone = jocor.joint_losses(z, z, labels, weight)  # no divergence from oneself
    np.testing.assert_allclose(alone, 2 * (1 - weight) * cross_entropy(z, labels), atol=1e-4)


def test_the_joint_loss_is_finite_at_extreme_logits():
    z = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 0]], requires_grad=True)
    losses = jocor.joint_losses(z, z.flip(0), torch.tensor([1, 1]), 0.85)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert z.grad.isfinite().all()


# --- do they help ---------------------------------------------------------------------------------------------------


def noisy_blobs(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points (n, d) around four centres, their classes, and labels of which 40 % are wrong."""
    truth = torch.arange(n) % C
    x = 8 * torch.eye(C, d)[truth] + torch.randn(n, d, generator=generator)
    wrong = torch.rand(n, generator=generator) < 0.4
    return x, truth, torch.where(wrong, (truth + torch.randint(1, C, (n,), generator=generator)) % C, truth)


def accuracy(name: str, seed: int) -> float:
    """On new points, of a head with as many weights as it takes to learn every wrong label by heart."""
    n = d = 300
    generator = torch.Generator().manual_seed(seed)
    x, _, labels = noisy_blobs(n, d, generator)
    torch.manual_seed(seed)
    method = methods.load(name, "auto")(FeatureHead(torch.zeros(d), torch.ones(d), C), n, C, recipe(), 30)
    device = torch.device("cpu")
    with machine.one_thread(device):
        train(method, FeatureBatches(x[None].half().numpy(), labels.numpy(), 1, 32, seed, device), recipe(), 30)
    x, truth, _ = noisy_blobs(1000, d, generator)
    return float((method.predict(x)[0].argmax(1) == truth).float().mean())


@pytest.mark.parametrize("name", ["coteaching", "jocor"])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_network_alone_learns_by_heart_two_do_not(name: str, seed: int):
    assert accuracy(name, seed) > accuracy("standard", seed) + 0.1

"""Jo-SNC's selection: against float64 numpy, and what neighbours and thresholds must keep to."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb.methods import Batch
from cleanweb.methods.josnc import JoSNC, graded_ood_likelihood, neighbour_likelihood
from cleanweb.network import FeatureHead
from cleanweb.settings import Recipe
from tests.reference import josrc as reference

N, D, C = 30, 5, 4
seeds = given(seed=st.integers(0, 10**6))
few = settings(max_examples=25, deadline=None)
RECIPE = Recipe(10, 8, "adam", 0.01, 0.0, "cosine", 0.0, warmup=0.2, epsilon=0.1, alpha=0.5, omega=0.9)


def made() -> JoSNC:
    return JoSNC(FeatureHead(torch.zeros(D), torch.ones(D), C), N, C, RECIPE, 10)


@seeds
@few
def test_neighbours_vote_as_the_reference_does(seed: int):
    rng = np.random.default_rng(seed)
    bank, beliefs = rng.normal(size=(N, D)), rng.dirichlet(np.ones(C), N)
    oneself, targets = rng.permutation(N)[:6], rng.dirichlet(np.ones(C), 6)
    expected = []
    for i, y in zip(oneself, targets, strict=True):
        cosine = bank @ bank[i] / np.linalg.norm(bank, axis=1) / np.linalg.norm(bank[i])
        others = [k for k in np.argsort(-cosine) if k != i][:10]
        expected.append(np.mean([reference.clean_likelihood(beliefs[k], y) for k in others]))
    found = neighbour_likelihood(*map(torch.as_tensor, (bank[oneself], beliefs, bank, oneself, targets)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@seeds
@few
def test_ood_is_graded(seed: int):
    rng = np.random.default_rng(seed)
    z, z_prime = rng.normal(size=(2, 9, C))
    found = graded_ood_likelihood(torch.as_tensor(z), torch.as_tensor(z_prime)).numpy()
    expected = reference.js_divergence(reference.softmax(z / 0.1), reference.softmax(z_prime / 0.1))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found >= -1e-6).all()
    assert (found <= 1 + 1e-6).all()
    assert graded_ood_likelihood(torch.as_tensor(z), torch.as_tensor(z)).abs().max() < 1e-6


def test_a_lonely_sample_has_no_neighbours_to_ask():
    one = torch.ones(1, D)
    assert neighbour_likelihood(one, torch.ones(1, C) / C, one, torch.tensor([0]), torch.eye(C)[:1]) == 0


def test_good_neighbours_make_a_sample_clean_that_its_own_prediction_does_not():
    method = made()
    method.features[:] = torch.eye(D)[torch.arange(N) % 2]
    method.beliefs[:] = torch.eye(C)[torch.arange(N) % 2]
    method.tau_clean[:] = 0.5
    labels = torch.tensor([0, 1])  # sample 0's neighbours say 0, sample 2's too
    batch = Batch(torch.tensor([0, 2]), labels, ())
    targets, no, much = torch.eye(C)[labels], torch.zeros(2), torch.ones(2)
    clean, noisy, ood = method._partition(batch, method.features[[0, 2]], targets, no, much)
    assert clean.tolist() == [True, False]
    assert (noisy.tolist(), ood.tolist()) == ([False, False], [False, True])
    clean, noisy, ood = method._partition(batch, method.features[[0, 2]], targets, torch.tensor([0.0, 0.6]), much)
    assert clean.tolist() == [True, True]


def test_each_class_sets_its_threshold_and_an_absent_one_keeps_its_own():
    method = made()
    method.tau_clean[:], method.tau_ood[:] = 0.4, 0.2
    method._adapt(torch.tensor([[2.0, 1.0, 0, 0], [0.2, 0.4, 0, 0], [2.0, 2.0, 0, 0]]), 0.75)
    torch.testing.assert_close(method.tau_clean, torch.tensor([0.55, 0.425, 0.4, 0.4]))
    torch.testing.assert_close(method.tau_ood, torch.tensor([0.175, 0.2, 0.2, 0.2]))

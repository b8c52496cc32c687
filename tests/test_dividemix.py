"""DivideMix: what its parts must keep to, each formula against float64 numpy, and whether wrong labels lose out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from cleanweb import mixmatch
from cleanweb.features import FeatureBatches
from cleanweb.methods import Batch, Batches
from cleanweb.methods.dividemix import DivideMix, unlabelled_weight
from cleanweb.network import FeatureHead
from cleanweb.settings import Recipe
from cleanweb.train import train
from tests.reference import dividemix as reference

D, C = 7, 4
seeds = given(seed=st.integers(0, 10**6))
few = settings(max_examples=25, deadline=None)
RECIPE = Recipe(10, 32, "adam", 0.02, 0.0, "cosine", 0.0, warmup=0.2, epsilon=0.0, alpha=0.5, omega=0.9)


def simplex(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.dirichlet(np.ones(C), n)


def tensor(x: np.ndarray) -> Tensor:
    return torch.as_tensor(x)


@seeds
@few
def test_the_division_is_the_posterior_of_the_lower_gaussian(seed: int):
    rng = np.random.default_rng(seed)
    low, high = rng.normal(0.5, 0.1, 3000), rng.normal(3, 0.5, 1000)
    losses = np.concatenate([low, high])
    found = mixmatch.probability_of_low_loss(losses)
    a, b = 0.75 * norm(0.5, 0.1).pdf(losses), 0.25 * norm(3, 0.5).pdf(losses)
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert ((found > 0.5) == (a > b)).mean() > 0.99
    again = mixmatch.probability_of_low_loss(7 * losses + 100)  # the scale is no matter
    np.testing.assert_allclose(again, found, atol=1e-6)


@pytest.mark.parametrize("losses", [[2.0], [2.0] * 9, [0.0, 1.0], [0.0] * 9 + [1.0], [1e30, 0.0, 1.0]])
def test_few_losses_are_divided_without_a_word(losses: list[float]):
    found = mixmatch.probability_of_low_loss(np.array(losses, np.float32))
    assert np.isfinite(found).all()
    assert found[np.argmin(losses)] > 0.5


@seeds
@few
def test_parts_equal_the_reference(seed: int):
    rng = np.random.default_rng(seed)
    p, p_peer, q = (simplex(rng, 9) for _ in range(3))
    y, w = np.eye(C)[rng.integers(0, C, 9)], rng.random(9)
    pairs = [
        (mixmatch.sharpened(tensor(p)), reference.sharpen(p, 0.5)),
        (mixmatch.refined(tensor(y), tensor(p), tensor(w)), reference.co_refinement(y, p, w)),
        (mixmatch.guessed((tensor(p) + tensor(q)) / 2, tensor(p_peer)), reference.co_guessing([p, q, p_peer, p_peer])),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
        np.testing.assert_allclose(found.sum(1).numpy(), 1)
    assert (mixmatch.sharpened(tensor(p)).argmax(1).numpy() == p.argmax(1)).all()


@seeds
@few
def test_a_label_that_is_surely_right_stays_and_one_that_is_surely_wrong_goes(seed: int):
    rng = np.random.default_rng(seed)
    p, y = simplex(rng, 9), np.eye(C)[rng.integers(0, C, 9)]
    right, wrong = (mixmatch.refined(tensor(y), tensor(p), torch.full((9,), w, dtype=torch.float64)) for w in (1, 0))
    np.testing.assert_array_equal(right.numpy(), y)
    np.testing.assert_allclose(wrong.numpy(), reference.sharpen(p, 0.5))


@seeds
@few
def test_images_and_targets_are_mixed_alike_and_stay_nearer_to_themselves(seed: int):
    rng = np.random.default_rng(seed)
    images, targets = mixmatch.mixed(torch.eye(9), torch.eye(9), rng, 4.0)
    assert torch.equal(images, targets)
    assert (images.diagonal() >= 0.5).all()
    torch.testing.assert_close(images.sum(1), torch.ones(9))


@seeds
@few
def test_no_class_is_preferred_where_all_are_predicted_alike(seed: int):
    p = tensor(simplex(np.random.default_rng(seed), 9))
    assert mixmatch.one_sidedness(p) >= 0
    assert mixmatch.one_sidedness(torch.eye(C, dtype=torch.float64)) == pytest.approx(0, abs=1e-12)
    assert 0 <= mixmatch.brier(p, p.flip(0)) <= 2
    assert -np.log(C) - 1e-9 <= mixmatch.negative_entropy(p) <= 0


def method(weights: np.ndarray, peer: np.ndarray, n: int = 20) -> DivideMix:
    head = FeatureHead(torch.zeros(D), torch.ones(D), C)
    made = DivideMix(head, n, C, RECIPE, RECIPE.epochs).double()
    made.network.fc.weight.data, made.peer.fc.weight.data = tensor(weights.T), tensor(peer.T)
    made.peer.fc.bias.data.zero_()
    return made


def batch(rng: np.random.Generator, n: int, first: int = 0) -> Batch:
    views = tuple(tensor(rng.normal(size=(n, D))) for _ in range(2))
    return Batch(torch.arange(first, first + n), torch.as_tensor(rng.integers(0, C, n)), views)


@seeds
@few
def test_a_step_equals_the_reference(seed: int):
    rng = np.random.default_rng(seed)
    weights, peer = rng.normal(size=(2, D, C))
    made, x, u, clean = method(weights, peer), batch(rng, 8), batch(rng, 5, 8), rng.random(20)

    own = sum(reference.softmax(v.numpy() @ weights) for v in x.views) / 2
    refined = reference.co_refinement(np.eye(C)[x.labels], own, clean[:8])
    guesses = [reference.softmax(v.numpy() @ w) for w in (weights, peer) for v in u.views]
    guessed = reference.co_guessing(guesses)
    found = made._refine(made.network, x, tensor(clean)), made._guess(made.network, made.peer, u)
    np.testing.assert_allclose(found[0].numpy(), refined, rtol=1e-6)
    np.testing.assert_allclose(found[1].numpy(), guessed, rtol=1e-9)

    draws = np.random.default_rng(seed)
    share = draws.beta(4, 4)
    partner = draws.permutation(26)
    loss = made._loss(made.network, x, u, found, 0.7, np.random.default_rng(seed))
    images = np.concatenate([*x.views, *u.views])
    targets = np.concatenate([refined, refined, guessed, guessed])
    expected = reference.mixmatch_loss(weights, images, targets, 16, max(share, 1 - share), partner, 0.7)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@seeds
@few
def test_the_warm_up_equals_the_reference(seed: int):
    rng = np.random.default_rng(seed)
    weights, peer = rng.normal(size=(2, D, C))
    made, x = method(weights, peer), batch(rng, 8)
    (loss,) = made.epoch(1, Batches(lambda at, generator: x, x.indices, 8, torch.Generator()))
    expected = sum(reference.warm_up_loss(x.views[0].numpy() @ w, x.labels.numpy()) for w in (weights, peer))
    assert loss.value.item() == pytest.approx(expected, rel=1e-6)


def test_the_unlabelled_weigh_nothing_where_there_are_few_and_never_more_than_two():
    assert unlabelled_weight(100, 0) == 0
    assert unlabelled_weight(100, 25) == 0.5
    assert unlabelled_weight(100, 100) == unlabelled_weight(1, 10**6) == 2


def test_a_network_learns_on_its_peers_division():
    """The peer takes the first half for clean: only that half is learned from with its labels."""
    rng = np.random.default_rng(0)
    weights, peer = rng.normal(size=(2, D, C))
    made, x = method(weights, peer), batch(rng, 20)
    clean = tensor(np.repeat([1.0, 0.0], 10))
    seen: list[tuple[int, ...]] = []

    def draw(indices: Tensor, generator: torch.Generator | None) -> Batch:
        seen.append(tuple(indices.tolist()))
        return Batch(indices, x.labels[indices], tuple(view[indices] for view in x.views))

    losses = list(made._mixmatch(made.network, made.peer, clean, Batches(draw, x.indices, 5, torch.Generator()), 1.0))
    assert sum(loss.n_clean for loss in losses) == sum(loss.n_id for loss in losses) == 10
    labelled, others = ({i for at in seen[k::2] for i in at} for k in (0, 1))
    assert (labelled, others) == (set(range(10)), set(range(10, 20)))


def test_wrong_labels_lose_their_say():
    """A third of the labels wrong: the networks recover the truth better than the labels tell it."""
    rng = np.random.default_rng(0)
    n, truth = 600, np.arange(600) % C
    features = (3 * np.eye(C, D)[truth] + rng.normal(size=(2, n, D)) * 0.8).astype(np.float16)
    labels = np.where(rng.random(n) < 0.33, rng.integers(0, C, n), truth)
    torch.manual_seed(0)
    made = DivideMix(FeatureHead(torch.zeros(D), torch.ones(D), C), n, C, RECIPE, RECIPE.epochs)
    records = train(made, FeatureBatches(features, labels, 2, 32, 0, torch.device("cpu")), RECIPE, RECIPE.epochs)
    found = made.predict(torch.as_tensor(features.mean(0), dtype=torch.float32))[0].argmax(1).numpy()
    assert (found == truth).mean() > 0.97
    wrong = (labels != truth).sum()
    assert records[-1].n_clean + records[-1].n_id == n
    assert records[-1].n_id == pytest.approx(wrong, rel=0.2)

"""What the model believes: averages over views, disagreement by its definition, and nothing decided."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from cleanweb.methods import josrc
from cleanweb.records import Scores
from cleanweb.score import N_NEIGHBOURS, believe, clean_likelihood, score, view_disagreement

CPU = torch.device("cpu")


def random_probs(seed: int, v: int, n: int, c: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(c, 0.3), (v, n)).astype(np.float32)


@given(seed=st.integers(0, 10**6), v=st.integers(1, 6), n=st.integers(1, 12), c=st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_disagreement_is_the_share_of_pairs_that_name_different_classes(seed: int, v: int, n: int, c: int):
    named = random_probs(seed, v, n, c).argmax(2)
    found = view_disagreement(named)
    assert found.shape == (n,)
    assert found.dtype == np.float32
    pairs = list(combinations(range(v), 2))
    expected = [np.mean([named[a, i] != named[b, i] for a, b in pairs]) if pairs else 0.0 for i in range(n)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def toy(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and features of numbers."""
    return torch.stack([x, -x], 1).softmax(1), torch.stack([x, x**2], 1)


def test_believe_averages_over_views():
    views = [torch.randn(10, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    batches = [tuple(view[first : first + 4] for view in views) for first in (0, 4, 8)]
    probs, disagreement, features = believe(toy, batches, 10)
    assert probs.shape == features.shape == (10, 2)
    assert probs.dtype == disagreement.dtype == features.dtype == np.float32
    each = torch.stack([toy(view)[0] for view in views])
    np.testing.assert_allclose(probs, each.mean(0), rtol=1e-6)
    np.testing.assert_allclose(disagreement, view_disagreement(each.argmax(2).numpy()))
    np.testing.assert_allclose(features, torch.stack([toy(view)[1] for view in views]).mean(0), rtol=1e-6)


def test_believe_asks_for_every_view_once():
    calls = []
    believe(lambda x: calls.append(len(x)) or toy(x), iter([(torch.zeros(4), torch.ones(4)), (torch.zeros(1),) * 2]), 5)
    assert calls == [4, 4, 1, 1]


def test_half_precision_predictions_become_float32():
    probs, _, features = believe(lambda x: tuple(y.bfloat16() for y in toy(x)), [(torch.zeros(3),)], 3)
    assert probs.dtype == features.dtype == np.float32


def scores_of(probs: np.ndarray, features: np.ndarray, space: np.ndarray, labels: np.ndarray) -> Scores:
    """probs (v, n, c)."""
    return score(probs.mean(0), view_disagreement(probs.argmax(2)), features, space, labels, CPU)


@pytest.fixture
def scored():
    probs = random_probs(0, 4, 50, 3)
    features = np.random.default_rng(1).normal(5, 1, (50, 8)).astype(np.float32)
    labels = np.arange(50) % 4 - 1
    return probs, features, labels, scores_of(probs, features, np.zeros(50, np.int64), labels)


def test_js_clean_is_eq_3_of_the_label_as_it_stands(scored):
    probs, _, labels, scores = scored
    known = labels >= 0
    divergence = jensenshannon(probs.mean(0)[known], np.eye(3)[labels[known]], axis=1, base=2) ** 2
    np.testing.assert_allclose(scores.js_clean[known], 1 - divergence, atol=1e-5)
    assert np.isnan(scores.js_clean[~known]).all()
    p_given = scores.probs[known, labels[known]]
    assert (np.diff(scores.js_clean[known][np.argsort(p_given)]) > -1e-6).all()  # rises with p(label)


def test_it_is_what_jo_srcs_own_function_gives_for_a_certain_label():
    probs, labels = random_probs(0, 1, 60, 3)[0], np.arange(60) % 3
    probs[:3], labels[1] = np.eye(3), 0  # sure of it, and of another
    found = clean_likelihood(probs[np.arange(60), labels])
    expected = josrc.clean_likelihood(torch.as_tensor(probs), torch.as_tensor(np.eye(3)[labels]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.min() == 0.0
    assert found.max() == 1.0


def test_neighbours_are_others_by_centred_features(scored):
    _, features, _, scores = scored
    assert scores.neighbours.shape == scores.similarity.shape == (50, N_NEIGHBOURS)
    assert (scores.neighbours != np.arange(50)[:, None]).all()
    centred = features - features.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    expected = np.sort(centred @ centred.T, axis=1)[:, ::-1][:, 1 : N_NEIGHBOURS + 1]
    np.testing.assert_allclose(scores.similarity, expected, atol=1e-5)


def test_few_samples_have_few_neighbours():
    probs, features, labels = random_probs(0, 2, 3, 2), np.eye(3, dtype=np.float32), np.array([0, 1, 0])
    assert scores_of(probs, features, np.array([0, 0, 0]), labels).neighbours.shape == (3, 2)
    assert scores_of(probs, features, np.array([0, 1, 0]), labels).neighbours.shape == (3, 0)


def test_neighbours_are_of_the_same_space():
    """Features of two networks cannot be compared: each space is centred and searched on its own."""
    rng = np.random.default_rng(0)
    features, space = rng.normal(0, 1, (90, 6)).astype(np.float32), rng.permutation(90) % 2
    features[space == 1] += 100
    probs, labels = random_probs(0, 2, 90, 3), np.arange(90) % 3
    scores = scores_of(probs, features, space, labels)
    assert (space[scores.neighbours] == space[:, None]).all()
    for number in (0, 1):
        own = np.flatnonzero(space == number)
        alone = scores_of(probs[:, own], features[own], np.zeros(len(own), np.int64), labels[own])
        np.testing.assert_array_equal(scores.neighbours[own], own[alone.neighbours])
        np.testing.assert_array_equal(scores.similarity[own], alone.similarity)


def test_arrays_are_small(scored):
    *_, scores = scored
    assert scores.neighbours.dtype == np.int32
    for name in ("probs", "view_disagreement", "js_clean", "similarity"):
        assert getattr(scores, name).dtype == np.float32
    assert scores.labels.dtype == np.int64


def test_in_a_large_set_most_of_the_neighbours_are_found(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(20, 8))[rng.integers(0, 20, 900)] + 0.5 * rng.normal(size=(900, 8)) + 3).astype("f4")
    probs, labels, space = random_probs(0, 1, 900, 3), rng.integers(0, 3, 900), np.zeros(900, np.int64)
    exact = scores_of(probs, features, space, labels)
    monkeypatch.setattr("cleanweb.score.EXACT", 100)
    monkeypatch.setattr("cleanweb.neighbours.LEAF", 200)
    large = scores_of(probs, features, space, labels)
    pairs = zip(large.neighbours, exact.neighbours, strict=True)
    assert np.mean([len({*a} & {*b}) / N_NEIGHBOURS for a, b in pairs]) > 0.8
    assert abs(large.similarity.mean() - exact.similarity.mean()) < 0.02

"""Transition matrices are what the papers' code makes; labels drawn from them keep to them, and never leave them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb.bench import noise

RATES = st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.8, 1.0])
KINDS = {
    "symmetric": noise.symmetric,
    "pair": noise.pair_flip,
    "block": noise.block_flip,
    "superclass": lambda k, rate: noise.superclass_flip(np.arange(k) // 3, rate),
}


def within(count: int, n: int, rate: float) -> bool:
    """Five standard deviations of a binomial: once in two million."""
    return abs(count - n * rate) <= 5 * np.sqrt(n * rate * (1 - rate)) + 1e-9


def truth(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, k, n)


# --- transition matrices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(k=st.integers(2, 23), rate=RATES)
@settings(max_examples=50, deadline=None)
def test_rows_sum_to_1_and_the_diagonal_is_1_minus_the_rate(kind: str, k: int, rate: float):
    matrix = KINDS[kind](k, rate)
    assert matrix.shape == (k, k)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1)
    lonely = matrix.diagonal() == 1  # the last block or superclass may hold one class alone
    np.testing.assert_allclose(matrix.diagonal()[~lonely], 1 - rate)
    assert lonely.sum() <= (k if rate == 0 else 1 if kind in ("block", "superclass") else 0)


def test_matrices_are_those_of_the_papers_code():
    np.testing.assert_allclose(noise.symmetric(4, 0.3), np.full((4, 4), 0.1) + 0.6 * np.eye(4))
    np.testing.assert_allclose(noise.pair_flip(4, 0.3), 0.7 * np.eye(4) + 0.3 * np.roll(np.eye(4), 1, axis=1))
    block = noise.block_flip(100, 0.4)
    assert [row.nonzero()[0].tolist() for row in block[[0, 4, 95, 99]]] == [[0, 1], [0, 4], [95, 96], [95, 99]]
    np.testing.assert_allclose(noise.block_flip(7, 0.4)[5:, 5:], [[0.6, 0.4], [0.4, 0.6]])  # the last block is short


def test_superclass_flips_stay_in_the_superclass():
    superclass = np.array([2, 0, 2, 1, 0, 2])
    matrix = noise.superclass_flip(superclass, 0.4)
    assert not matrix[superclass[:, None] != superclass].any()
    np.testing.assert_allclose(matrix[0], [0.6, 0, 0.2, 0, 0, 0.2])
    assert matrix[3, 3] == 1  # alone in its superclass


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(k=st.integers(3, 12), rate=RATES, seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_labels_are_drawn_from_the_matrix(kind: str, k: int, rate: float, seed: int):
    labels, matrix = truth(2000, k, seed), KINDS[kind](k, rate)
    drawn = noise.flip(labels, matrix, np.random.default_rng(seed))
    assert drawn.shape == labels.shape
    assert drawn.dtype == np.int64
    assert (matrix[labels, drawn] > 0).all()
    for y in range(k):
        own = drawn[labels == y]
        assert all(within((own == z).sum(), len(own), matrix[y, z]) for z in range(k))


def test_what_has_no_probability_is_never_drawn():
    """Rounding may leave the end of a row below 1; the last classes must not get what is missing."""

    class Highest:
        def random(self, n: int) -> np.ndarray:
            return np.full(n, np.nextafter(1, 0))

    labels = np.arange(7)
    for rate in (0.1, 0.3, 0.7):
        matrix = noise.pair_flip(7, rate)
        assert (matrix[labels, noise.flip(labels, matrix, Highest())] > 0).all()


def test_the_same_generator_gives_the_same_labels_and_another_gives_others():
    labels, features = truth(500, 6), np.random.default_rng(1).random((500, 4))
    for draw in (
        lambda rng: noise.flip(labels, noise.symmetric(6, 0.5), rng),
        lambda rng: noise.instance_dependent(labels, 0.5, features, 6, rng),
        lambda rng: noise.open_set_labels(500, 6, rng),
    ):
        first, again, other = (draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
        assert (first == again).all()
        assert (first != other).any()
    assert (labels == truth(500, 6)).all(), "the truth is left alone"


def test_foreign_images_are_called_anything_alike():
    labels = noise.open_set_labels(20_000, 8, np.random.default_rng(0))
    assert labels.dtype == np.int64
    assert all(within(count, 20_000, 1 / 8) for count in np.bincount(labels, minlength=8))


# --- noise that depends on the image --------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "mean"), [(0.0, 0.0798), (0.2, 0.2055), (0.5, 0.5), (1.0, 0.9202)])
def test_instance_dependent_noise_has_the_rate_of_the_cut_normal(rate: float, mean: float):
    labels, features = truth(10_000, 5), np.random.default_rng(1).normal(size=(10_000, 3))
    drawn = noise.instance_dependent(labels, rate, features, 5, np.random.default_rng(0))
    assert drawn.dtype == np.int64
    assert within((drawn != labels).sum(), 10_000, mean)


def test_instance_dependent_noise_depends_on_the_instance():
    """Two kinds of images of one class go wrong in different directions; images alike go wrong alike."""
    labels = np.zeros(4000, np.int64)
    kind = np.arange(4000) % 2
    features = np.where(kind[:, None] == 0, [30.0, 0.0], [0.0, 30.0])
    drawn = noise.instance_dependent(labels, 0.5, features, 9, np.random.default_rng(0))
    wrong = [np.bincount(drawn[(kind == k) & (drawn != 0)], minlength=9) for k in (0, 1)]
    assert wrong[0].argmax() != wrong[1].argmax()
    assert all(counts.max() > 0.8 * counts.sum() for counts in wrong)


def test_features_of_any_size_are_no_trouble():
    labels, features = truth(200, 4), 1e4 * np.random.default_rng(1).normal(size=(200, 5))
    for scale in (0, 1):
        drawn = noise.instance_dependent(labels, 0.4, scale * features, 4, np.random.default_rng(0))
        assert ((drawn >= 0) & (drawn < 4)).all()

"""Nearest neighbours: exactly those of brute force, whatever the block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb import neighbours
from cleanweb.neighbours import nearest


def points(seed: int, n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-2, 2, n)[:, None]


def brute_force(features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, 1)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 60), d=st.integers(2, 9), k=st.integers(0, 70))
@settings(max_examples=50, deadline=None)
def test_they_are_those_of_brute_force(seed: int, n: int, d: int, k: int):
    x = points(seed, n, d)
    indices, similarity = nearest(x, k)
    expected, expected_similarity = brute_force(x.double().numpy(), min(k, n - 1))
    np.testing.assert_allclose(similarity, expected_similarity, atol=1e-5)
    gaps = -np.diff(expected_similarity, axis=1, append=-3, prepend=3)
    clear = (gaps[:, :-1] > 1e-4) & (gaps[:, 1:] > 1e-4)  # where rounding cannot change the order
    clear[:, -1:] = False  # the last one's rival is not among them
    assert (indices[clear] == expected[clear]).all()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_k_is_cut_and_nobody_is_a_neighbour_of_itself(n: int):
    indices, similarity = nearest(points(0, n, 3), 30)
    assert indices.shape == similarity.shape == (n, n - 1)
    assert indices.dtype == np.int32
    assert similarity.dtype == np.float32
    for i, row in enumerate(indices):
        assert sorted(row) == [j for j in range(n) if j != i]


def test_nearest_come_first():
    _, similarity = nearest(points(1, 50, 4), 20)
    assert (np.diff(similarity, axis=1) <= 0).all()


def test_copies_find_each_other_not_themselves():
    x = points(2, 10, 4).repeat(2, 1)
    indices, similarity = nearest(x, 1)
    assert indices[:, 0].tolist() == [*range(10, 20), *range(10)]
    np.testing.assert_allclose(similarity, 1, atol=1e-6)


@pytest.mark.parametrize("elements", [1, 50, 51 * 7, 10**9])
def test_the_block_changes_nothing(elements: int, monkeypatch: pytest.MonkeyPatch):
    x = points(3, 51, 6)
    expected = nearest(x, 5)
    monkeypatch.setattr(neighbours, "_BLOCK_ELEMENTS", elements)
    indices, similarity = nearest(x, 5)
    assert (indices == expected[0]).all()
    np.testing.assert_allclose(similarity, expected[1], atol=1e-6)


def test_scale_does_not_matter_and_zeros_are_no_trouble():
    x = points(4, 20, 5)
    assert (nearest(x, 5)[0] == nearest(x * 1000, 5)[0]).all()
    x[3] = 0
    indices, similarity = nearest(x, 5)
    assert np.isfinite(similarity).all()
    assert (similarity[3] == 0).all()
    assert 3 not in indices[3]


def test_half_precision_features_are_compared_in_full():
    x = points(5, 30, 16).half()
    indices, _ = nearest(x, 5)
    assert (indices == nearest(x.float(), 5)[0]).all()


# --- in a forest ----------------------------------------------------------------------------------------------------


def clouds(n: int, d: int = 12, centres: int = 40) -> np.ndarray:
    """Points of length 1 around some centres, as features of some classes are."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(centres, d))[rng.integers(0, centres, n)] + 0.6 * rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_leaves_hold_every_point_once_and_no_more_than_they_may(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "LEAF", 64)
    unit = clouds(1000)
    found = list(neighbours.leaves(unit, np.random.default_rng(1)))
    assert sorted(np.concatenate(found)) == list(range(1000))
    assert all(32 <= len(leaf) <= 64 for leaf in found)
    same = list(neighbours.leaves(np.ones((1000, 3), np.float32), np.random.default_rng(1)))  # nothing to tell apart
    assert max(map(len, same)) <= 64


def test_a_forest_finds_most_of_the_nearest_and_none_much_farther(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "LEAF", 256)
    unit = clouds(3000)
    indices, similarity = neighbours.near(unit, 10, 0, torch.device("cpu"))
    expected, best = brute_force(unit.astype(float), 10)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(indices, expected, strict=True)]) > 8
    assert (best - similarity).mean() < 0.01
    assert (np.diff(similarity, axis=1) <= 1e-6).all()
    for i, row in enumerate(indices):
        assert len({*row}) == 10
        assert i not in row
    np.testing.assert_allclose(similarity, (unit[:, None] * unit[indices]).sum(2), atol=1e-5)


def test_one_leaf_is_exact():
    unit = clouds(300)
    indices, _ = neighbours.near(unit, 10, 0, torch.device("cpu"))
    assert (indices == nearest(torch.from_numpy(unit), 10)[0]).mean() > 0.99


def test_shortened_features_keep_who_is_near(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "SHORT", 6)
    rng = np.random.default_rng(0)
    x = (clouds(500, d=6) @ rng.normal(size=(6, 40)) + 5).astype(np.float32)  # six directions, far from zero
    short = neighbours.shortened(lambda rows: x[rows], 500, 0)
    assert short.shape == (500, 6)
    centred = torch.from_numpy(x - x.mean(0))
    assert (nearest(torch.from_numpy(short), 5)[0] == nearest(centred, 5)[0]).mean() > 0.95

"""P(label is right) from beliefs alone, and the two-groups model: right where the truth is known."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb import labelnoise
from cleanweb.labelnoise import (
    TEMPERATURES,
    astray,
    calibrated,
    class_share,
    enough,
    label_right,
    label_trust,
    own_floor,
    random_share,
    surprise,
    typical_floors,
    warmed,
    warmed_given,
)
from cleanweb.twogroups import density_ratio, null_probability, null_share


def rows(seed: int, n: int, c: int, alpha: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(c, alpha), n)


def drawn(seed: int, q: np.ndarray) -> np.ndarray:
    """A label for every row, drawn from it."""
    u = np.random.default_rng(seed).random((len(q), 1))
    return np.minimum((q.cumsum(1) < u).sum(1), q.shape[1] - 1)


def symmetric(seed: int, n: int, c: int, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a perfect model of symmetric noise believes, the labels given, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, c, n)
    labels = np.where(rng.random(n) < rate, (truth + rng.integers(1, c, n)) % c, truth)
    q = np.full((n, c), rate / (c - 1))
    q[np.arange(n), truth] = 1 - rate
    return q, labels, truth


def given_surprise(q: np.ndarray, labels: np.ndarray) -> float:
    return surprise(q[np.arange(len(labels)), labels])


# --- temperatures ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), c=st.integers(2, 20), temperature=st.sampled_from(list(TEMPERATURES)))
@settings(max_examples=50, deadline=None)
def test_warming_keeps_rows_and_order(seed: int, c: int, temperature: float):
    p = rows(seed, 10, c)
    heated = warmed(p, temperature)
    np.testing.assert_allclose(heated.sum(1), 1)
    assert (heated.argmax(1) == p.argmax(1)).all()
    assert (heated >= 0).all()


def test_a_temperature_of_one_changes_nothing_and_a_high_one_knows_nothing():
    p = rows(0, 50, 6, 5.0)
    np.testing.assert_allclose(warmed(p, 1.0), p)
    np.testing.assert_allclose(warmed(p, 1e6), 1 / 6, atol=1e-4)


def test_certainty_can_be_warmed():
    heated = warmed(np.eye(3), 2.0)
    assert np.isfinite(heated).all()
    assert (heated.argmax(1) == [0, 1, 2]).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])  # 20: a head after two dozen steps
def test_calibration_finds_the_temperature_back(temperature: float):
    q = rows(0, 4000, 5, 1.0)
    labels = drawn(1, q)
    found = calibrated(warmed(q, temperature), labels)
    assert np.abs(found - q).mean() < 0.02
    assert given_surprise(found, labels) <= given_surprise(warmed(q, temperature), labels) + 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_warming_the_labels_alone_and_in_blocks_is_the_same(dtype: type, monkeypatch: pytest.MonkeyPatch):
    q, labels = rows(0, 50, 7).astype(dtype), np.arange(50) % 7
    whole = [warmed(q, t) for t in TEMPERATURES]
    monkeypatch.setattr(labelnoise, "_BLOCK", 40)  # five rows at a time
    assert whole[0].dtype == dtype
    for at_once, t, own in zip(whole, TEMPERATURES, warmed_given(q, labels), strict=True):
        np.testing.assert_allclose(warmed(q, t), at_once)
        np.testing.assert_allclose(own, at_once[np.arange(50), labels], rtol=1e-5, atol=1e-37)


def test_trust_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch):
    q, labels, _ = symmetric(0, 200, 5, 0.2)
    q = warmed(q * np.random.default_rng(0).uniform(0.5, 1, q.shape), 1.0)
    whole = label_trust(q, labels)
    monkeypatch.setattr(labelnoise, "_BLOCK", 16)
    np.testing.assert_allclose(label_trust(q, labels), whole)


def test_trust_takes_little_memory(monkeypatch: pytest.MonkeyPatch):
    n, c = 2000, 500
    q, labels = rows(0, n, c, 0.05).astype(np.float32), np.arange(n) % c
    monkeypatch.setattr(labelnoise, "_BLOCK", 20_000)
    monkeypatch.setattr(labelnoise, "_ENOUGH", 20_000)
    tracemalloc.start()
    label_trust(q, labels)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * (n * c + c * c) * 4  # it was eight times that: copies in double precision


def test_of_very_many_probabilities_evenly_spread_rows_choose_the_temperature(monkeypatch: pytest.MonkeyPatch):
    assert len(enough(1000, 10)) == 1000
    monkeypatch.setattr(labelnoise, "_ENOUGH", 4000)
    chosen = enough(1000, 10)
    assert len(chosen) * 10 <= 4000 < 2 * len(chosen) * 10
    assert len(set(np.diff(chosen))) == 1
    assert chosen[-1] > 990
    q = rows(0, 4000, 5, 1.0)
    labels = drawn(1, q)
    assert np.abs(calibrated(warmed(q, 2.0), labels) - q).mean() < 0.03


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("c", [2, 10])
def test_labels_that_are_drawn_are_told_from_those_that_a_belief_leaves_open(c: int, share: float):
    q, rng = rows(0, 4000, c, 0.15), np.random.default_rng(2)  # of some images much is known, of others little
    labels = np.where(rng.random(4000) < share, rng.integers(0, c, 4000), drawn(1, q))
    low, high = random_share(warmed_given(warmed(q, 3.0), labels), np.full(4000, 1 / c))
    assert low <= share <= high
    assert high - low < 0.15


def test_where_nothing_is_believed_any_share_may_be_drawn():
    assert random_share(np.full((3, 100), 0.25), np.full(100, 0.25)) == (0, 1)
    assert random_share(np.empty((3, 0)), np.empty(0)) == (0, 1)


def test_surprise_is_cross_entropy():
    q, labels = rows(0, 100, 4, 2.0), np.arange(100) % 4
    assert given_surprise(q, labels) == pytest.approx(-np.log(q[np.arange(100), labels]).mean())
    assert np.isfinite(given_surprise(np.eye(4)[(labels + 1) % 4], labels))


# --- floors and shares ----------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), c=st.integers(2, 12), alpha=st.sampled_from([0.01, 1.0, 50.0]))
@settings(max_examples=50, deadline=None)
def test_everything_is_a_probability(seed: int, n: int, c: int, alpha: float):
    q, labels = rows(seed, n, c, alpha), np.random.default_rng(seed).integers(0, c, n)
    often = astray(q, labels)
    own, typical = own_floor(q, often), typical_floors(q)[q.argmax(1)]
    assert often.sum() == pytest.approx(1)
    assert (often > 0).all()
    assert own.shape == typical.shape == (n, c)
    assert ((own >= -1e-12) & (own <= often + 1e-12)).all()
    assert ((typical >= 0) & (typical <= 1)).all()
    assert (typical[np.arange(n), q.argmax(1)] == 0).all()
    share = class_share(q, np.maximum(own, typical))
    np.testing.assert_allclose(share.sum(1), 1)
    assert (share > 0).all()
    at = np.arange(n), labels
    for trust in (label_right(q[at], np.maximum(own, typical)[at]), label_trust(q, labels)):
        assert trust.shape == (n,)
        assert ((trust >= 0) & (trust <= 1)).all()


@given(seed=st.integers(0, 10**6), c=st.integers(2, 12), alpha=st.sampled_from([0.1, 1.0, 50.0]))
@settings(max_examples=30, deadline=None)
def test_where_classes_are_given_alike_the_floor_is_the_middle_class_or_the_mean_of_the_rest(
    seed: int, c: int, alpha: float
):
    q = rows(seed, 20, c, alpha)
    expected = np.minimum(np.median(q, 1), (1 - q.max(1)) / (c - 1))
    np.testing.assert_allclose(own_floor(q, np.full(c, 1 / c)), expected[:, None].repeat(c, 1), atol=1e-9)


SIZES = np.array([900, 500, 250, 120, 60])


def crawled(by_name: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Beliefs about a crawl of unequal classes of which three labels in ten are wrong: of any class alike, or a share
    of what was found under each name."""
    rng, c = np.random.default_rng(seed), len(SIZES)
    labels, shown = np.arange(c).repeat(SIZES), np.arange(c).repeat(SIZES)
    wrong = rng.random(len(labels)) < 0.3
    if by_name:
        shown[wrong] = rng.integers(0, c, wrong.sum())
        often = SIZES / SIZES.sum()
    else:
        labels[wrong] = rng.integers(0, c, wrong.sum())
        often = np.full(c, 1 / c)
    q = 0.7 * np.eye(c)[shown] + 0.3 * often
    q = q * np.exp(rng.normal(0, 0.1, q.shape))
    return q / q.sum(1, keepdims=True), labels


@pytest.mark.parametrize("seed", range(3))
def test_how_labels_go_astray_is_read_off(seed: int):
    q, labels = crawled(True, seed)
    np.testing.assert_allclose(astray(q, labels), SIZES / SIZES.sum(), rtol=0.25)
    q, labels = crawled(False, seed)
    np.testing.assert_allclose(astray(q, labels), 1 / len(SIZES), rtol=0.25)


def test_names_and_missing_labels_do_not_matter_to_how_labels_go_astray():
    q, labels = crawled(True, 0)
    often, order = astray(q, labels), np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(astray(q[:, order], np.argsort(order)[labels]), often[order], rtol=1e-6)
    unlabelled = np.full((50, len(SIZES)), 1 / len(SIZES))
    both = astray(np.concatenate([q, unlabelled]), np.concatenate([labels, np.full(50, -1)]))
    np.testing.assert_allclose(both, often, rtol=1e-6)
    np.testing.assert_allclose(astray(q[:0], labels[:0]), 1 / len(SIZES))
    equal = np.arange(5).repeat(40)
    np.testing.assert_allclose(astray(rows(1, 200, 5, 1.0), equal), 0.2)


def test_a_label_is_right_by_what_its_class_has_above_the_floor():
    np.testing.assert_allclose(label_right(np.array([0.8, 0.2, 0.0]), np.full(3, 0.2)), [0.75, 0, 0])


def test_the_typical_floor_is_what_a_predicted_class_leaves_to_others():
    q = np.array([[0.7, 0.3, 0.0], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(typical_floors(q), [[0, 0.3, 0.1], [0, 0, 0], [0.1, 0.1, 0]])
    heard = np.array([True, False, False, True])
    np.testing.assert_allclose(typical_floors(q, heard), [[0, 0.3, 0.0], [0, 0, 0], [0.1, 0.1, 0]])


@pytest.mark.parametrize("c", [2, 3, 10])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("seed", [0, 1])
def test_trust_tells_right_from_wrong_under_symmetric_noise(seed: int, c: int, rate: float):
    q, labels, truth = symmetric(seed, 1000, c, rate)
    trust = label_trust(q, labels)
    assert trust[labels == truth].min() > 0.5
    assert trust[labels != truth].max(initial=0) < 0.1
    assert abs((1 - trust).mean() - (labels != truth).mean()) < 0.25 * rate + 0.01


def test_trust_tells_right_from_wrong_where_one_class_is_taken_for_another():
    """Three in ten of class 0 are labelled 1: for these, 1 is as likely as it typically is."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 900)
    flipped = (truth == 0) & (rng.random(900) < 0.3)
    q = np.eye(3)[truth] * 0.98 + 0.01 * (1 - np.eye(3)[truth])
    q[truth == 0] = [0.69, 0.3, 0.01]
    trust = label_trust(q, np.where(flipped, 1, truth))
    assert trust[flipped].max() < 0.1
    assert trust[~flipped].min() > 0.5


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_trust_follows_permutations_of_samples_and_classes(seed: int):
    rng = np.random.default_rng(seed)
    q, labels = rows(seed, 60, 4), rng.integers(0, 4, 60)
    trust = label_trust(q, labels)
    order, names = rng.permutation(60), rng.permutation(4)
    np.testing.assert_allclose(label_trust(q[order], labels[order]), trust[order], atol=1e-9)
    np.testing.assert_allclose(label_trust(q[:, names], np.argsort(names)[labels]), trust, atol=1e-9)


@pytest.mark.parametrize("q", [np.full((20, 3), 1 / 3), np.eye(3)[np.arange(20) % 3], np.eye(3)[np.zeros(20, int)]])
def test_trust_is_finite_where_the_model_knows_nothing_or_everything(q: np.ndarray):
    trust = label_trust(q, np.arange(20) % 3)
    assert ((trust >= 0) & (trust <= 1)).all()


# --- two groups -----------------------------------------------------------------------------------------------------


def scores(seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, n)


def share_of_null(observed: np.ndarray, null: np.ndarray) -> float:
    return null_share(observed, np.ones(len(observed)), null)


def p_of_null(observed: np.ndarray, null: np.ndarray, at: np.ndarray) -> np.ndarray:
    return weighted_p_of_null(observed, np.ones(len(observed)), null, at)


def weighted_p_of_null(observed: np.ndarray, weight: np.ndarray, null: np.ndarray, at: np.ndarray) -> np.ndarray:
    groups = observed, weight, null
    return null_probability(null_share(*groups), density_ratio(*groups, at))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_but_null_is_almost_all_null(seed: int):
    assert share_of_null(scores(seed, 3000), scores(seed + 100, 3000)) > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_nothing_null_is_found_to_be_none(seed: int):
    observed, null = scores(seed, 500, 10), scores(seed + 100, 500)
    assert share_of_null(observed, null) < 0.01
    assert p_of_null(observed, null, at=observed).max() < 0.01


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_the_null_is_found(share: float, seed: int):
    n = 3000
    observed = np.concatenate([scores(seed, round(share * n)), scores(seed + 1, round((1 - share) * n), 6)])
    null = scores(seed + 2, n)
    assert abs(share_of_null(observed, null) - share) < 0.15 * share + 0.02
    p = p_of_null(observed, null, at=observed)
    assert abs(p.mean() - share) < 0.15
    assert ((p > 0.5) == (np.arange(n) < round(share * n))).mean() > 0.97


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), m=st.integers(1, 60), shift=st.floats(-3, 6))
@settings(max_examples=50, deadline=None)
def test_the_probability_of_the_null_falls_as_scores_rise(seed: int, n: int, m: int, shift: float):
    observed, null = scores(seed, n, shift), scores(seed + 1, m)
    at = np.linspace(-8, 12, 101)
    p = p_of_null(observed, null, at)
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) <= 1e-12).all()
    assert 0 <= share_of_null(observed, null) <= 1


def test_equal_scores_are_no_trouble():
    same = np.zeros(10)
    assert share_of_null(same, same) == 1
    assert (p_of_null(same, same, at=same) > 0.99).all()


def test_the_unit_of_the_score_does_not_matter():
    observed, null = np.concatenate([scores(0, 300), scores(1, 200, 4)]), scores(2, 400)
    p = p_of_null(observed, null, at=observed)
    np.testing.assert_allclose(p_of_null(10 * observed, 10 * null, at=10 * observed), p, atol=1e-9)


def test_a_score_of_weight_two_counts_as_two():
    rng = np.random.default_rng(0)
    observed, null, times = scores(0, 200, 1), scores(1, 300), rng.integers(1, 4, 200)
    repeated = np.repeat(observed, times)
    assert null_share(observed, times.astype(float), null) == pytest.approx(share_of_null(repeated, null))
    p = weighted_p_of_null(observed, times.astype(float), null, at=observed)
    np.testing.assert_allclose(p, p_of_null(repeated, null, at=observed), atol=1e-9)


def test_what_counts_for_nothing_is_not_there():
    observed, null = np.concatenate([scores(0, 300), scores(1, 200, 4)]), scores(2, 400)
    weight = np.concatenate([np.ones(300), np.zeros(200)])
    assert null_share(observed, weight, null) == pytest.approx(share_of_null(observed[:300], null))

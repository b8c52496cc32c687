"""Recalibration: nothing verified, nothing moved; what was verified pulls the rest towards the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb.calibration import _DOUBT, recalibrated


def beliefs(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([2, 1, 1], n).T


def drawn(p: np.ndarray, seed: int = 1) -> np.ndarray:
    """A kind for every column, drawn with its probabilities."""
    return (np.random.default_rng(seed).random(p.shape[1]) > p.cumsum(0)[:2]).sum(0)


def surprise(p: np.ndarray, kinds: np.ndarray) -> float:
    return float(-np.log(np.maximum(p[kinds, np.arange(len(kinds))], 1e-9)).mean())


@given(seed=st.integers(0, 1000), m=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_probabilities_stay_probabilities(seed: int, m: int):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(3, rng.choice([0.01, 1.0, 50.0])), 40).T
    found = recalibrated(p, rng.permutation(40)[:m], rng.integers(0, 3, m))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(0), 1)


def test_nothing_verified_moves_nothing():
    p = beliefs(200)
    found = recalibrated(p, np.array([], int), np.array([], int))
    np.testing.assert_allclose(found, p, atol=3e-3)  # the doubt that every belief is taken with


def test_what_is_calibrated_stays_nearly_as_it_is():
    p = beliefs(3000)
    found = recalibrated(p, np.arange(500), drawn(p)[:500])
    assert np.abs(found - p).mean() < 0.03


@pytest.mark.parametrize("power", [0.4, 3.0])
def test_too_sure_and_too_unsure_are_set_right(power: float):
    p = beliefs(3000)
    kinds = drawn(p)
    wrong = p**power / (p**power).sum(0)
    found = recalibrated(wrong, np.arange(300), kinds[:300])
    assert surprise(found[:, 300:], kinds[300:]) < surprise(wrong[:, 300:], kinds[300:]) - 0.01
    assert np.abs(found - p).mean() < np.abs(wrong - p).mean() / 2


def test_a_kind_that_is_overlooked_is_found():
    p = beliefs(3000)
    kinds = drawn(p)
    wrong = p * np.array([[1], [1], [0.2]])
    wrong /= wrong.sum(0)
    found = recalibrated(wrong, np.arange(300), kinds[:300])
    assert abs(found[2].mean() - p[2].mean()) < abs(wrong[2].mean() - p[2].mean()) / 3


def test_a_few_verified_samples_move_little():
    p = beliefs(500)
    found = recalibrated(p, np.arange(3), drawn(p)[:3])
    assert np.abs(found - p).mean() < 0.15


def test_what_was_likelier_stays_likelier():
    """Verified labels that contradict every belief do not turn the order round."""
    p = beliefs(400)
    found = recalibrated(p, np.arange(400), p.argmin(0))
    ratio, before = np.log(found[0] / found[1]), np.log((p[0] + _DOUBT) / (p[1] + _DOUBT))
    assert (np.diff(ratio[np.argsort(before)]) >= -1e-9).all()


@pytest.mark.parametrize("surely", [0.95, 1.0])
def test_a_few_labels_that_contradict_it_where_it_is_doubtful_leave_the_rest_as_it_is(surely: float):
    """People look first where the verdicts are doubtful: of a dozen pictures tagged ood, half turn out to be clean."""
    rest = (1 - surely) / 2
    p = np.array([[surely, rest, rest]] * 730 + [[rest, rest, surely]] * 14).T
    found = recalibrated(p, np.arange(730, 743), np.array([0, 2] * 6 + [0]))
    assert (found.argmax(0)[:730] == 0).all()
    assert found[0, :730].min() > 0.8
    assert found[2, 743] < surely - 0.1  # what is like them is less sure


def test_labels_verified_where_the_belief_was_least_sure_do_not_make_it_worse():
    p = beliefs(3000) ** 2
    p /= p.sum(0)
    kinds, order = drawn(p), np.argsort(p.max(0))
    found = recalibrated(p, order[:40], kinds[order[:40]])
    assert surprise(found[:, order[40:]], kinds[order[40:]]) < surprise(p[:, order[40:]], kinds[order[40:]]) + 0.01

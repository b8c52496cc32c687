"""Intervals hold the truth as often as they say, are exact where that can be had, and grow no wider by seeing more."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import beta, hypergeom

from cleanweb.audit import intervals
from cleanweb.audit.intervals import Part, allocate, estimate, exact, further


@st.composite
def samples(draw: st.DrawFn) -> tuple[int, int, int]:
    """right, seen, total."""
    total = draw(st.integers(1, 400))
    seen = draw(st.integers(0, total))
    return draw(st.integers(0, seen)), seen, total


def share_of(*totals: int) -> intervals.Quantity:
    return lambda *right: sum(right) / sum(totals)


def recall(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return first / np.maximum(first + sum(others), 1e-12)


# --- one part -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(samples())
def test_the_exact_interval_is_what_no_test_refuses(sample: tuple[int, int, int]) -> None:
    """Against its definition, counted out: every K that neither tail refuses, and no other."""
    right, seen, total = sample
    possible = np.arange(right, total - seen + right + 1)
    above, below = hypergeom.sf(right - 1, total, possible, seen), hypergeom.cdf(right, total, possible, seen)
    held = possible[(above > 0.025) & (below > 0.025)]
    low, high = exact(right, seen, total)
    assert (low, high) == pytest.approx((held.min() / total, held.max() / total))


@pytest.mark.parametrize(("right", "seen"), [(0, 10), (3, 40), (96, 100), (200, 200)])
def test_in_a_large_whole_it_is_that_of_clopper_and_pearson(right: int, seen: int) -> None:
    low = beta.ppf(0.025, right, seen - right + 1) if right else 0
    high = beta.ppf(0.975, right + 1, seen - right) if right < seen else 1
    assert exact(right, seen, 50_000_000) == pytest.approx((low, high), abs=1e-5)


@settings(deadline=None)
@given(samples())
def test_who_has_seen_all_knows_all_and_who_has_seen_nothing_nothing(sample: tuple[int, int, int]) -> None:
    right, _, total = sample
    assert exact(right, total, total) == (right / total, right / total)
    assert exact(0, 0, total) == (0, 1)


@pytest.mark.parametrize(("total", "seen"), [(30, 20), (200, 25), (5_000, 60)])
def test_the_exact_interval_holds_every_truth(total: int, seen: int) -> None:
    """Counted out, not drawn: at no number of right members is it refused with more than 5 %."""
    ends = [exact(right, seen, total) for right in range(seen + 1)]
    for truth in np.linspace(0, total, 23).astype(int):
        odds = hypergeom.pmf(np.arange(seen + 1), total, truth, seen)
        held = sum(p for p, (low, high) in zip(odds, ends, strict=True) if low <= truth / total <= high)
        assert held >= 0.95 - 1e-9


# --- several parts --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(samples())
def test_of_one_part_the_melded_interval_is_the_exact_one(sample: tuple[int, int, int]) -> None:
    right, seen, total = sample
    nothing = Part(0, 0, 0)
    found = estimate([Part(total, seen, right), nothing], share_of(total))
    low, high = exact(right, seen, total)
    assert found.low == pytest.approx(low, abs=0.5 / total + 0.02)
    assert found.high == pytest.approx(high, abs=0.5 / total + 0.02)


WORLDS = [  # members of each part, share that is right, how many of 200 are drawn
    ((4_000, 500, 500), (0.95, 0.2, 0.1)),
    ((40_000, 10_000, 10_000), (0.97, 0.05, 0.02)),
    ((100_000, 3_000, 20_000), (0.985, 0.004, 0.003)),  # most samples of the small parts show nothing
    ((300, 100, 50), (0.9, 0.1, 0.1)),
    ((700, 10, 10), (0.97, 0.3, 0.0)),
]


@pytest.mark.parametrize(("totals", "shares"), WORLDS)
def test_melded_intervals_hold_the_truth(
    totals: tuple[int, ...], shares: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "_DRAWS", 2_000)
    rng, rounds, held = np.random.default_rng(0), 200, np.zeros(2)
    drawn = allocate(200, totals)
    right = [round(total * share) for total, share in zip(totals, shares, strict=True)]
    truth = right[0] / sum(right), sum(right) / sum(totals)
    for _ in range(rounds):
        seen = [rng.hypergeometric(k, total - k, n) for k, total, n in zip(right, totals, drawn, strict=True)]
        parts = [Part(total, n, int(k), rising=not i) for i, (total, n, k) in enumerate(zip(totals, drawn, seen,
                                                                                          strict=True))]  # fmt: skip
        rising = [Part(part.total, part.seen, part.right) for part in parts]
        for i, found in enumerate((estimate(parts, recall), estimate(rising, share_of(*totals)))):
            held[i] += found.low - 1e-12 <= truth[i] <= found.high + 1e-12
    assert (held / rounds >= 0.94).all(), held / rounds  # 0.95, less what 200 rounds leave to chance


@settings(deadline=None)
@given(st.lists(samples(), min_size=2, max_size=3))
def test_the_value_lies_within_and_the_unknown_only_widens(given_samples: list[tuple[int, int, int]]) -> None:
    assume(all(seen for _, seen, _ in given_samples))
    parts = [Part(total, seen, right) for right, seen, total in given_samples]
    quantity = share_of(*(part.total for part in parts))
    found = estimate(parts, quantity)
    assert found.value is not None
    assert 0 <= found.lowest <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= found.highest <= 1
    open_ = [Part(part.total, part.seen - 1, max(part.right - 1, 0), 1) for part in parts]
    assert estimate(open_, quantity).lowest <= found.low + 1e-9


def test_answers_that_are_missing_are_told_at_their_worst() -> None:
    found = estimate([Part(1000, 95, 93, unknown=5)], share_of(1000))
    assert (found.low, found.high) == exact(93, 95, 1000)
    assert found.lowest == exact(93, 100, 1000)[0]
    assert found.highest == exact(98, 100, 1000)[1]
    falling = estimate([Part(1000, 95, 2, unknown=5, rising=False)], lambda k: 1 - k / 1000)
    assert falling.lowest == pytest.approx(1 - exact(7, 100, 1000)[1])
    assert falling.highest == pytest.approx(1 - exact(2, 100, 1000)[0])


def test_what_was_not_looked_at_is_not_known() -> None:
    parts = [Part(100, 50, 45), Part(100, 0, 0)]
    found = estimate(parts, share_of(100, 100))
    assert found.value is None
    assert found.low < 0.5 < 0.9 < found.high
    assert further(parts, share_of(100, 100), 0.02) is None


# --- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [Part(100_000, 100, 96), Part(500, 60, 30), Part(100_000, 40, 40)])
def test_that_many_more_are_enough_and_fewer_are_not(part: Part) -> None:
    (more,) = further([part], share_of(part.total), 0.02)
    width = {n: np.diff(exact(round(part.right * n / part.seen), n, part.total))[0]
             for n in (part.seen + more, part.seen + int(more * 0.9))}  # fmt: skip
    assert width[part.seen + more] <= 0.04 < width[part.seen + int(more * 0.9)]


def test_what_is_narrow_needs_no_more() -> None:
    assert further([Part(20, 20, 3)], share_of(20), 0.02) == [0]
    assert further([Part(1000, 999, 500), Part(10, 10, 0)], share_of(1010), 0.02) == [0, 0]


@settings(deadline=None)
@given(st.integers(1, 500), st.lists(st.integers(0, 2_000), min_size=3, max_size=3))
def test_the_allocation_is_all_of_n_and_no_more_than_there_are(n: int, totals: list[int]) -> None:
    drawn = allocate(n, totals)
    assert all(0 <= k <= total for k, total in zip(drawn, totals, strict=True))
    if n >= 3:
        assert all(k >= min(total, n // 10) for k, total in zip(drawn, totals, strict=True))
    assert sum(drawn) == min(n, sum(totals)) or n < 3


def test_a_larger_part_gets_more_but_not_in_proportion() -> None:
    assert allocate(200, [40_000, 10_000, 10_000]) == [100, 50, 50]
    assert allocate(200, [99_000, 900, 100]) == [160, 20, 20]
    assert allocate(200, [734, 1, 13]) == [186, 1, 13]

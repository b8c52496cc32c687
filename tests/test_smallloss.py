"""How much of a batch is kept, and which."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cleanweb.smallloss import kept_share, smallest

RATES = st.floats(0, 0.99)


@given(rate=RATES, epochs=st.integers(1, 300))
def test_the_kept_share_falls_to_what_is_clean_and_stays_there(rate: float, epochs: int):
    shares = [kept_share(t, epochs, rate) for t in range(1, epochs + 1)]
    assert all(1 - rate <= share <= 1 for share in shares)
    assert shares == sorted(shares, reverse=True)
    assert shares[math.ceil(epochs / 10) - 1 :] == [1 - rate] * (epochs - math.ceil(epochs / 10) + 1)


def test_the_kept_share_of_the_papers_200_epochs():
    assert [kept_share(t, 200, 0.4) for t in (1, 5, 10, 11, 200)] == pytest.approx([0.96, 0.8, 0.6, 0.6, 0.6])


@given(epochs=st.integers(1, 300))
def test_without_noise_everything_is_kept(epochs: int):
    assert all(kept_share(t, epochs, 0.0) == 1 for t in range(1, epochs + 1))


@given(n=st.integers(1, 200), rate=RATES)
def test_the_smallest_are_just_enough_and_none_of_the_others_is_smaller(n: int, rate: float):
    losses, share = torch.randn(n, generator=torch.Generator().manual_seed(n)), 1 - rate
    kept = smallest(losses, share)
    assert share * n <= len(kept) < share * n + 1
    assert len(kept.unique()) == len(kept)
    others = torch.ones(n, dtype=torch.bool).index_fill(0, kept, False)
    assert (losses[kept].max() <= losses[others]).all()
    assert torch.equal(losses[kept], losses[kept].sort().values)


def test_what_is_kept_passes_no_gradient():
    losses = torch.randn(5, requires_grad=True)
    assert not smallest(losses, 0.5).requires_grad

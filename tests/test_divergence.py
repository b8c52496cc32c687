"""Divergences: their definitions, their bounds, and their arithmetic at the edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.stats import entropy

from cleanweb.divergence import js_divergence, kl_divergence, log2


def distributions(seed: int, n: int, c: int, sharpness: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random rows (n, c); the sharper, the nearer to one-hot. Some entries are exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    p = (sharpness * torch.randn(n, c, generator=generator, dtype=torch.float64)).softmax(1)
    p = torch.where((torch.rand(n, c, generator=generator) < 0.3) & (p < p.amax(1, keepdim=True)), 0.0, p)
    return (p / p.sum(1, keepdim=True)).to(dtype)


shapes = {"seed": st.integers(0, 10**6), "c": st.integers(2, 30), "sharpness": st.sampled_from([0.1, 1.0, 10.0, 50.0])}


@given(**shapes)
@settings(max_examples=50, deadline=None)
def test_js_is_symmetric_bounded_and_equals_scipy(seed: int, c: int, sharpness: float):
    p, q = distributions(seed, 8, c, sharpness), distributions(seed + 1, 8, c, sharpness)
    js = js_divergence(p, q)
    torch.testing.assert_close(js, js_divergence(q, p))
    assert ((js >= 0) & (js <= 1)).all()
    middle = (p + q).numpy() / 2  # scipy's own jensenshannon takes the root of −1e-17 now and then
    scipys = sum(rel_entr(side.numpy(), middle).sum(1) for side in (p, q)) / 2 / np.log(2)
    np.testing.assert_allclose(js, scipys, atol=1e-12)


@given(**shapes)
@settings(max_examples=30, deadline=None)
def test_js_is_zero_only_where_both_are_equal(seed: int, c: int, sharpness: float):
    p = distributions(seed, 8, c, sharpness)
    assert (js_divergence(p, p) == 0).all()
    other = p.roll(1, 1)
    differ = (p - other).abs().amax(1) > 1e-3
    assert (js_divergence(p, other)[differ] > 1e-9).all()


def test_js_of_two_different_labels_is_one_bit():
    eye = torch.eye(4)
    assert (js_divergence(eye, eye.roll(1, 1)) == 1).all()


def test_kl_is_scipys_in_bits_and_never_negative():
    p, q = distributions(0, 50, 7, 1.0), torch.randn(50, 7, dtype=torch.float64).softmax(1)
    np.testing.assert_allclose(kl_divergence(p, q), entropy(p.numpy(), q.numpy(), base=2, axis=1), atol=1e-12)
    assert (kl_divergence(p, q) >= 0).all()
    torch.testing.assert_close(kl_divergence(p, p), torch.zeros(50, dtype=torch.float64))


def test_a_zero_costs_kl_at_most_126_bits():
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert kl_divergence(one, other).item() == pytest.approx(126)


@pytest.mark.parametrize("divergence", [kl_divergence, js_divergence])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_with_exact_zeros(divergence, dtype: torch.dtype):
    p = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0]], dtype=dtype, requires_grad=True)
    q = torch.tensor([[1, 0, 0], [0, 0, 1], [0.2, 0.8, 0]], dtype=dtype, requires_grad=True)
    value = divergence(p, q)
    assert value.isfinite().all()
    value.sum().backward()
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()


def test_log2_of_zero_is_finite():
    assert log2(torch.zeros(1)).item() == -126


@pytest.mark.parametrize("divergence", [kl_divergence, js_divergence])
def test_autocast_and_half_precision_do_not_reach_inside(divergence):
    p, q = (distributions(seed, 20, 5, 1.0, torch.float32).clamp_min(1e-3) for seed in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        inside = divergence(p, q)
        half = divergence(p.bfloat16(), q.bfloat16())
    assert inside.dtype == half.dtype == torch.float32
    assert torch.equal(inside, divergence(p, q))
    assert torch.equal(half, divergence(p.bfloat16().float(), q.bfloat16().float()))


def test_double_precision_is_kept():
    p = distributions(0, 3, 4, 1.0)
    assert js_divergence(p, p).dtype == kl_divergence(p, p).dtype == torch.float64

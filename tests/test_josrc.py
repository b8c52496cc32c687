"""Jo-SRC: one test per equation, then Algorithm 1 against an independent reading of the paper in float64 numpy."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cleanweb.methods import Batch, josrc
from cleanweb.network import MeanTeacher
from cleanweb.settings import Recipe
from tests.reference import josrc as reference

N, C = 24, 6


def predictions(seed: int, n: int = N, c: int = C, sharpness: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(n, c, generator=generator, dtype=torch.float64)).softmax(1)


def given_labels(seed: int, n: int = N, c: int = C) -> Tensor:
    return torch.randint(0, c, (n,), generator=torch.Generator().manual_seed(seed))


def theirs(name: str, *args):
    """What the reference makes of the same arguments."""
    return getattr(reference, name)(*(a.numpy() if isinstance(a, Tensor) else a for a in args))


def same(ours: Tensor | float, theirs: np.ndarray | float, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=atol)


# --- one equation, one test -----------------------------------------------------------------------------------------


def test_eq_2_js_divergence():
    p, y = predictions(0), josrc.smooth_labels(given_labels(0), C, 0.1).double()
    same(josrc.js_divergence(p, y), theirs("js_divergence", p, y))


@given(epsilon=st.floats(0, 0.9), c=st.integers(2, 40))
@settings(max_examples=30, deadline=None)
def test_eq_3_clean_likelihood(epsilon: float, c: int):
    labels, p = given_labels(1, c=c), predictions(1, c=c, sharpness=20)
    p_clean = josrc.clean_likelihood(p, josrc.smooth_labels(labels, c, epsilon).double())
    same(p_clean, theirs("clean_likelihood", p, theirs("smooth_labels", labels, c, epsilon)), atol=1e-6)
    assert ((p_clean >= 0) & (p_clean <= 1)).all()


def test_eq_3_is_one_only_for_the_reference_itself():
    y = josrc.smooth_labels(given_labels(0), C, 0.3).double()
    assert (josrc.clean_likelihood(y, y) == 1).all()
    assert (josrc.clean_likelihood(y.roll(1, 0), y)[given_labels(0) != given_labels(0).roll(1)] < 0.99).all()


def test_eq_4_ood_likelihood_is_disagreement():
    p, p_prime = predictions(0), predictions(1)
    found = josrc.ood_likelihood(p, p_prime)
    assert torch.equal(found, (p.argmax(1) != p_prime.argmax(1)).float())
    same(found, theirs("ood_likelihood", p, p_prime))
    assert (josrc.ood_likelihood(p, p) == 0).all()


@given(epsilon=st.floats(0, 1), c=st.integers(2, 100))
@settings(max_examples=30, deadline=None)
def test_eq_5_smooth_labels(epsilon: float, c: int):
    labels = given_labels(2, c=c)
    targets = josrc.smooth_labels(labels, c, epsilon)
    same(targets.sum(1), np.ones(N), atol=1e-5)
    same(targets, theirs("smooth_labels", labels, c, epsilon), atol=1e-6)
    assert torch.equal(josrc.smooth_labels(labels, c, 0.0), nn.functional.one_hot(labels, c).float())


def test_eq_6_teacher_labels_are_the_mean_of_the_views():
    q, q_prime = predictions(0), predictions(1)
    found = josrc.teacher_labels(q, q_prime)
    same(found, theirs("teacher_labels", q, q_prime))
    same(found.sum(1), np.ones(N))
    assert torch.equal(josrc.teacher_labels(q, q), q)


def test_eq_7_flatten_labels_goes_to_uniform():
    q = predictions(0)
    same(josrc.flatten_labels(q, 10.0), theirs("flatten_labels", q, 10.0))
    same(josrc.flatten_labels(q, 1e6), np.full((N, C), 1 / C), atol=1e-6)
    assert (josrc.flatten_labels(q, 10.0) - 1 / C).abs().max() < 0.02


def test_eq_8_the_mean_teacher_is_a_geometric_series_and_batch_norm_follows():
    omega, steps = 0.9, 7
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = MeanTeacher(student, omega)
    series = {name: value.clone() for name, value in student.state_dict().items()}
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        student(5 + torch.randn(8, 3, generator=generator))
        teacher.update(student)
        for name, value in student.state_dict().items():
            series[name] = omega * series[name] + (1 - omega) * value
    found = teacher.ema.module.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(found[name], series[name])
    assert (found["1.running_mean"] != 0).any()
    assert not any(p.requires_grad for p in teacher.parameters())


@given(seed=st.integers(0, 10**6), sharpness=st.sampled_from([0.1, 1.0, 5.0]))
@settings(max_examples=30, deadline=None)
def test_eq_9_consistency_loss(seed: int, sharpness: float):
    p, p_prime = predictions(seed, sharpness=sharpness), predictions(seed + 1, sharpness=sharpness)
    rho = 1 - 2 * (torch.rand(N, generator=torch.Generator().manual_seed(seed)) < 0.4).double()
    same(josrc.consistency_loss(p, p_prime, rho), theirs("consistency_loss", p, p_prime, rho))


def test_eq_9_is_zero_only_where_the_views_agree_and_its_sign_is_rhos():
    p, p_prime, one = predictions(0), predictions(1), torch.ones(N)
    assert josrc.consistency_loss(p, p, one).abs() < 1e-12
    assert josrc.consistency_loss(p, p_prime, one) > 0.01
    assert josrc.consistency_loss(p, p_prime, -one) == -josrc.consistency_loss(p, p_prime, one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_eq_9_is_finite_at_extreme_logits(dtype: torch.dtype, sign: float):
    logits = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 0], [0, 0, 0]], dtype=dtype, requires_grad=True)
    p, p_prime = josrc.probabilities(logits), josrc.probabilities(logits.roll(1, 0))
    loss = josrc.consistency_loss(p, p_prime, torch.full((3,), sign))
    loss.backward()
    assert loss.isfinite()
    assert loss.abs() < 45  # bits a sample, since no probability is below 1e-6
    assert logits.grad.isfinite().all()


def test_eq_10_joint_loss():
    lc, lo = torch.tensor(2.0), torch.tensor(-3.0)
    assert josrc.joint_loss(lc, lo, 0.0) == lc
    assert josrc.joint_loss(lc, lo, 1.0) == lo
    assert josrc.joint_loss(lc, lo, 0.25) == reference.joint_loss(2.0, -3.0, 0.25)


def test_eq_11_classification_loss_takes_both_views():
    targets, p, p_prime = predictions(0), predictions(1), predictions(2)
    same(josrc.classification_loss(targets, p, p_prime), theirs("classification_loss", targets, p, p_prime))
    one_view = nn.functional.cross_entropy(p.log(), targets) + nn.functional.cross_entropy(p_prime.log(), targets)
    same(josrc.classification_loss(targets, p, p_prime), one_view)


def test_eq_11_of_an_empty_selection_is_zero_with_a_finite_gradient():
    logits = torch.randn(4, C, requires_grad=True)
    p, none = josrc.probabilities(logits), torch.zeros(4, dtype=torch.bool)
    loss = josrc.classification_loss(torch.zeros(0, C), p[none], p[none])
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(4, C))


def test_eq_12_clean_threshold():
    def tau(t: int) -> float:
        return josrc.clean_threshold(t, warmup_epochs=10, epochs=200, tau_c=0.75, tau_m=0.95)

    assert tau(1) == pytest.approx(0.075)
    assert tau(10) == 0.75
    assert tau(11) == pytest.approx(0.75 + 0.2 / 190)
    assert tau(200) == pytest.approx(0.95)
    rising = [tau(t) for t in range(1, 201)]
    assert rising == sorted(rising)
    assert rising == pytest.approx([reference.clean_threshold(t, 10, 200, 0.75, 0.95) for t in range(1, 201)])


def test_eq_12_where_everything_is_warm_up():
    assert josrc.clean_threshold(3, warmup_epochs=3, epochs=3, tau_c=0.75, tau_m=0.95) == 0.75


def test_criteria_3_1_and_3_2_part_the_batch():
    p_clean = torch.rand(200, generator=torch.Generator().manual_seed(0))
    p_ood = (torch.rand(200, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    masks = josrc.partition(p_clean, p_ood, 0.6)
    assert (torch.stack(masks).sum(0) == 1).all()
    assert all(mask.any() for mask in masks)
    for ours, mask in zip(masks, theirs("partition", p_clean, p_ood, np.float32(0.6)), strict=True):
        same(ours, mask)


def test_criterion_3_1_is_strict():
    clean, noisy, ood = josrc.partition(torch.tensor([0.5, 0.75]), torch.tensor([0.0, 1.0]), 0.5)
    assert clean.tolist() == [False, True]
    assert noisy.tolist() == [True, False]
    assert ood.tolist() == [False, False]


# --- Algorithm 1 ----------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """softmax(W x + b): the model of the reference."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.fc = nn.Linear(weight.shape[1], len(weight))
        with torch.no_grad():
            self.fc.weight.copy_(weight)
            self.fc.bias.copy_(bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), x


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def recipe(**changes) -> Recipe:
    values = {"epochs": 10, "batch_size": 40, "optimiser": "sgd", "lr": 0.1, "weight_decay": 0.0, "schedule": "cosine",
              "decay_from": 0.0, "warmup": 0.3, "epsilon": 0.2, "alpha": 0.4, "omega": 0.9}  # fmt: skip
    return Recipe(**values | changes)


def crawl(seed: int, n: int = 40, c: int = 4, d: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Two noisy views of n points, and labels of which a third are wrong."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(c, d, generator=generator)
    truth = torch.randint(0, c, (n,), generator=generator)
    wrong = torch.rand(n, generator=generator) < 1 / 3
    labels = torch.where(wrong, torch.randint(0, c, (n,), generator=generator), truth)
    x, x_prime = (centres[truth] + 0.7 * torch.randn(n, d, generator=generator) for _ in range(2))
    return x, x_prime, labels


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@pytest.mark.usefixtures("_float64")
def test_algorithm_1_equals_the_reference(monkeypatch: pytest.MonkeyPatch):
    """Losses, masks and weights of ten epochs, three of them warm-up, a batch each. Equal to rounding: predictions are
    kept ≥ 1e-6 here and not in the reference, but none comes near that."""
    epochs, plan = 10, recipe()
    x, x_prime, labels = crawl(0)
    start = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    network = Linear(start[:, :3], start[:, 3])
    peer = reference.LinearJoSRC(start[:, :3].numpy(), start[:, 3].numpy(), plan.epsilon, plan.alpha, plan.omega,
                                 plan.scale, plan.tau_c, plan.tau_m, 3, epochs, plan.lr)  # fmt: skip
    ours = josrc.JoSRC(network, len(x), 4, plan, epochs)
    optimiser = torch.optim.SGD(network.parameters(), plan.lr)
    found = []
    monkeypatch.setattr(josrc, "partition", lambda *a, of=josrc.partition: found.append(of(*a)) or found[-1])
    for t in range(1, epochs + 1):
        batch = torch.arange(len(x)).roll(t)[:30]
        losses = ours.epoch(t, [Batch(batch, labels[batch], (x[batch], x_prime[batch]))])
        loss = next(losses)
        step(optimiser, loss.value)
        assert next(losses, None) is None  # what follows the step: the teacher
        expected = peer.step(x[batch], x_prime[batch], labels[batch], t)
        same(loss.value.item(), expected["loss"], atol=1e-10)
        for mask, mask_expected in zip(found[-1], expected["masks"], strict=True):
            assert mask.tolist() == mask_expected.tolist()
        assert (loss.n_clean, loss.n_id, loss.n_ood) == tuple(int(mask.sum()) for mask in expected["masks"])
        same(network.fc.weight.detach(), peer.W, atol=1e-10)
        same(network.fc.bias.detach(), peer.b, atol=1e-10)
        same(ours.teacher.ema.module.fc.weight, peer.W_mt, atol=1e-10)
        same(ours.teacher.ema.module.fc.bias, peer.b_mt, atol=1e-10)
    counts = torch.tensor([[int(mask.sum()) for mask in masks] for masks in found])
    assert (counts[2:].sum(0) > 0).all()  # after warm-up all three kinds were met


# Table 6: which samples an ablation learns from after warm-up, of the masks clean, ID, OOD.
ABLATIONS = {
    josrc.CleanOnly: lambda clean, noisy, ood: clean,
    josrc.CleanAndID: lambda clean, noisy, ood: clean | noisy,
    josrc.WithoutConsistency: lambda clean, noisy, ood: clean | noisy | ood,
}


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("cls", ABLATIONS)
def test_table_6_equals_the_reference_on_what_each_ablation_adopts(cls: type):
    class Peer(reference.LinearJoSRC):
        """Eq. 11 alone, on the adopted samples: what warm-up makes of its clean ones."""

        def objective(self, x, x_prime, targets, masks, t):
            adopted = masks[0] if t < self.warmup_epochs else ABLATIONS[cls](*masks)
            return super().objective(x, x_prime, targets, (adopted, *masks[1:]), t=0)

    plan, (x, x_prime, labels) = recipe(), crawl(0)
    start = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    network = Linear(start[:, :3], start[:, 3])
    peer = Peer(start[:, :3].numpy(), start[:, 3].numpy(), plan.epsilon, plan.alpha, plan.omega, plan.scale,
                plan.tau_c, plan.tau_m, 3, 10, plan.lr)  # fmt: skip
    ours, counts = cls(network, len(x), 4, plan, 10), torch.zeros(3)
    optimiser = torch.optim.SGD(network.parameters(), plan.lr)
    for t in range(1, 11):
        for loss in ours.epoch(t, [Batch(torch.arange(len(x)), labels, (x, x_prime))]):
            step(optimiser, loss.value)
            same(loss.value.item(), peer.step(x, x_prime, labels, t)["loss"], atol=1e-10)
        counts += torch.tensor([loss.n_clean, loss.n_id, loss.n_ood]) * (t > 3)
        same(network.fc.weight.detach(), peer.W, atol=1e-10)
        same(ours.teacher.ema.module.fc.weight, peer.W_mt, atol=1e-10)
    assert (counts > 0).all()  # after warm-up all three kinds were met


def test_algorithm_1_in_float32_stays_with_the_reference():
    plan = recipe()
    x, x_prime, labels = crawl(1)
    network = Linear(torch.zeros(4, 3), torch.zeros(4))
    peer = reference.LinearJoSRC(np.zeros((4, 3)), np.zeros(4), plan.epsilon, plan.alpha, plan.omega, plan.scale,
                                 plan.tau_c, plan.tau_m, 3, 10, plan.lr)  # fmt: skip
    ours = josrc.JoSRC(network, len(x), 4, plan, 10)
    optimiser = torch.optim.SGD(network.parameters(), plan.lr)
    for t in range(1, 7):
        for loss in ours.epoch(t, [Batch(torch.arange(40), labels, (x, x_prime))] * 2):
            step(optimiser, loss.value)
            same(loss.value.item(), peer.step(x.double(), x_prime.double(), labels, t)["loss"], atol=1e-4)


def test_a_warm_up_batch_of_which_nothing_is_selected_moves_nothing():
    network = Linear(torch.zeros(4, 3), torch.zeros(4))
    ours = josrc.JoSRC(network, 8, 4, recipe(tau_c=1.0, epsilon=0.0, warmup=0.2), 10)
    network.fc.weight.data += 100 * torch.eye(4)[:, :3]  # sure of class 0
    x = torch.tensor([1.0, 0, 0]).repeat(8, 1)
    batch = Batch(torch.arange(8), torch.full((8,), 2), (x, x))
    loss = next(iter(ours.epoch(1, [batch])))
    loss.value.backward()
    assert loss.n_clean == 0
    assert loss.value == 0
    for parameter in network.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


@pytest.mark.parametrize("cls", [josrc.JoSRC, josrc.AdaptiveJoSRC])
@pytest.mark.parametrize("t", [1, 5])
def test_softmax_underflow_is_no_nan(cls: type, t: int):
    network = Linear(1e4 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(4))
    x, x_prime, labels = crawl(2)
    ours = cls(network, len(x), 4, recipe(), 10)
    for loss in ours.epoch(t, [Batch(torch.arange(len(x)), labels, (x, x_prime))]):
        loss.value.backward()
        assert loss.value.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@given(c=st.integers(2, 200), sharpness=st.sampled_from([0.0, 1.0, 100.0, 1e4]))
@settings(max_examples=30, deadline=None)
def test_probabilities_are_a_softmax_that_is_never_zero(c: int, sharpness: float):
    logits = sharpness * torch.randn(5, c, generator=torch.Generator().manual_seed(c))
    p = josrc.probabilities(logits)
    torch.testing.assert_close(p.sum(1), torch.ones(5))
    assert (p > 9e-7).all()
    torch.testing.assert_close(p, logits.softmax(1), atol=c * 1e-6, rtol=1e-3)


# --- without thresholds (--recipe auto) -----------------------------------------------------------------------------


def test_adaptive_trust_tells_wrong_labels_from_right_ones():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (400,), generator=generator)
    wrong = torch.rand(400, generator=generator) < 0.2
    ours = josrc.AdaptiveJoSRC(Linear(torch.zeros(4, 3), torch.zeros(4)), 400, 4, recipe(), 10)
    ours.belief.copy_(0.8 * torch.eye(4)[truth] + 0.05)
    ours.labels.copy_(torch.where(wrong, (truth + 1) % 4, truth))
    trust = ours.trust()
    assert ((trust >= 0) & (trust <= 1)).all()
    assert trust[~wrong].min() > 0.8
    assert trust[wrong].max() < 0.2


def test_adaptive_belief_is_a_running_mean_over_epochs():
    network = Linear(torch.zeros(4, 3), torch.zeros(4))
    x, x_prime, labels = crawl(3)
    ours = josrc.AdaptiveJoSRC(network, len(x), 4, recipe(), 10)
    batch, expected = Batch(torch.arange(len(x)), labels, (x, x_prime)), None
    for t in (1, 2, 3):
        network.fc.weight.data = torch.randn(4, 3, generator=torch.Generator().manual_seed(t))
        p = (josrc.probabilities(network(x)[0]) + josrc.probabilities(network(x_prime)[0])).detach() / 2
        expected = p if t == 1 else ours.momentum * expected + (1 - ours.momentum) * p
        list(ours.epoch(t, [batch]))
        torch.testing.assert_close(ours.belief, expected)
    assert torch.equal(ours.labels, labels)

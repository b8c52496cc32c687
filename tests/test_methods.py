"""The contract of methods: what the training loop and the scoring may expect of every one and every recipe of it."""

import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from cleanweb import methods, network
from cleanweb.features import FeatureBatches
from cleanweb.methods import METHODS, TAKE_NOISE_RATE, Batch, Batches, Loss
from cleanweb.network import FeatureHead, Network, Twins
from cleanweb.settings import METHOD_NAMES, RECIPE_NAMES, Recipe
from cleanweb.train import train

EVERY = [(name, recipe) for name, recipes in METHODS.items() for recipe in recipes]
EPOCHS = 6
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
RECIPE = Recipe(EPOCHS, 32, "adam", 0.02, 1e-4, "cosine", 0.0, 0.4, epsilon=0.1, alpha=0.3, omega=0.9,
                noise_rate=0.2)  # fmt: skip


def make(name: str, recipe: str, n: int, c: int, net: nn.Module | None = None, d: int = 6):
    net = FeatureHead(torch.zeros(d), torch.ones(d), c) if net is None else net
    torch.manual_seed(0)  # a second network's start
    return methods.load(name, recipe)(net, n, c, RECIPE, EPOCHS)


def blobs(n: int = 240, c: int = 3, d: int = 6) -> tuple[Tensor, Tensor]:
    """Stored views (3, n, d) float16 of points around c centres far apart, and their labels (n,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % c
    points = 5 * torch.eye(c, d)[labels] + torch.randn(n, d, generator=generator)
    return (points + 0.3 * torch.randn(3, n, d, generator=generator)).half(), labels


def batches(method, features: Tensor, labels: Tensor) -> FeatureBatches:
    return FeatureBatches(features.numpy(), labels.numpy(), len(method.views), 32, 0, torch.device("cpu"))


def only(batch: Batch) -> Batches:
    """An epoch of this batch alone."""

    def draw(indices: Tensor, generator: torch.Generator | None) -> Batch:
        return Batch(indices, batch.labels[indices], tuple(view[indices] for view in batch.views))

    return Batches(draw, batch.indices, 10**6, torch.Generator().manual_seed(0))


def steps(method, t: int, batch: Batch) -> Iterator[Loss]:
    """Epoch t on one batch, with an optimiser step as the loop makes it."""
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    for loss in method.epoch(t, only(batch)):
        optimiser.zero_grad(set_to_none=True)
        loss.value.backward()
        yield loss
        optimiser.step()


def test_the_lists_agree():
    assert tuple(METHODS) == METHOD_NAMES
    assert all(set(recipes) <= set(RECIPE_NAMES) for recipes in METHODS.values())
    assert set(TAKE_NOISE_RATE) <= set(METHODS)


@pytest.mark.parametrize(("name", "recipe"), EVERY)
def test_a_method_says_what_it_takes(name: str, recipe: str):
    cls = methods.load(name, recipe)
    assert issubclass(cls, nn.Module)
    assert cls.views
    assert set(cls.views) <= {"weak", "strong", "distorted"}
    assert list(inspect.signature(cls).parameters) == ["network", "n_samples", "n_classes", "recipe", "epochs"]
    assert inspect.isgeneratorfunction(cls.epoch)


@pytest.mark.parametrize(("name", "recipe"), EVERY)
def test_a_loss_is_yielded_with_gradients_on_and_autocast_off(name: str, recipe: str):
    features, labels = blobs()
    method = make(name, recipe, len(labels), 3)
    for t in range(1, EPOCHS + 1):
        n_steps = n_told = 0
        for loss in method.epoch(t, batches(method, features, labels)(t)):
            assert isinstance(loss, Loss)
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert loss.value.shape == ()
            assert loss.value.dtype == torch.float32
            n_told += loss.n_clean + loss.n_id + loss.n_ood
            n_steps += 1
        assert n_told <= len(labels)  # nothing is counted twice
        assert 1 <= n_steps <= 2 * len(batches(method, features, labels)(t))


@pytest.mark.parametrize(("name", "recipe"), EVERY)
@pytest.mark.parametrize("t", [1, 2, 3, EPOCHS])
@pytest.mark.parametrize("labels", [[0] * 8, [1] * 8, [0, 1] * 4, [0]], ids=["0", "1", "01", "single"])
def test_a_loss_is_finite_with_two_classes_and_with_one_in_the_batch(name: str, recipe: str, t: int, labels: list[int]):
    method = make(name, recipe, 8, 2)
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.randn(len(labels), 6, generator=generator) for _ in method.views)
    batch = Batch(torch.arange(len(labels)), torch.tensor(labels), views)
    for epoch in range(1, t + 1):
        for loss in steps(method, epoch, batch):
            assert loss.value.isfinite()
            assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize(("name", "recipe"), EVERY)
@pytest.mark.parametrize("t", [1, EPOCHS])
def test_an_epoch_reaches_every_trainable_parameter(name: str, recipe: str, t: int):
    method = make(name, recipe, 8, 4, Network(timm.create_model(network.SMALL, num_classes=4)))
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.randn(8, 3, 32, 32, generator=generator) for _ in method.views)
    unreached = {key for key, p in method.named_parameters() if p.requires_grad}
    for loss in steps(method, t, Batch(torch.arange(8), torch.arange(8) % 4, views)):
        assert loss.value.isfinite()
        reached = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
        assert all(grad.isfinite().all() for grad in reached.values())
        unreached -= set(reached)
    assert not unreached


@pytest.mark.parametrize(("name", "recipe"), EVERY)
def test_a_loss_reaches_every_parameter_when_nothing_is_selected(name: str, recipe: str):
    """Sure of class 0, and every label says 1."""
    method = make(name, recipe, 8, 2)
    method.network.fc.bias.data = torch.tensor([1e4, -1e4])
    views = tuple(torch.zeros(8, 6) for _ in method.views)
    for loss in steps(method, 1, Batch(torch.arange(8), torch.ones(8, dtype=torch.int64), views)):
        assert loss.value.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "recipe"), EVERY)
def test_predictions_are_probabilities_and_leave_no_trace(name: str, recipe: str):
    method = make(name, recipe, 8, 4, Network(timm.create_model(network.SMALL, num_classes=4)))
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for t in (1, 2):
        for _ in steps(method, t, Batch(torch.arange(5), torch.arange(5) % 4, (images,) * len(method.views))):
            pass
    before = {key: value.clone() for key, value in method.state_dict().items()}
    p, features = method.predict(images)
    assert p.shape == (5, 4)
    assert features.shape[0] == 5
    torch.testing.assert_close(p.sum(1), torch.ones(5))
    assert (p >= 0).all()
    assert not p.requires_grad
    assert not features.requires_grad
    torch.testing.assert_close(method.predict(images[:1])[0], p[:1], atol=1e-3, rtol=1e-3)  # whatever the company
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())


@pytest.mark.parametrize(("name", "recipe"), EVERY)
def test_what_was_trained_is_what_predicts(name: str, recipe: str):
    """Or one of the two whose predictions are averaged."""
    features, labels = blobs()
    method = make(name, recipe, len(labels), 3)
    train(method, batches(method, features, labels), RECIPE, 2)
    x = features[0].float()
    found, averaged = method.trained().eval()(x)[0].softmax(1), method.predict(x)[0]
    if isinstance(method, Twins):
        peer = method.peer.eval()(x)[0].softmax(1)
        assert any(torch.allclose(p, averaged, atol=1e-6) for p in (found, (found + peer) / 2))
    else:
        torch.testing.assert_close(found, averaged)


@pytest.mark.parametrize(("name", "recipe"), EVERY)
def test_a_separable_set_is_learned(name: str, recipe: str):
    features, labels = blobs()
    method = make(name, recipe, len(labels), 3)
    records = train(method, batches(method, features, labels), RECIPE, EPOCHS)
    assert len(records) == EPOCHS
    found = method.predict(features.float().mean(0))[0].argmax(1)
    assert (found == labels).float().mean() > 0.95


@pytest.mark.parametrize(("name", "recipe"), EVERY)
def test_the_state_is_the_whole_checkpoint(name: str, recipe: str):
    features, labels = blobs()
    one, other = (make(name, recipe, len(labels), 3) for _ in range(2))
    train(one, batches(one, features, labels), RECIPE, 3)
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    x = features[0].float()
    assert torch.equal(one.predict(x)[0], other.predict(x)[0])
    for a, b in zip(*(m.epoch(4, batches(m, features, labels)(4)) for m in (one, other)), strict=True):
        assert torch.equal(a.value, b.value)


class Stopped(Exception):
    """Ctrl-C, as a test makes it."""


@pytest.mark.parametrize(("name", "recipe"), EVERY)
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, recipe: str, stop: int, tmp_path):
    def halt(stage: str, done: int, total: int) -> None:
        if done == stop:
            raise Stopped

    features, labels = blobs()
    whole, first, second = (make(name, recipe, len(labels), 3) for _ in range(3))
    expected = train(whole, batches(whole, features, labels), RECIPE, 4)
    file = tmp_path / "train.pt"
    with pytest.raises(Stopped):
        train(first, batches(first, features, labels), RECIPE, 4, file, halt)
    found = train(second, batches(second, features, labels), RECIPE, 4, file)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in whole.state_dict().items())
    assert [r.loss for r in found] == [r.loss for r in expected]
    assert [(r.epoch, r.n_clean, r.n_id, r.n_ood, r.tau, r.lr) for r in found] == [
        (r.epoch, r.n_clean, r.n_id, r.n_ood, r.tau, r.lr) for r in expected
    ]


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "recipe"), EVERY)
def test_a_method_learns_on_a_gpu(name: str, recipe: str):
    device = torch.device("cuda")
    features, labels = blobs()
    method = make(name, recipe, len(labels), 3).to(device)
    train(method, FeatureBatches(features.numpy(), labels.numpy(), len(method.views), 32, 0, device), RECIPE, EPOCHS)
    found = method.predict(features.float().mean(0).to(device))[0].argmax(1).cpu()
    assert (found == labels).float().mean() > 0.95


KEPT = 0.6  # of the samples, where a method divides them


def costs(name: str, recipe: str, t: int) -> tuple[float, float]:
    """Forward passes per sample in epoch t, and those of them with gradient."""
    features, labels = blobs(320)  # ten batches, six of them kept
    method = make(name, recipe, len(labels), 3)
    passes = {True: 0, False: 0}

    def divide(*args: object) -> Tensor:
        type(method)._divide(method, *args)
        return (torch.arange(len(labels)) < KEPT * len(labels)).float()

    def count(_: nn.Module, inputs: tuple[Tensor, ...], __: object) -> None:
        passes[torch.is_grad_enabled()] += len(inputs[0])

    for net in (module for module in method.modules() if isinstance(module, FeatureHead)):
        net.register_forward_hook(count)
    method._divide = divide  # where it has one
    stored = torch.cat([features, features[:1]])[: len(method.views)]
    for _ in method.epoch(t, batches(method, stored, labels)(t)):
        pass
    return sum(passes.values()) / len(labels), passes[True] / len(labels)


def test_the_readme_says_what_an_epoch_costs():
    """Its table lists every recipe of every method; a cell is a number, or a number and so many times the share s."""
    told = {}
    for line in README.split("| `--method` |")[1].split("\n\n")[0].splitlines()[2:]:
        names, recipes, passes, learning, _ = (cell.strip() for cell in line.strip("|").split("|"))
        for pair in itertools.product(re.findall(r"`(.+?)`", names), re.findall(r"`(.+?)`", recipes)):
            told[pair] = [cell.split(" → ") for cell in (passes, learning)]
    assert set(told) == set(EVERY)
    for pair, cells in told.items():
        for t, at in ((1, 0), (EPOCHS, 1)):
            for cell, passes in zip(cells, costs(*pair, t), strict=True):
                fixed, of_share = re.fullmatch(r"(?:(\d+)(?: \+ |$))?(?:(\d+)s)?", cell[at]).groups(default="0")
                assert passes == pytest.approx(int(fixed) + int(of_share) * KEPT, rel=0.001), (pair, t)

"""The one loop: steps, learning rates, records, checkpoints; and that a resumed run is the same run."""

import errno
import io
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cleanweb import checkpoint, methods
from cleanweb import train as loop
from cleanweb.backbone import Backbone
from cleanweb.errors import MachineError, RunError
from cleanweb.methods import Batch, Batches, Loss
from cleanweb.network import SMALL, MeanTeacher, Network
from cleanweb.settings import Recipe
from cleanweb.train import EpochRecord, learning_rate_factor, make_optimiser, train
from cleanweb.views import ImageBatches, Pixels


def recipe(**changes) -> Recipe:
    values = {"epochs": 4, "batch_size": 8, "optimiser": "adam", "lr": 1e-2, "weight_decay": 1e-4,
              "schedule": "linear", "decay_from": 0.5, "warmup": 0.5, "epsilon": 0.1, "alpha": 0.3,
              "omega": 0.9}  # fmt: skip
    return Recipe(**values | changes)


class Scripted(nn.Module):
    """A method that pulls one weight towards the labels and writes down what happens when."""

    views = ("weak",)

    def __init__(self, spoil: float | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("steps", torch.zeros(1))
        self.spoil, self.diary = spoil, []

    def epoch(self, t: int, given: Iterator[Batch]) -> Iterator[Loss]:
        for batch in given:
            before = self.weight.item()
            loss = ((self.weight - batch.labels.float()) ** 2).mean()
            yield Loss(loss * self.spoil if self.spoil is not None else loss, 2, 1, 1, tau=t / 10)
            self.steps += 1
            self.diary.append((t, before, self.weight.item()))


def batches(t: int) -> Iterator[Batch]:
    for k in range(3):
        yield Batch(torch.arange(4), torch.full((4,), k), (torch.zeros(4, 1),))


class Stopped(Exception):
    """Ctrl-C, as a test makes it."""


def halt_after(epoch: int):
    def halt(stage: str, done: int, total: int) -> None:
        if done == epoch:
            raise Stopped

    return halt


def test_code_after_a_yield_runs_after_the_step():
    method = Scripted()
    train(method, batches, recipe(), 2)
    assert len(method.diary) == 6
    assert all(before != after for _, before, after in method.diary[1:])
    assert [t for t, _, _ in method.diary] == [1, 1, 1, 2, 2, 2]


def test_every_epoch_leaves_a_record():
    seen = []
    records = train(Scripted(), batches, recipe(), 4, progress=lambda *a: seen.append(a))
    assert [r.epoch for r in records] == [1, 2, 3, 4]
    assert [(r.n_clean, r.n_id, r.n_ood) for r in records] == [(6, 3, 3)] * 4
    assert [r.tau for r in records] == [0.1, 0.2, 0.3, 0.4]
    assert all(math.isfinite(r.loss) and r.seconds >= 0 for r in records)
    assert seen == [("train", t, 4) for t in (1, 2, 3, 4)]


def test_every_epoch_is_watched_before_it_is_stored(tmp_path: Path):
    file, seen = tmp_path / "train.pt", []

    def watch(stage: str, epoch: int, method: Scripted) -> None:
        seen.append((stage, epoch, method.steps.item()))
        if epoch == 2 and len(seen) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(Scripted(), batches, recipe(), 3, file, watch=watch)
    train(Scripted(), batches, recipe(), 3, file, watch=watch)
    assert seen == [("train", 1, 3), ("train", 2, 6), ("train", 2, 6), ("train", 3, 9)]


def test_only_what_is_to_be_trained_is_trained():
    method = Scripted()
    optimiser = make_optimiser(method, recipe())
    assert [p for group in optimiser.param_groups for p in group["params"]] == [method.weight]
    train(method, batches, recipe(), 1)
    assert method.frozen == 1


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_optimisers(name: str):
    plan = recipe(optimiser=name, lr=0.5, weight_decay=0.25)
    (group,) = make_optimiser(Scripted(), plan).param_groups
    assert group["lr"] == 0.5
    assert group["weight_decay"] == 0.25
    assert group.get("momentum", 0.9) == 0.9


@pytest.mark.parametrize("epochs", [1, 2, 7, 30])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("decay_from", [0.0, 0.4, 1.0])
def test_the_learning_rate_never_rises_and_never_ends(epochs: int, schedule: str, decay_from: float):
    plan = recipe(schedule=schedule, decay_from=decay_from)
    factors = [learning_rate_factor(t, epochs, plan) for t in range(1, epochs + 1)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == 1 or schedule == "linear"


def test_the_linear_schedule_is_constant_first():
    factors = [learning_rate_factor(t, 10, recipe(decay_from=0.4)) for t in range(1, 11)]
    assert factors[:4] == [1.0] * 4
    assert factors[4] <= 1
    np.testing.assert_allclose(np.diff(factors[4:]), -1 / 7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_in_words(value: float):
    method = Scripted(spoil=value)
    with pytest.raises(RunError, match=r"epoch 1, step [12]"):
        train(method, batches, recipe(), 2)
    assert method.weight.isfinite().all()  # nothing was stepped on it


class Spoiled(Scripted):
    """A loss that is not finite in epoch 2, so often; and what rates it was trained at."""

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def epoch(self, t: int, given: Iterator[Batch]) -> Iterator[Loss]:
        for n, loss in enumerate(super().epoch(t, given)):
            spoil = t == 2 and n == 1 and self.times > 0
            self.times -= spoil
            yield replace(loss, value=loss.value * math.nan) if spoil else loss


def test_after_a_loss_that_is_not_finite_it_goes_back_and_on_more_slowly(tmp_path: Path, caplog):
    file = tmp_path / "fold 1 of 3.pt"
    records = train(Spoiled(1), batches, recipe(lr=0.5, decay_from=1.0), 3, file)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [record.lr for record in records] == pytest.approx([0.5, 0.05, 0.05])
    assert (
        "epoch 2, step 2 (fold 1 of 3): back to the last checkpoint, and on with 0.1 of the learning rate"
        in caplog.text
    )
    plain = train(Scripted(), batches, recipe(lr=0.5, decay_from=1.0), 1)
    assert records[0].loss == plain[0].loss
    with pytest.raises(Stopped):  # the lower rate is in the checkpoint, too
        train(Spoiled(1), batches, recipe(lr=0.5, decay_from=1.0), 3, tmp_path / "again.pt", halt_after(2))
    resumed = train(Scripted(), batches, recipe(lr=0.5, decay_from=1.0), 3, tmp_path / "again.pt")
    assert [record.loss for record in resumed] == [record.loss for record in records]


def test_a_loss_that_is_not_finite_again_is_diagnosed(tmp_path: Path):
    method = Spoiled(2)
    with pytest.raises(
        RunError, match=r"epoch 2, step 2 \(x\), and again with 0\.1 .*: training has diverged.*--set lr"
    ):
        train(method, batches, recipe(), 3, tmp_path / "x.pt")
    assert method.weight.isfinite().all()


def test_weights_that_are_not_finite_are_never_stored(tmp_path: Path):
    class Overflowing(Scripted):
        def epoch(self, t: int, given: Iterator[Batch]) -> Iterator[Loss]:
            yield from super().epoch(t, given)
            self.weight.data.fill_(math.inf)

    with pytest.raises(RunError, match=r"weights were not finite after epoch \d"):
        train(Overflowing(), batches, recipe(), 3, tmp_path / "x.pt")
    stored = torch.load(io.BytesIO(checkpoint.read(tmp_path / "x.pt")), weights_only=True)
    assert stored["method"]["weight"].isfinite().all()


class Small(nn.Module):
    """A method on a machine whose memory does not suffice for more than so many images."""

    views = ("weak",)

    def __init__(self, most: int):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(3, 2).double()
        self.teacher = MeanTeacher(nn.Sequential(self.network), 0.9)
        self.most, self.sizes, self.updates = most, [], 0

    def epoch(self, t: int, given: Batches) -> Iterator[Loss]:
        for batch in given:
            if len(batch.indices) > self.most:
                raise self.error
            self.sizes.append(len(batch.indices))
            yield Loss(nn.functional.cross_entropy(self.network(batch.views[0]), batch.labels))
            self.teacher.update(nn.Sequential(self.network))


def many(t: int) -> Batches:
    points = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(64) % 2

    def draw(indices: Tensor, generator: torch.Generator | None) -> Batch:
        return Batch(indices, labels[indices], (points[indices],))

    return Batches(draw, torch.arange(64), 16, torch.Generator().manual_seed(t))


MEMORY = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(),
          RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")]  # fmt: skip


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("most", "parts"), [(8, 2), (4, 4)])
def test_where_memory_ends_batches_are_halved_and_the_result_is_the_same(
    error: Exception, most: int, parts: int, tmp_path: Path, caplog
):
    whole, small = Small(16), Small(most)
    small.error = error
    plan = recipe(batch_size=16)
    expected = train(whole, many, plan, 3)
    found = train(small, many, plan, 3, tmp_path / "x.pt")
    assert set(small.sizes) == {16 // parts}
    assert len(small.sizes) == 4 * 3 * parts
    assert f"every batch of 16 in {parts} parts" in caplog.text
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected])
    for key, value in whole.state_dict().items():  # the teacher, too, followed each step once
        torch.testing.assert_close(small.state_dict()[key], value)


def test_where_memory_does_not_suffice_for_a_few_images_it_is_said(tmp_path: Path):
    small = Small(1)
    small.error = MEMORY[0]
    with pytest.raises(MachineError, match=r"Out of memory in training \(x\), with batches in 4 parts.*--image-size"):
        train(small, many, recipe(batch_size=16), 3, tmp_path / "x.pt")


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path):
    small = Small(1)
    small.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        train(small, many, recipe(batch_size=16), 3, tmp_path / "x.pt")


# --- checkpoints ----------------------------------------------------------------------------------------------------


def pictures(n: int = 18, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def learner(name: str, kind: str, plan: Recipe):
    torch.manual_seed(0)
    network = Network(Backbone(SMALL, False).build(3)).to(memory_format=torch.channels_last)
    return methods.load(name, kind)(network, 18, 3, plan, 4)


def image_batches(method) -> ImageBatches:
    stored = pictures()
    pixels = Pixels(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    labels = np.arange(18) % 3
    return ImageBatches(lambda at, side: stored[at], labels, pixels, method.views, 8, 0, torch.device("cpu"))


@pytest.mark.parametrize(("name", "kind"), [("josrc", "auto"), ("josrc", "paper"), ("standard", "auto")])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_resumed_network_equals_an_uninterrupted_one(name: str, kind: str, optimiser: str, tmp_path: Path):
    """With batch norm, momentum, a teacher and random views: exactly the same numbers."""
    plan = recipe(optimiser=optimiser)
    whole = learner(name, kind, plan)
    expected = train(whole, image_batches(whole), plan, 4)
    first, file = learner(name, kind, plan), tmp_path / "train.pt"
    with pytest.raises(Stopped):
        train(first, image_batches(first), plan, 4, file, halt_after(2))
    torch.manual_seed(99)  # another process has another global state
    second = learner(name, kind, plan)
    found = train(second, image_batches(second), plan, 4, file)
    assert [r.loss for r in found] == [r.loss for r in expected]
    assert whole.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize(("saving", "kept"), [(1e-9, [0, 1, 5]), (1e9, [0, 1, 2, 3, 4, 5])])
def test_saving_takes_its_share_of_the_time_and_no_more(saving: float, kept: list[int], tmp_path: Path, monkeypatch):
    saved, save = list[int](), loop._save
    monkeypatch.setattr(loop, "_SAVING", saving)
    monkeypatch.setattr(loop, "_save", lambda *asked: (saved.append(len(asked[-1].records)), save(*asked)))
    records = train(Scripted(), batches, recipe(), 5, tmp_path / "x.pt")
    assert saved == kept
    with pytest.raises(Stopped):
        train(Scripted(), batches, recipe(), 5, tmp_path / "y.pt", halt_after(4))
    resumed = train(Scripted(), batches, recipe(), 5, tmp_path / "y.pt")
    assert [record.loss for record in resumed] == [record.loss for record in records]


def test_the_teacher_is_in_the_checkpoint(tmp_path: Path):
    plan, file = recipe(), tmp_path / "train.pt"
    method = learner("josrc", "paper", plan)
    train(method, image_batches(method), plan, 1, file)
    stored = torch.load(io.BytesIO(checkpoint.read(file)), weights_only=True)["method"]
    teacher = method.teacher.ema.module.state_dict()
    assert all(torch.equal(stored[f"teacher.ema.module.{key}"], value) for key, value in teacher.items())
    assert any(not torch.equal(value, method.network.state_dict()[key]) for key, value in teacher.items())


def test_a_finished_checkpoint_is_not_trained_again(tmp_path: Path):
    file, method = tmp_path / "train.pt", Scripted()
    expected = train(method, batches, recipe(), 3, file)
    again = Scripted()
    assert train(again, batches, recipe(), 3, file) == expected
    assert not again.diary
    assert torch.equal(again.weight, method.weight)


def test_an_epoch_that_broke_off_is_trained_again(tmp_path: Path):
    def broken(t: int) -> Iterator[Batch]:
        for k, batch in enumerate(batches(t)):
            if t == 3 and k == 1:
                raise Stopped
            yield batch

    file, whole, second = tmp_path / "train.pt", Scripted(), Scripted()
    train(whole, batches, recipe(), 4)
    with pytest.raises(Stopped):
        train(Scripted(), broken, recipe(), 4, file)
    assert [r.epoch for r in train(second, batches, recipe(), 4, file)] == [1, 2, 3, 4]
    assert torch.equal(second.weight, whole.weight)
    assert second.steps == whole.steps == 12


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_damaged_checkpoint_is_left_aside_for_the_one_before_it(keep: int, tmp_path: Path, caplog):
    file, whole, again = tmp_path / "train.pt", Scripted(), Scripted()
    expected = train(whole, batches, recipe(), 3)
    train(Scripted(), batches, recipe(), 2, file)
    file.write_bytes(file.read_bytes()[:keep])
    epochs = []
    found = train(again, batches, recipe(), 3, file, lambda _, t, __: epochs.append(t))
    assert epochs == [2, 3]
    assert "train.pt is damaged" in caplog.text
    assert torch.equal(again.weight, whole.weight)
    assert [record.loss for record in found][1:] == [record.loss for record in expected][1:]


def test_a_flipped_bit_is_damage(tmp_path: Path):
    file = tmp_path / "train.pt"
    train(Scripted(), batches, recipe(), 1, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    epochs = []
    train(Scripted(), batches, recipe(), 1, file, lambda _, t, __: epochs.append(t))
    assert epochs == [1]


def test_a_checkpoint_of_another_network_is_refused_in_words(tmp_path: Path):
    file = tmp_path / "train.pt"
    train(Scripted(), batches, recipe(), 1, file)
    method = learner("standard", "auto", recipe())
    with pytest.raises(RunError, match=r"train\.pt"):
        train(method, image_batches(method), recipe(), 2, file)


@pytest.mark.parametrize("stored", [{}, {"method": {}}, []])
def test_a_checkpoint_of_something_else_is_refused_in_words(stored: object, tmp_path: Path):
    file = tmp_path / "train.pt"
    store(stored, file)
    with pytest.raises(RunError, match=r"train\.pt"):
        train(Scripted(), batches, recipe(), 2, file)


@pytest.mark.parametrize("records", [[{"epoch": 1}], [{"epoch": 1, "accuracy": 0.5}]])
def test_a_checkpoint_with_records_of_another_version_is_refused_in_words(records: list, tmp_path: Path):
    file, method = tmp_path / "train.pt", Scripted()
    optimiser = make_optimiser(method, recipe())
    store({"method": method.state_dict(), "optimiser": optimiser.state_dict(), "records": records}, file)
    with pytest.raises(RunError, match=r"train\.pt"):
        train(method, batches, recipe(), 2, file)


def store(state: object, file: Path) -> None:
    checkpoint.write(file, lambda stream: torch.save(state, stream))


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "train.pt"
    store({"method": Trap()}, file)
    with pytest.raises(RunError):
        train(Scripted(), batches, recipe(), 1, file)
    assert not Path("sprung").exists()


def test_a_checkpoint_that_cannot_be_finished_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "train.pt"
    train(Scripted(), batches, recipe(), 1, file)
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match=r"train\.pt: No space.*Free some space"):
        train(Scripted(), batches, recipe(), 2, file)
    assert file.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"train.pt", "train.pt.before"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems end the process")
def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_is_told_of(tmp_path: Path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(MachineError, match=r"train\.pt: File too large"):
            train(Scripted(), batches, recipe(), 1, tmp_path / "train.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_records_are_plain_numbers():
    (record,) = train(Scripted(), batches, recipe(), 1)
    assert isinstance(record, EpochRecord)
    assert not any(isinstance(value, Tensor) for value in (record.loss, record.tau, record.n_clean, record.lr))

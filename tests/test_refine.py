"""Learning once more: what is taught in the place of labels, by whom, and that nothing else changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from cleanweb import checkpoint, machine, network
from cleanweb.crossfit import folds
from cleanweb.methods import Batch, Batches
from cleanweb.network import Network
from cleanweb.records import NO_CLASS, UNVERIFIED
from cleanweb.refine import Refining
from cleanweb.tune import Full, Refined
from tests.test_crossfit import CLASSES, N, assert_equal, way


def refining(folder: Path, processes: int = 1, **changes: object) -> Full:
    full = way(folder, processes, **changes)
    full.lesson = replace(full.lesson, recipe=replace(full.lesson.recipe, rounds=1, refine=0.7))
    return full


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    return refining(tmp_path_factory.mktemp("alone")).learn()


def test_it_follows_and_is_told_of(alone, tmp_path: Path):
    said = list[tuple[str, int, int]]()
    learned = refining(tmp_path, progress=lambda *step: said.append(step)).learn()
    assert len(learned.epochs) == 3
    assert len(learned.refining) == 2  # 0.7 of them
    assert [done for stage, done, total in said if stage == "train"] == [*range(1, 7)]
    assert [done for stage, done, total in said if stage == "refine"] == [*range(1, 5)]
    assert_equal(learned, alone)
    plain = way(tmp_path / "plain", 1)
    plain.lesson = replace(plain.lesson, recipe=replace(plain.lesson.recipe, rounds=1, refine=0.0))
    before = plain.learn()
    assert not before.refining
    assert [e.loss for e in before.epochs] == [e.loss for e in learned.epochs]
    assert not np.array_equal(before.probs, learned.probs)


def test_processes_and_interruptions_change_nothing(alone, tmp_path: Path):
    assert_equal(refining(tmp_path, 2).learn(), alone)
    for lost in ("believed-2.npz", "fold 2 of 2.pt", "targets.npz"):
        for file in (tmp_path / "refined").glob(f"{lost}*"):
            file.unlink()
        assert_equal(refining(tmp_path, 2).learn(), alone)


def test_who_is_judged_was_not_taught(tmp_path: Path):
    """Whatever an image is said to show, its own network in the end is the same."""
    begun = refining(tmp_path)
    begun.learn()
    fold, file = folds(begun.task.labels, 2, 0), tmp_path / "refined" / Refined.TARGETS
    [targets] = checkpoint.read_arrays(file).values()
    mine = np.flatnonzero(fold == 0)
    networks = []
    for of_mine in (targets[mine], np.roll(targets[mine], 1, axis=1)):
        targets[mine] = of_mine
        checkpoint.write_arrays(file, {"targets": targets})
        (tmp_path / "refined" / "fold 1 of 2.pt").unlink()
        way_on = Refined(replace(begun.task, folder=tmp_path / "refined"), begun.lesson)
        known = np.flatnonzero((fold != 0) & (begun.task.labels >= 0))
        networks.append(way_on.fit(way_on.task, 0, known)[0].trained().state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(n.values() for n in networks), strict=True))


def test_what_people_have_verified_is_taught(tmp_path: Path):
    given = np.arange(N) % CLASSES
    verified = np.where(np.arange(N) % 4 == 0, (given + 1) % CLASSES, UNVERIFIED)
    verified[:9:8] = NO_CLASS
    taught = np.where(verified == UNVERIFIED, given, verified)
    refining(tmp_path, labels=taught, given=given, verified=verified).learn()
    [targets] = checkpoint.read_arrays(tmp_path / "refined" / Refined.TARGETS).values()
    assert targets.shape == (N, CLASSES)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-5)
    of_class, of_none = verified >= 0, verified == NO_CLASS
    np.testing.assert_array_equal(targets[of_class], np.eye(CLASSES)[verified[of_class]])
    np.testing.assert_allclose(targets[of_none], 1 / CLASSES, rtol=1e-6)


def test_it_learns_the_targets_and_not_the_labels():
    torch.manual_seed(0)
    images, labels = torch.randn(40, 3, 16, 16), torch.arange(40) % 2
    images[:, 0] += 3 * (labels == 1)[:, None, None].float()
    targets = torch.eye(2)[1 - labels]
    learner = Refining(Network(timm.create_model(network.SMALL, num_classes=2)), targets, 0.5)
    batches = Batches(
        lambda at, _: Batch(at, labels[at], (images[at],)), torch.arange(40), 20, torch.Generator().manual_seed(0)
    )
    optimiser = torch.optim.Adam(learner.parameters(), 1e-2)
    with machine.threads(1):
        for t in range(1, 13):
            for loss in learner.epoch(t, batches):
                optimiser.zero_grad()
                loss.value.backward()
                optimiser.step()
        assert (learner.predict(images)[0].argmax(1) == 1 - labels).float().mean() > 0.9

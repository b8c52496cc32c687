"""Cross-fitting: who judges whom, and networks in processes of their own, which change nothing."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cleanweb import methods
from cleanweb.backbone import choose_backbone
from cleanweb.crossfit import Learned, Lesson, Task, cross_fit, folds
from cleanweb.errors import MachineError, RunError
from cleanweb.records import silent
from cleanweb.settings import CONTRASTS, RECIPES
from cleanweb.tune import Full
from cleanweb.views import Pixels

REPOSITORY = Path(__file__).parent.parent
N, CLASSES = 36, 3


def pictures(positions: np.ndarray, side: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    images = rng.integers(0, 80, (N, side, side, 3)) + 80 * (labels[:, None, None, None] == np.arange(3))
    return images.astype(np.uint8)[positions]


def way(folder: Path, processes: int, kind: type[Full] = Full, **changes: object) -> Full:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = replace(RECIPES["auto"]["small"], folds=2, rounds=2, batch_size=8)
    labels = np.where(np.arange(N) == 5, -1, np.arange(N) % CLASSES)
    task = Task(pictures, labels, CLASSES, choose_backbone("cnn5", "none", "cnn5"), Pixels(16, (0.5,) * 3, (0.25,) * 3),
                torch.device("cpu"), 0, folder, processes, silent)  # fmt: skip
    return kind(replace(task, **changes), Lesson("josrc", "auto", recipe, 3))


class Noting(Full):
    def fit(self, part: Task, k: int, known: np.ndarray):
        logging.getLogger("cleanweb.noting").warning("network %d", k)
        return super().fit(part, k, known)


class Dying(Full):
    def fit(self, part: Task, k: int, known: np.ndarray):
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Full):
    def fit(self, part: Task, k: int, known: np.ndarray):
        raise RunError("training has diverged")


def assert_equal(a: Learned, b: Learned) -> None:
    for name in ("probs", "disagreement", "features", "space"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert [e.loss for e in a.epochs] == [e.loss for e in b.epochs]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Learned, methods.Method]:
    return cross_fit(way(tmp_path_factory.mktemp("alone"), 1))


def test_processes_change_nothing(alone: tuple[Learned, methods.Method], tmp_path: Path, caplog):
    caplog.set_level("INFO")
    steps: list[tuple[str, int, int]] = []
    several = way(tmp_path, 2, Noting, progress=lambda *step: steps.append(step))
    learned, learner = cross_fit(several)
    assert_equal(learned, alone[0])
    for name, value in alone[1].state_dict().items():
        assert torch.equal(learner.state_dict()[name], value), name
    # what they tell comes through them
    assert {f"network {k}" for k in range(4)} <= set(caplog.messages)
    trained = [done for stage, done, total in steps if stage == "train" and total == 4 * 3]
    assert sorted(trained) == trained
    assert trained[-1] == 4 * 3
    assert steps[-1] == ("score", 4, 4)
    again, _ = cross_fit(way(tmp_path, 2))  # all is there
    assert_equal(again, learned)
    logging.getLogger("cleanweb").warning("what this process says has nobody to be told to")  # it raised here


@pytest.mark.parametrize("kind", CONTRASTS)
def test_after_contrastive_learning_too(kind: str, tmp_path: Path):
    found = []
    for processes in (1, 2):
        said = list[tuple[str, int, int]]()
        begun = way(tmp_path / str(processes), processes, progress=lambda *step, said=said: said.append(step))
        begun.lesson = replace(begun.lesson, recipe=replace(begun.lesson.recipe, pretrain=kind, rounds=1))
        found.append(begun.learn())
        told = [done for stage, done, _ in said if stage == "pretrain"]
        assert told == ([1, 2, 3] if kind == "self" else [1, 2, 3, 4, 5, 6])  # without labels once, for all networks
    assert_equal(*found)


def test_the_last_network_is_watched_here(alone: tuple[Learned, methods.Method], tmp_path: Path):
    seen: list[tuple[str, int]] = []
    learned, _ = cross_fit(way(tmp_path, 2, watch=lambda stage, epoch, _: seen.append((stage, epoch))))
    assert seen == [("train", 1), ("train", 2), ("train", 3)]
    assert_equal(learned, alone[0])


def test_the_machine_is_left_with_its_threads(tmp_path: Path):
    before = torch.get_num_threads()
    cross_fit(way(tmp_path, 1))
    assert torch.get_num_threads() == before


def test_a_process_that_dies_is_told_of(tmp_path: Path):
    with pytest.raises(MachineError, match=r"fold [12] of 4 could not be fitted: its process was killed"):
        cross_fit(way(tmp_path, 2, Dying))


def test_what_goes_wrong_in_a_process_is_raised_here(tmp_path: Path):
    with pytest.raises(RunError, match="training has diverged"):
        cross_fit(way(tmp_path, 2, Failing))


KILLED = """
import sys
from pathlib import Path
from cleanweb.crossfit import cross_fit
from tests.test_crossfit import way
if __name__ == "__main__":
    cross_fit(way(Path(sys.argv[1]), 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", ["fold 1 of 4.pt", "believed-1.npz", "believed-3.npz"])
def test_killed_processes_go_on(alone: tuple[Learned, methods.Method], after: str, tmp_path: Path):
    script, folder = tmp_path / "killed.py", tmp_path / "learning"
    script.write_text(KILLED, encoding="utf-8")
    run = subprocess.Popen(
        [sys.executable, str(script), str(folder)], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    while not (folder / after).exists() and run.poll() is None:
        time.sleep(0.01)
    run.kill()
    run.wait()
    learned, _ = cross_fit(way(folder, 2))
    assert_equal(learned, alone[0])


def test_every_image_with_a_label_is_judged_by_a_network_that_never_saw_it(tmp_path: Path):
    taught: list[np.ndarray] = []

    class Remembering(Full):
        def fit(self, part: Task, k: int, known: np.ndarray):
            taught.append(known)
            return super().fit(part, k, known)

        def views(self, positions: np.ndarray) -> Iterator[tuple[torch.Tensor, ...]]:
            assert not set(positions) & set(taught[-1])
            return super().views(positions)

    cross_fit(way(tmp_path, 1, Remembering))
    assert len(taught) == 4
    assert all(5 not in known for known in taught)  # it has no label


@pytest.mark.parametrize("k", [2, 3, 5])
def test_folds_are_even_in_every_class(k: int):
    labels = np.random.default_rng(0).integers(0, 4, 200)
    fold = folds(labels, k, seed=1)
    for label in range(4):
        counts = np.bincount(fold[labels == label], minlength=k)
        assert counts.max() - counts.min() <= 1
    assert (fold != folds(labels, k, seed=2)).any()

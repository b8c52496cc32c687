"""The rivals: they find what is plain to see, are told no more than they say, and cleanlab's rule is cleanlab's."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cleanweb.bench import record, rivals, trial, worlds
from cleanweb.bench.rivals import RIVALS, Evidence
from cleanweb.bench.sources import read_source
from cleanweb.cli import app
from cleanweb.errors import UsageError
from cleanweb.records import Verdict
from cleanweb.settings import Settings

PER_CLASS, FLIPPED, FAR = 60, 5, 12
needs_cleanlab = pytest.mark.skipif(importlib.util.find_spec("cleanlab") is None, reason='needs ".[bench]"')


def plain_to_see(seed: int = 0) -> tuple[Evidence, np.ndarray]:
    """Three tight clusters, in each of which five labels are wrong, and a dozen images far from all and each other; and
    what is right of each."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(3), PER_CLASS)
    labels = truth.copy()
    labels[np.arange(3)[:, None] * PER_CLASS + np.arange(FLIPPED)] = [[1], [2], [0]]
    own = np.eye(20)[truth] * 8 + rng.normal(size=(len(truth), 20)) * 0.3
    far = np.abs(rng.normal(size=(FAR, 20))) * 4
    right = np.where(labels == truth, Verdict.CLEAN, Verdict.RELABELED)
    features = np.concatenate([own, far]).astype(np.float32)
    labels = np.concatenate([labels, rng.integers(0, 3, FAR)])
    return Evidence(features, labels, 3, FAR / len(labels), seed), np.concatenate([right, [Verdict.OOD] * FAR])


@pytest.mark.parametrize("name", ["knn-vote", "knn-vote-told", *(pytest.param(n, marks=needs_cleanlab) for n in
                                  ("cleanlab", "cleanlab-told"))])  # fmt: skip
def test_rivals_find_what_is_plain_to_see(name: str):
    seen, right = plain_to_see()
    decision = RIVALS[name](seen)
    verdicts, inside = np.array(decision.verdict), right != Verdict.OOD
    assert set(verdicts) <= set(Verdict)
    wrong = right == Verdict.RELABELED
    assert (verdicts[wrong] == Verdict.RELABELED).all()
    assert (decision.suggested[wrong] == np.repeat(np.arange(3), PER_CLASS)[wrong[inside]]).all()
    assert ((decision.suggested >= 0) == (verdicts == Verdict.RELABELED)).all()
    assert not (decision.suggested == seen.labels).any()
    assert decision.p_clean[inside & ~wrong].min() > decision.p_clean[wrong].max()
    if name.endswith("-told"):
        assert ((verdicts == Verdict.OOD) == ~inside).all()
        assert decision.p_ood[~inside].min() > decision.p_ood[inside].max()


def test_neighbours_alone_know_no_image_of_no_class():
    decision = RIVALS["knn-vote"](plain_to_see()[0])
    assert Verdict.OOD not in decision.verdict
    assert np.isnan(decision.p_ood).all()


@needs_cleanlab
def test_outliers_are_those_of_cleanlabs_datalab():
    from cleanlab.datalab.internal.issue_manager.outlier import OutlierIssueManager

    for seed in range(3):
        seen, _ = plain_to_see(seed)
        distances = seen.outlier_distance[:, None]  # their mean over one neighbour
        _, _, theirs = OutlierIssueManager._compute_threshold_and_issue_column_from_distances(None, distances)
        assert (theirs == (np.array(RIVALS["cleanlab"](seen).verdict) == Verdict.OOD)).all()
        assert theirs.any()


@needs_cleanlab
def test_probabilities_are_of_models_that_never_saw_the_label():
    """Features that tell nothing, one column for each image: a model that saw a label would know it."""
    labels = np.arange(60) % 3
    seen = Evidence(np.eye(60, dtype=np.float32), labels, 3, 0.0, 0)
    assert seen.probs[np.arange(60), labels].max() < 0.6


def test_without_cleanlab_it_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert rivals.available() == ["knn-vote", "knn-vote-told"]


# --- on a world -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> trial.Trial:
    """A finished trial of a head on the features of a small network that has learned the colours from scratch."""
    folder, rng = tmp_path_factory.mktemp("rivals"), np.random.default_rng(0)
    for hue in range(4):
        (folder / "set" / f"hue {hue}").mkdir(parents=True)
        for i in range(15):
            colour = 120 + 100 * np.cos(hue * np.pi / 2 + np.array([0, 2, 4]))
            pixels = np.clip(rng.normal(colour, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "set" / f"hue {hue}" / f"{i}.png")
    world = worlds.World("tiny", n_inside=3, n_outside=1)
    worlds.write(world, read_source(folder / "set"), 0, folder / "world")
    made = worlds.read(folder / "world")
    asked = Settings(Path(), backbone="cnn5", epochs=1, workers=0, device="cpu", recipe="paper")
    scratch = trial.prepare(made, asked)
    with pytest.raises(UsageError, match="pretrained backbone, and cnn5 is none"):
        rivals.told(scratch, "knn-vote")
    trial.run(scratch)
    network = f"local-dir:{scratch.settings.out / 'classifier'}"
    head = trial.prepare(made, replace(asked, backbone=network, tune="head", recipe="auto"))
    trial.run(head)
    return head


def test_rivals_results_look_like_the_products(tried: trial.Trial):
    names = rivals.available()
    for name, result in rivals.run(tried, names):
        assert result["settings"]["method"] == name
        assert result["settings"]["recipe"] is result["settings"]["epochs"] is None
        assert result["settings"].keys() == tried.told().keys()
        assert result["metrics"]["images"] == 48
        assert result["metrics"]["ece_clean"] is None
        assert 0 <= result["metrics"]["noise_rate"] <= 1
        json.dumps(result, allow_nan=False)
    assert len({record.name(tried.made, rivals.told(tried, name)) for name in names}) == len(names)


def test_the_command_runs_rivals_once(tried: trial.Trial, tmp_path: Path):
    words = ["bench", "run", str(tried.made.folder), "--backbone", tried.settings.backbone, "--tune", "head",
             "--epochs", "1", "--device", "cpu", "--workers", "0", "--rivals", "--results", str(tmp_path)]  # fmt: skip
    first, again = (CliRunner().invoke(app, words) for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    n = 1 + len(rivals.available())
    assert (first.stdout.count("→"), again.stdout.count("is already in")) == (n, n)
    assert {result["settings"]["method"] for result in record.read_all(tmp_path)} == {"josrc", *rivals.available()}

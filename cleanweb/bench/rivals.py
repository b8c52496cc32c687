"""What a user would pick instead, on the same frozen features: cleanlab, and asking the neighbours.

    cleanlab        confident learning on the out-of-fold probabilities of a logistic regression (Northcutt et al., JAIR
                    2021), and its outliers: the mean distance to ten neighbours, by cosine
    knn-vote        the majority among the labels of 30 neighbours; it knows no image of no class
    …-told          the same, told what nobody knows: the true share of images of no class, which it takes to be the
                    farthest from their neighbours

They rank and flag, and promise no probabilities: their calibration is not judged, and the share of labels that they
let stand is taken for their estimate of the noise.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cleanweb import inspection, judging, readers
from cleanweb.bench import metrics, record
from cleanweb.bench.record import Result
from cleanweb.bench.trial import Trial
from cleanweb.errors import UsageError
from cleanweb.features import extract
from cleanweb.neighbours import nearest
from cleanweb.records import Decision, Progress, Verdict, silent
from cleanweb.runfolder import RunFolder
from cleanweb.score import N_NEIGHBOURS
from cleanweb.views import loaded_side
from cleanweb.written import Written

_FOLDS = 5
_ITERATIONS = 400  # of the logistic regression, as in cleanlab's tutorials
# Datalab's rule for outliers, with its default threshold: farther than Q3 + (1 / threshold − 1)·IQR of the distances
# (cleanlab 2.9, datalab/internal/issue_manager/outlier.py). The class itself asks for Hugging Face's `datasets`.
_OUTLIER_THRESHOLD = 0.37037


@dataclass(frozen=True)
class Evidence:
    """What a rival sees of n images, all of which were given a label, and what the told ones are told."""

    features: np.ndarray  # (n, d) float32
    labels: np.ndarray  # (n,) int64 in 0…c−1
    n_classes: int
    ood_share: float  # the true one
    seed: int

    @cached_property
    def probs(self) -> np.ndarray:
        """Class probabilities (n, c) of a logistic regression on standardised features that never saw the image."""
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            return cross_val_predict(model, self.features, self.labels, cv=folds, method="predict_proba")

    @cached_property
    def outlier_distance(self) -> np.ndarray:
        """How far an image is from its neighbours, as cleanlab measures it: (n,), in units of the median."""
        from cleanlab.outlier import OutOfDistribution

        score = OutOfDistribution().fit_score(features=self.features, verbose=False)  # exp(−distance / median)
        return -np.log(np.maximum(score, np.finfo(float).tiny))

    @cached_property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """The shares of labels among the neighbours (n, c), and the mean distance to them (n,): by cosine of the
        centred features, as the product looks for its own."""
        centred = self.features - self.features.mean(0)
        indices, similarity = nearest(torch.from_numpy(centred), N_NEIGHBOURS)
        return np.eye(self.n_classes)[self.labels[indices]].mean(1), 1 - similarity.mean(1)


# --- the rivals -----------------------------------------------------------------------------------------------------


def cleanlab(seen: Evidence) -> Decision:
    """Label issues and outliers by cleanlab's own thresholds."""
    low, high = np.percentile(seen.outlier_distance, [25, 75])
    return _confident_learning(seen, seen.outlier_distance > high + (1 / _OUTLIER_THRESHOLD - 1) * (high - low))


def cleanlab_told(seen: Evidence) -> Decision:
    """Label issues by cleanlab's own thresholds, outliers by the true share."""
    return _confident_learning(seen, _farthest(seen.outlier_distance, seen.ood_share))


def knn_vote(seen: Evidence) -> Decision:
    """What most neighbours are called."""
    votes, _ = seen.neighbours
    nowhere = np.full(len(votes), np.nan)
    return _decision(seen.labels, np.zeros(len(votes), bool), votes.argmax(1), votes, nowhere)


def knn_vote_told(seen: Evidence) -> Decision:
    """What most neighbours are called; of no class by the true share."""
    votes, distance = seen.neighbours
    return _decision(seen.labels, _farthest(distance, seen.ood_share), votes.argmax(1), votes, distance)


RIVALS: dict[str, Callable[[Evidence], Decision]] = {
    "cleanlab": cleanlab,
    "cleanlab-told": cleanlab_told,
    "knn-vote": knn_vote,
    "knn-vote-told": knn_vote_told,
}


def available() -> list[str]:
    """The rivals that can be run here."""
    there = importlib.util.find_spec("cleanlab") is not None
    return [name for name in RIVALS if there or not name.startswith("cleanlab")]


def _confident_learning(seen: Evidence, ood: np.ndarray) -> Decision:
    """Where cleanlab finds a label issue, the predicted class."""
    from cleanlab.filter import find_label_issues

    issue = find_label_issues(seen.labels, seen.probs, n_jobs=1)
    named = np.where(issue, seen.probs.argmax(1), seen.labels)
    return _decision(seen.labels, ood, named, seen.probs, seen.outlier_distance)


def _farthest(distance: np.ndarray, share: float) -> np.ndarray:
    """Which are the farthest: (n,) bool, that share of n."""
    far = np.zeros(len(distance), bool)
    far[np.argsort(-distance, kind="stable")[: round(share * len(distance))]] = True
    return far


def _decision(
    labels: np.ndarray, ood: np.ndarray, named: np.ndarray, probs: np.ndarray, distance: np.ndarray
) -> Decision:
    """What a rival says, in the product's words: of no class where `ood` (n,), else of the class `named` (n,). Scores
    that only rank stand where probabilities would: probs (n, c) of the given label, exp(−distance)."""
    rows, wrong = np.arange(len(labels)), named != labels
    p_clean, p_ood = probs[rows, labels], 1 - np.exp(-distance)
    verdict = np.where(ood, Verdict.OOD, np.where(wrong, Verdict.RELABELED, Verdict.CLEAN))
    return Decision(
        verdict=[Verdict(v) for v in verdict],
        suggested=np.where(wrong & ~ood, named, -1),
        p_clean=p_clean,
        p_id=np.full(len(labels), np.nan),
        p_ood=p_ood,
        confidence=probs[rows, named],
        needs_review=np.zeros(len(labels), bool),
        flow=np.zeros((probs.shape[1] + 1, probs.shape[1])),
        noise=np.full((probs.shape[1] + 1, 3), np.nan),
        reliability=np.zeros((0, 4)),
        reason=[""] * len(labels),
    )


# --- on a world -----------------------------------------------------------------------------------------------------


def run(trial: Trial, names: list[str], progress: Progress = silent) -> Iterator[tuple[str, Result]]:
    """Each of these rivals and its result, on the images that a finished trial has scored."""
    if not names:
        return
    folder = RunFolder(trial.settings.out)
    scored, scores, classes, _ = folder.load_scores()
    known, truth = Written(folder.path), trial.made.truth
    foreign = known.take(scored)["path"].isin(truth.loc[truth["truth"] == "", "path"])
    features = _features(trial, scored, progress)
    seen = Evidence(features, scores.labels, len(classes), float(foreign.mean()), trial.settings.seed)
    for name in names:
        decision = RIVALS[name](seen)
        rows = judging.Images(known, judging.judge(known, scored, scores, decision, classes))
        judged = metrics.judge(rows[:], truth)
        stands = np.mean([verdict == Verdict.CLEAN for verdict in decision.verdict])
        judged |= {"ece_clean": None, "class_noise_error": None, "noise_rate": float(1 - stands)}
        judged |= dict.fromkeys(metrics.ESTIMATES)  # they make none
        yield name, record.record(trial.made, told(trial, name), judged, {}, {})


def told(trial: Trial, name: str) -> Result:
    """The settings of a rival, as a result tells them: of the trial's only those that it shares. Raises UsageError
    where its backbone is not pretrained: such features say nothing."""
    if not trial.backbone.pretrained:
        raise UsageError(f"Rivals need the features of a pretrained backbone, and {trial.backbone.name} is none.")
    own = dict.fromkeys(trial.told())
    shared = {key: trial.told()[key] for key in ("backbone", "weights", "seed", "device")}
    return own | shared | {"method": name, "tune": "head"}


def _features(trial: Trial, scored: np.ndarray, progress: Progress) -> np.ndarray:
    """The mean frozen features of the scored images (m, d) float32: those a head learns on."""
    settings, side = trial.settings, loaded_side(trial.pixels.size_px)
    samples = readers.read(settings.source, settings.labels).samples
    with tempfile.TemporaryDirectory() as scratch:
        _, cache = inspection.inspect(samples, Path(scratch), side, settings.workers, progress)
        stored = extract(
            trial.backbone.build(0),
            lambda at, size: cache.load(scored[at], size),
            len(scored),
            trial.pixels,
            Path(scratch) / "features.npy",
            trial.device,
            progress=progress,
        )
        return np.asarray(stored, np.float32).mean(0)

"""What we decide of every sample, from what the model believes of it. No torch, no pixels, no threshold to be tuned.

The only thing that is known for sure is what labels were given. So everything is measured against those:

1. Belief (`belief.py`). The model's probabilities and the labels of the nearest images, blended and calibrated on the
   given labels.
2. Right or wrong. Wrong labels fall on an image whatever it shows. How often is read off the classes that it surely
   does not show (the noise floor); P(label is right) = 1 − floor / q(label). Whether large classes are given astray
   more often than small ones is read off, too. What is left open of an image of a class may be ignorance: its floor is
   no higher than the labels that are drawn without a look at it.
3. Another class or none. An image of no class is strange in two ways: its belief says little (its divergence from how
   labels go astray is small), and the images most like it have wrong labels, too. Wrong labels fall on images of the
   known classes as on any, so images with right labels are the null of the two-groups model (`twogroups.py`): what the
   images with wrong labels have of strangeness beyond it belongs to no class.
4. Strays. Some images of no class were given, by chance, the label they look most like: as many as chance allows.
5. People. What a person has verified is certain, and sets the probabilities of the others right (`calibration.py`).

Takes Scores, gives a Decision. Time n·c; room for twice the probabilities, on the disk where they are many
(`scratch.py`), and memory for c·c flows.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cleanweb import scratch
from cleanweb.belief import Belief, belief, company
from cleanweb.calibration import recalibrated
from cleanweb.labelnoise import (
    astray,
    blocks,
    class_share,
    enough,
    label_right,
    own_floor,
    typical_floors,
)
from cleanweb.records import KEPT, LEFT_OUT, NO_CLASS, UNVERIFIED, VERIFIED, Decision, Scores, Target, Verdict
from cleanweb.twogroups import density_ratio, null_probability, null_share

FEWEST = 10  # a class of fewer images is not judged: held out in folds, hardly one of it is left to learn from
_SIGNIFICANT = 6.9  # nats: χ² with two degrees of freedom (temperature, weight), p = 0.001
_SHRINKAGE = 1e-3  # of correlations towards none: two signs that agree in everything are not opposed to each other
_NUMBERS = 32  # for every image that the two groups are read off: see `enough`
_SURE = 0.9  # labels this likely wrong are the lower end of a noise rate, those not this likely right the upper


def decide(scores: Scores, rule: dict[str, float] | None = None, target: Target | None = None) -> Decision:
    """Verdict, probabilities and suggestion for every scored sample; those of samples that have neither a given nor a
    verified label mean nothing.

    rule: {'epsilon', 'tau'} decides as the paper prints it (`by_criteria`); None decides by the evidence.
    """
    opinion = by_evidence(scores) if rule is None else by_criteria(scores, **rule)
    of_people = reliability(scores, opinion)
    likely = opinion.best
    if target is not None:
        opinion.best = aimed(opinion, target, scores.labels)
    left_out = (likely == 0) & (opinion.best != 0) & (scores.verified == UNVERIFIED)
    _heed_people(scores, opinion)
    return _conclude(scores, opinion, of_people, left_out)


@dataclass(slots=True)
class Opinion:
    """What a rule makes of n samples and c classes."""

    p: np.ndarray  # (3, n): clean, ID, OOD
    share: np.ndarray  # (n, c): which class it shows, if it shows one; rows sum to 1
    best: np.ndarray  # (n,) in {0, 1, 2}: the verdict
    unjudged: np.ndarray  # (n,) bool: kept, since too little is known of its class
    unseen: np.ndarray  # (n,) P(label is right) as it is believed before people's labels set it right
    random: float = 1.0  # so many labels, at least, are drawn without a look at the image


def by_criteria(scores: Scores, epsilon: float, tau: float) -> Opinion:
    """Jo-SRC's Criteria 3.1 and 3.2 with the last epoch's threshold: clean iff P_clean > τ, of the others OOD iff the
    views disagree. P_clean (Eq. 3) against the ε-smoothed label, P_ood (Eq. 4) averaged over pairs of views."""
    labels, (n, c) = np.maximum(scores.labels, 0), scores.probs.shape
    p_clean = np.empty(n)
    for rows in blocks(n, c):
        probs = scores.probs[rows].astype(float)
        smooth = np.full(probs.shape, epsilon / (c - 1))
        smooth[np.arange(len(probs)), labels[rows]] = 1 - epsilon
        middle = (probs + smooth) / 2
        p_clean[rows] = 1 - sum((p * np.log2(np.maximum(p, 1e-12) / middle)).sum(1) for p in (probs, smooth)) / 2
    p_ood = scores.view_disagreement
    best = np.where(p_clean > tau, 0, np.where(p_ood > 0.5, 2, 1))
    p = np.stack([p_clean, (1 - p_clean) * (1 - p_ood), (1 - p_clean) * p_ood])
    return Opinion(p, scratch.copied(scores.probs), best, np.zeros(n, bool), p[0].copy())


def by_evidence(scores: Scores) -> Opinion:
    """The rule of this file: calibrated belief, noise floor, two groups, strays."""
    believed, labels = belief(scores), np.maximum(scores.labels, 0)
    given, unjudged = scores.labels >= 0, np.zeros(len(labels), bool)
    floor = _floor(believed, labels, given)
    p = _probabilities(scores, floor, given)
    known = known_classes(floor.predicted[given], floor.given[given], labels[given], scores.probs.shape[1])
    unjudged[given] = ~known[labels[given]]
    judged = given & ~unjudged
    seen, unseen = np.flatnonzero(judged & (scores.verified != UNVERIFIED)), p[0].copy()
    if len(seen):
        p = recalibrated(p, seen, kind(scores)[seen])
    # of what cannot be judged no more is known than what holds on average; where nothing can, nothing
    p[:, unjudged] = p[:, judged].mean(1, keepdims=True) if judged.any() else [[0.5], [0.25], [0.25]]
    return Opinion(p, floor.share, np.where(unjudged, 0, p.argmax(0)), unjudged, unseen, believed.random[0])


def _probabilities(scores: Scores, floor: "_Floor", given: np.ndarray) -> np.ndarray:
    """Of clean, ID, OOD: (3, n). given (n,) bool: which have a label.

    An image that surely shows a class leaves no room for that class as a wrong label; one that shows none does. First
    all images are taken to show one, which tells right from wrong well enough to see which do not.
    """
    likely = floor.seems_right()
    right, wrong = given & (likely > 0.5), given & (likely <= 0.5)
    p_class, p_stray = _groups(scores, floor, likely, right, wrong)
    p_clean = floor.label_right(p_class)
    excess = np.maximum(p_clean - (1 - p_stray), 0)
    return np.stack([p_clean - excess, (1 - p_clean) * p_class, (1 - p_clean) * (1 - p_class) + excess])


def _groups(
    scores: Scores, floor: "_Floor", likely: np.ndarray, right: np.ndarray, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P(image shows one of the classes | its label is wrong), and P(none | right): (n,), (n,). likely (n,): P(label is
    right) as it seems first; right, wrong (n,) bool: those it seems of. Both are read off some hundred thousand."""
    heard = np.zeros(len(likely), bool)
    heard[enough(len(likely), _NUMBERS)] = True
    nulls, others = right & heard, wrong & heard
    if min(nulls.sum(), others.sum()) < 2:  # one has nothing in common with itself
        return np.ones(len(likely)), np.zeros(len(likely))
    strange = strangeness(np.stack([floor.silence, company(scores, 1 - likely)]), nulls, others)
    groups = strange[others], 1 - likely[others], strange[nulls]  # of the wrong some may be right
    ratio, p_stray = density_ratio(*groups, at=strange), np.zeros(len(likely))
    p_class = null_probability(null_share(*groups), ratio)
    per_right = (1 - likely[wrong]).sum() / right.sum() * ratio[right]
    p_stray[right] = stray_probability(floor.passing[right], per_right * (1 - p_class[right]))
    return p_class, p_stray


@dataclass(frozen=True, slots=True)
class _Floor:
    """What the noise floor says of n samples; of their label where not said otherwise."""

    given: np.ndarray  # (n,) what is believed of the label
    own: np.ndarray  # (n,) its floor by the other classes of the sample
    usual: np.ndarray  # (n,) and by the other samples of the predicted class
    drawn: np.ndarray  # (n,) and by how many labels are drawn without a look at the image, at most
    of_label: np.ndarray  # (n,) what the label gets of the belief above the floor
    share: np.ndarray  # (n, c) what each class gets of it; rows sum to 1
    passing: np.ndarray  # (n,) the share of classes that would pass as a right label
    silence: np.ndarray  # (n,) bits, ≤ 0: −D_KL(belief ‖ labels astray), what the belief does not say
    predicted: np.ndarray  # (n,) int64: the class believed most

    def seems_right(self) -> np.ndarray:
        """P(label is right), were every sample of one of the classes: (n,)."""
        return label_right(self.given, self._of_a_class(self.own))

    def label_right(self, p_class: np.ndarray) -> np.ndarray:
        """P(label is right), where a sample shows one of the classes with a probability of p_class: (n,). Labels that
        are drawn fall on it then, and those usual for its class; what else the belief leaves open is not known."""
        of_a_class, of_none = self._of_a_class(np.minimum(self.own, self.drawn)), np.maximum(self.own, self.usual)
        return label_right(self.given, p_class * of_a_class + (1 - p_class) * of_none)

    def _of_a_class(self, floor: np.ndarray) -> np.ndarray:
        return np.maximum(floor * (1 - self.of_label), self.usual)


def _floor(believed: Belief, labels: np.ndarray, given: np.ndarray) -> _Floor:
    """labels (n,), of those that are given."""
    q = believed.q
    (n, c), typical, share = q.shape, typical_floors(q, given), scratch.zeros(q.shape, q.dtype)
    often, columns = astray(q, np.where(given, labels, -1)), scratch.zeros((6, n))
    for rows in blocks(n, c):
        some = q[rows].astype(float)
        own, usual = own_floor(some, often), typical[some.argmax(1)]
        share[rows] = class_share(some, np.maximum(own, usual))
        floor = np.maximum(own * (1 - share[rows]), usual)
        passing = (1 - floor / np.maximum(some, 1e-12) > 0.5).mean(1).clip(1 / c, 1 - 1 / c)
        silence = -(some * np.log2(np.maximum(some, 1e-12) / often)).sum(1)
        at = np.arange(len(own)), labels[rows]
        columns[:, rows] = some[at], own[at], usual[at], share[rows][at], passing, silence
    of_given, own, usual, of_label, passing, silence = columns
    drawn = believed.random[1] * often[labels]
    return _Floor(of_given, own, usual, drawn, of_label, share, passing, silence, q.argmax(1))


def set_right(scores: Scores) -> np.ndarray:
    """Labels to learn from once more, as far as each thing is believed: the given class, the other ones, and all alike
    where a sample shows none. (n, c) float32, rows sum to 1; of samples without a given label they mean nothing."""
    opinion, labels = by_evidence(scores), scores.labels
    opinion.p[:, opinion.unjudged] = [[1], [0], [0]]  # their label is all there is
    _heed_people(scores, opinion)
    (p_clean, p_id, p_ood), targets = opinion.p, _others(opinion, labels)
    c, given = targets.shape[1], np.flatnonzero(labels >= 0)
    for rows in blocks(*targets.shape):
        targets[rows] = p_id[rows, None] * targets[rows] + p_ood[rows, None] / c
    targets[given, labels[given]] += p_clean[given]
    return targets.astype(np.float32, copy=False)


def kind(scores: Scores) -> np.ndarray:
    """What a person has seen, as a verdict: (n,) 0 clean, 1 ID, 2 OOD; means nothing where nobody has looked."""
    return np.where(scores.verified == NO_CLASS, 2, np.where(scores.verified == scores.labels, 0, 1))


def aimed(opinion: Opinion, target: Target, labels: np.ndarray) -> np.ndarray:
    """The verdicts (n,) where not the most probable one is asked for, but a share: the surest are clean, as many as
    the target allows. Of the others those that were clean, too, are OOD, since there is no verdict for what is likely
    right and left out, and this one trains nothing; the rest is the more probable of ID and OOD. Unjudged samples, and
    those without a label (−1 among labels (n,)), stay as they are and are not counted."""
    best, judged = opinion.best.copy(), np.flatnonzero(~opinion.unjudged & (labels >= 0))
    p_clean = opinion.p[0, judged]
    surest = judged[np.argsort(-p_clean, kind="stable")]
    n_clean = round((target.keep or 0) * len(judged))
    if target.min_precision is not None:
        precision = np.cumsum(opinion.p[0, surest]) / np.arange(1, len(surest) + 1)  # falls: the surest come first
        n_clean = int((precision >= target.min_precision).sum())
    best[surest[:n_clean]] = 0
    rest = surest[n_clean:]
    best[rest] = np.where(opinion.best[rest] == 0, 2, 1 + opinion.p[1:, rest].argmax(0))
    return best


def _heed_people(scores: Scores, opinion: Opinion) -> None:
    """What a person has verified is certain."""
    seen = np.flatnonzero(scores.verified != UNVERIFIED)
    verdicts, classes = kind(scores)[seen], scores.verified[seen]
    opinion.best[seen] = verdicts
    opinion.p[:, seen] = np.eye(3)[:, verdicts]
    opinion.unjudged[seen] = False
    of_a_class = seen[classes >= 0]
    opinion.share[of_a_class] = 0
    opinion.share[of_a_class, classes[classes >= 0]] = 1


def known_classes(predicted: np.ndarray, believed: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Which classes can be judged: (c,) bool. predicted (n,): the class believed most; believed (n,): of the label.

    A class can where it has enough images and those are predicted as it more often than all images are. None can where
    the belief does not make the labels likelier than counting them does: it has nothing to say about labels.
    """
    count = np.bincount(labels, minlength=n_classes)
    hits = np.bincount(labels[predicted == labels], minlength=n_classes) / np.maximum(count, 1)
    gain = np.log(np.maximum(believed, 1e-12) / (count[labels] / len(labels))).sum()
    often = np.bincount(predicted, minlength=n_classes) / len(labels)
    return (count >= FEWEST) & (hits > often) & (gain > _SIGNIFICANT)


def strangeness(signs: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """One score (n,) of several signs (s, n), each the higher the stranger: their sum, weighted as tells samples with
    right labels best from those with wrong ones. right, wrong (n,) bool, two or more of each. A sign that would count
    backwards does not count; where none counts, all do alike."""
    fisher = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE)
    weights = fisher.fit(signs[:, right | wrong].T, wrong[right | wrong]).coef_[0].clip(0)
    return (weights if weights.any() else np.ones(len(signs))) @ signs


def stray_probability(passing: np.ndarray, found: np.ndarray) -> np.ndarray:
    """P(the image belongs to no class | its label passes for right): (n,).

    passing (n,): the share of classes that would pass as a right label, in (0, 1). found (n,): for one image like it
    with a passing label, how many of no class were found because theirs did not pass. An image of no class is given any
    label, so of its kind those pass whose label is one of the classes that would.
    """
    return np.clip(found * passing / (1 - passing), 0, 1)


def noise_rates(labels: np.ndarray, n_classes: int, p_clean: np.ndarray, random: float = 1.0) -> np.ndarray:
    """Estimated share of wrong labels, and an interval around it: (c + 1, 3) for every class and for all samples; NaN
    where there is no sample. labels, p_clean (n,); random: so many labels, at least, are
    drawn without a look at the image.

    What nobody can recognise is taken for noise, so that a model that has learned too little makes the estimate too
    high. The interval allows for that: from the labels that are surely wrong to those that are not surely right, and
    1.96 standard errors further. Of two classes every label that is not believed seems sure to be wrong, so that there
    it begins at the labels that are drawn; with more of them it does the less. How often it holds the truth is in
    bench/EXPERIMENTS.md.
    """
    drawn, doubt = random * (1 - 1 / max(n_classes, 2)), 1 / max(n_classes - 1, 1)
    rates = []
    for k in [*range(n_classes), None]:
        wrong = 1 - p_clean[labels >= 0 if k is None else labels == k]
        if not len(wrong):
            rates.append([np.nan] * 3)
            continue
        error = 1.96 * np.sqrt((wrong * (1 - wrong)).sum()) / len(wrong)
        rate, sure, possible = wrong.mean(), (wrong >= _SURE).mean(), (wrong > 1 - _SURE).mean()
        sure -= doubt * max(0.0, sure - drawn)
        rates.append([rate, max(0.0, min(rate, sure) - error), min(1.0, max(rate, possible) + error)])
    return np.array(rates)


def reliability(scores: Scores, opinion: Opinion) -> np.ndarray:
    """How often labels are right that are believed to be so with a probability, where people have looked: (b, 4), a row
    for every tenth that holds any: its lower edge, images, their mean probability, the share that is right."""
    seen = (scores.verified != UNVERIFIED) & (scores.labels >= 0) & ~opinion.unjudged
    p, right = opinion.unseen[seen], kind(scores)[seen] == 0
    tenth = np.clip((p * 10).astype(int), 0, 9)
    rows = [(k / 10, of.sum(), p[of].mean(), right[of].mean()) for k in range(10) if (of := tenth == k).any()]
    return np.array(rows, float).reshape(-1, 4)


def _conclude(scores: Scores, opinion: Opinion, of_people: np.ndarray, left_out: np.ndarray) -> Decision:
    labels, p, best = scores.labels, opinion.p, opinion.best
    rows = np.arange(len(labels))
    others = _others(opinion, labels)
    confidence = p[best, rows] * np.where(best == 1, others.max(1), 1)
    told = labels if _anything_judged(scores, opinion) else np.full_like(labels, -1)  # else nothing is known of them
    flow = expected_flow(told, p, others)
    others[rows[labels >= 0], labels[labels >= 0]] = -1  # never suggested, even where nothing else is believed at all
    words = np.array(["the label fits", "looks like another class", "looks like none of the classes"], dtype=object)
    reason = np.where(opinion.unjudged, KEPT, np.where(left_out, LEFT_OUT, words[best]))
    return Decision(
        verdict=[(Verdict.CLEAN, Verdict.RELABELED, Verdict.OOD)[k] for k in best],
        suggested=np.where(best == 1, others.argmax(1), -1),
        p_clean=p[0],
        p_id=p[1],
        p_ood=p[2],
        confidence=confidence,
        needs_review=opinion.unjudged | left_out | (confidence < 0.75),  # less than three to one
        flow=flow,
        noise=noise_rates(told, others.shape[1], p[0], opinion.random),
        reliability=of_people,
        reason=list(np.where(scores.verified == UNVERIFIED, reason, VERIFIED)),
    )


def _anything_judged(scores: Scores, opinion: Opinion) -> bool:
    """Whether any label was, other than by a person; or all were."""
    given, seen = scores.labels >= 0, scores.verified != UNVERIFIED
    return bool((given & ~opinion.unjudged & ~seen).any()) or not opinion.unjudged.any()


def _others(opinion: Opinion, labels: np.ndarray) -> np.ndarray:
    """Which other class than the given one each sample shows, if it shows one: (n, c), rows sum to 1. Takes the place
    of the opinion's shares."""
    given = np.flatnonzero(labels >= 0)
    others = opinion.share
    others[given, labels[given]] = 0
    for block in blocks(*others.shape):
        others[block] /= np.maximum(others[block].sum(1, keepdims=True), 1e-12)
    return others


def expected_flow(labels: np.ndarray, p: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Expected number of images that show class j and were given class k: (c + 1, c), the last row those of no class.

    p (3, n) of clean, ID, OOD; others (n, c): which other class it shows, if one. Samples without a label are left out.
    """
    n_classes = others.shape[1]
    flow = np.zeros((n_classes + 1, n_classes))
    for k in range(n_classes):
        own = labels == k
        flow[:n_classes, k] = p[1, own] @ others[own]
        flow[k, k] += p[0, own].sum()
        flow[n_classes, k] = p[2, own].sum()
    return flow

"""What we decide of every sample, from what the model believes of it. No torch, no pixels, no threshold to be tuned.

The only thing that is known for sure is what labels were given. So everything is measured against those:

1. Belief. The model's probabilities and the labels of the nearest images, blended at the temperature and weight under
   which the given labels are most likely. Both come from other samples' labels, so the blend is calibrated: of the
   images whose blend says 0.3 for a class, about 30 % were given it.
2. Right or wrong. Wrong labels fall on an image whatever it shows. How often is read off the classes that it surely
   does not show (the noise floor); P(label is right) = 1 − floor / q(label).
3. Another class or none. Wrong labels fall on images of the known classes as on any, so the entropies of images with
   right labels are the null of the two-groups model (`twogroups.py`): what the images with wrong labels have beyond it
   belongs to no class.
4. Strays. Some images of no class were given, by chance, the label they look most like: as many as chance allows.
5. People. What a person has verified is certain, and sets the probabilities of the others right (`calibration.py`).

Takes Scores, gives a Decision. Time and memory n·c.
"""

from dataclasses import dataclass

import numpy as np

from cleanweb.calibration import recalibrated
from cleanweb.labelnoise import TEMPERATURES, class_share, label_right, own_floor, surprise, typical_floor, warmed
from cleanweb.records import NO_CLASS, UNVERIFIED, Decision, Scores, Target, Verdict
from cleanweb.twogroups import density_ratio, null_probability

FEWEST = 10  # a class of fewer images is not judged: held out in folds, hardly one of it is left to learn from
_SIGNIFICANT = 6.9  # nats: χ² with two degrees of freedom (temperature, weight), p = 0.001
_WEIGHTS = np.linspace(0, 1, 11)  # of the neighbours in the blend
_SURE = 0.9  # labels this likely wrong are the lower end of a noise rate, those not this likely right the upper


def decide(scores: Scores, rule: dict[str, float] | None = None, target: Target | None = None) -> Decision:
    """Verdict, probabilities and suggestion for every scored sample; those of samples that have neither a given nor a
    verified label mean nothing.

    rule: {'epsilon', 'tau'} decides as the paper prints it (`by_criteria`); None decides by the evidence.
    """
    opinion = by_evidence(scores) if rule is None else by_criteria(scores, **rule)
    of_people = reliability(scores, opinion)
    if target is not None:
        opinion.best = aimed(opinion, target)
    _heed_people(scores, opinion)
    return _conclude(scores, opinion, of_people)


@dataclass(slots=True)
class Opinion:
    """What a rule makes of n samples and c classes."""

    p: np.ndarray  # (3, n): clean, ID, OOD
    share: np.ndarray  # (n, c): which class it shows, if it shows one; rows sum to 1
    best: np.ndarray  # (n,) in {0, 1, 2}: the verdict
    unjudged: np.ndarray  # (n,) bool: kept, since too little is known of its class
    unseen: np.ndarray  # (n,) P(label is right) as it is believed before people's labels set it right


def by_criteria(scores: Scores, epsilon: float, tau: float) -> Opinion:
    """Jo-SRC's Criteria 3.1 and 3.2 with the last epoch's threshold: clean iff P_clean > τ, of the others OOD iff the
    views disagree. P_clean (Eq. 3) against the ε-smoothed label, P_ood (Eq. 4) averaged over pairs of views."""
    labels, (n, c) = np.maximum(scores.labels, 0), scores.probs.shape
    smooth = np.full((n, c), epsilon / (c - 1))
    smooth[np.arange(n), labels] = 1 - epsilon
    middle = (scores.probs + smooth) / 2
    p_clean = 1 - sum((p * np.log2(np.maximum(p, 1e-12) / middle)).sum(1) for p in (scores.probs, smooth)) / 2
    p_ood = scores.view_disagreement
    best = np.where(p_clean > tau, 0, np.where(p_ood > 0.5, 2, 1))
    p = np.stack([p_clean, (1 - p_clean) * (1 - p_ood), (1 - p_clean) * p_ood])
    return Opinion(p, scores.probs.astype(float), best, np.zeros(n, bool), p[0].copy())


def by_evidence(scores: Scores) -> Opinion:
    """The rule of this file: calibrated belief, noise floor, two groups, strays."""
    q, labels = belief(scores), np.maximum(scores.labels, 0)
    given = scores.labels >= 0
    own, typical = own_floor(q), typical_floor(q, given)
    share = class_share(q, np.maximum(own, typical))
    # An image that surely shows a class leaves no room for that class as a wrong label; one that shows none does. First
    # all images are taken to show one, which tells right from wrong well enough to see which do not.
    floor = np.maximum(own * (1 - share), typical)
    likely = label_right(q, floor, labels)
    right, wrong = given & (likely > 0.5), given & (likely <= 0.5)
    p_class, p_stray = np.ones(len(q)), np.zeros(len(q))
    if right.any() and wrong.any():
        entropy = -(q * np.log2(np.maximum(q, 1e-12))).sum(1)
        groups = entropy[wrong], 1 - likely[wrong], entropy[right]  # some of the wrong may be right: count that much
        p_class = null_probability(*groups, at=entropy)
        per_right = (1 - likely[wrong]).sum() / right.sum() * density_ratio(*groups, at=entropy[right])
        p_stray[right] = stray_probability(q[right], floor[right], per_right * (1 - p_class[right]))
    p_clean = label_right(q, np.maximum(own * (1 - share * p_class[:, None]), typical), labels)
    p_id, p_ood = (1 - p_clean) * p_class, (1 - p_clean) * (1 - p_class)
    excess = np.maximum(p_clean - (1 - p_stray), 0)
    p = np.stack([p_clean - excess, p_id, p_ood + excess])
    unjudged = given & ~known_classes(q[given], labels[given])[labels]
    judged = given & ~unjudged
    seen, unseen = np.flatnonzero(judged & (scores.verified != UNVERIFIED)), p[0].copy()
    if len(seen):
        p = recalibrated(p, seen, kind(scores)[seen])
    # of what cannot be judged no more is known than what holds on average; where nothing can, labels are believed
    p[:, unjudged] = p[:, judged].mean(1, keepdims=True) if judged.any() else [[1.0], [0.0], [0.0]]
    return Opinion(p, share, np.where(unjudged, 0, p.argmax(0)), unjudged, unseen)


def kind(scores: Scores) -> np.ndarray:
    """What a person has seen, as a verdict: (n,) 0 clean, 1 ID, 2 OOD; means nothing where nobody has looked."""
    return np.where(scores.verified == NO_CLASS, 2, np.where(scores.verified == scores.labels, 0, 1))


def aimed(opinion: Opinion, target: Target) -> np.ndarray:
    """The verdicts (n,) where not the most probable one is asked for, but a share: the surest are clean, as many as
    the target allows; of the others the more probable of ID and OOD. Unjudged samples stay as they are."""
    best, judged = opinion.best.copy(), np.flatnonzero(~opinion.unjudged)
    p_clean = opinion.p[0, judged]
    surest = judged[np.argsort(-p_clean, kind="stable")]
    n_clean = round((target.keep or 0) * len(judged))
    if target.min_precision is not None:
        precision = np.cumsum(opinion.p[0, surest]) / np.arange(1, len(surest) + 1)  # falls: the surest come first
        n_clean = int((precision >= target.min_precision).sum())
    best[surest[:n_clean]] = 0
    rest = surest[n_clean:]
    best[rest] = 1 + opinion.p[1:, rest].argmax(0)
    return best


def _heed_people(scores: Scores, opinion: Opinion) -> None:
    """What a person has verified is certain."""
    seen = np.flatnonzero(scores.verified != UNVERIFIED)
    verdicts, classes = kind(scores)[seen], scores.verified[seen]
    opinion.best[seen] = verdicts
    opinion.p[:, seen] = np.eye(3)[:, verdicts]
    opinion.unjudged[seen] = False
    of_a_class = seen[classes >= 0]
    opinion.share[of_a_class] = np.eye(opinion.share.shape[1])[scores.verified[of_a_class]]


def belief(scores: Scores) -> np.ndarray:
    """Calibrated class probabilities of every sample, blended from model and neighbours: (n, c), rows sum to 1."""
    labels, (n, c) = scores.labels, scores.probs.shape
    given = labels >= 0
    prior = np.bincount(labels[given], minlength=c) / max(given.sum(), 1)
    one_hot = np.zeros((n, c))
    one_hot[given] = np.eye(c)[labels[given]]
    votes = vote(scores.neighbours, scores.similarity, one_hot)
    k = scores.neighbours.shape[1]
    votes = (k * votes + prior) / (k + 1)
    rows = np.flatnonzero(given)
    best = (np.inf, votes)
    for temperature in TEMPERATURES:
        heated = warmed(scores.probs, temperature)
        for weight in _WEIGHTS:
            blend = (1 - weight) * heated + weight * votes
            best = min(best, (surprise(blend[rows], labels[rows]), blend), key=lambda b: b[0])
    return best[1]


def known_classes(q: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which classes can be judged: (c,) bool. q (n, c), labels (n,).

    A class can where it has enough images and those are predicted as it more often than all images are. None can where
    the belief does not make the labels likelier than counting them does: it has nothing to say about labels.
    """
    c = q.shape[1]
    count, predicted = np.bincount(labels, minlength=c), q.argmax(1)
    hits = np.bincount(labels[predicted == labels], minlength=c) / np.maximum(count, 1)
    gain = np.log(np.maximum(q[np.arange(len(labels)), labels], 1e-12) / (count[labels] / len(labels))).sum()
    return (count >= FEWEST) & (hits > np.bincount(predicted, minlength=c) / len(labels)) & (gain > _SIGNIFICANT)


def vote(neighbours: np.ndarray, similarity: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """What the neighbours say: the mean of their class distributions, weighted by similarity.

    neighbours (n, k), similarity (n, k) in [−1, 1], classes (n, c), rows summing to 1 (or to less where a sample's
    word counts less) → (n, c), rows summing to 1; uniform where no neighbour says anything.
    """
    n, c = classes.shape
    weight = np.maximum(similarity, 0)
    votes = np.zeros((n, c))
    for j in range(neighbours.shape[1]):
        votes += weight[:, j, None] * classes[neighbours[:, j]]
    total = votes.sum(1, keepdims=True)
    return np.where(total > 0, votes / np.maximum(total, 1e-12), 1 / c)


def stray_probability(q: np.ndarray, floor: np.ndarray, found: np.ndarray) -> np.ndarray:
    """P(the image belongs to no class | its label passes for right): (n,).

    q, floor (n, c). found (n,): for one image like it with a passing label, how many of no class were found because
    theirs did not pass. An image of no class is given any label, so of its kind those pass whose label is one of the
    classes that would.
    """
    c = q.shape[1]
    passing = (1 - floor / np.maximum(q, 1e-12) > 0.5).mean(1).clip(1 / c, 1 - 1 / c)
    return np.clip(found * passing / (1 - passing), 0, 1)


def noise_rates(labels: np.ndarray, n_classes: int, p_clean: np.ndarray) -> np.ndarray:
    """Estimated share of wrong labels, and an interval around it: (c + 1, 3) for every class and for all samples; NaN
    where there is no sample. labels, p_clean (n,).

    What nobody can recognise is taken for noise, so that a model that has learned too little makes the estimate too
    high. The interval allows for that: from the labels that are surely wrong to those that are not surely right, and
    1.96 standard errors further. How often it holds the truth is in bench/EXPERIMENTS.md.
    """
    rates = []
    for k in [*range(n_classes), None]:
        wrong = 1 - p_clean[labels >= 0 if k is None else labels == k]
        if not len(wrong):
            rates.append([np.nan] * 3)
            continue
        error = 1.96 * np.sqrt((wrong * (1 - wrong)).sum()) / len(wrong)
        rate, sure, possible = wrong.mean(), (wrong >= _SURE).mean(), (wrong > 1 - _SURE).mean()
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


def _conclude(scores: Scores, opinion: Opinion, of_people: np.ndarray) -> Decision:
    labels, p, best = scores.labels, opinion.p, opinion.best
    rows = np.arange(len(labels))
    others = opinion.share.copy()
    others[rows[labels >= 0], labels[labels >= 0]] = 0
    others /= np.maximum(others.sum(1, keepdims=True), 1e-12)
    confidence = p[best, rows] * np.where(best == 1, others.max(1), 1)
    flow = expected_flow(labels, p, others)
    others[rows[labels >= 0], labels[labels >= 0]] = -1  # never suggested, even where nothing else is believed at all
    words = np.array(["the label fits", "looks like another class", "looks like none of the classes"], dtype=object)
    reason = np.where(opinion.unjudged, "kept: too little was learned of its class to judge it", words[best])
    return Decision(
        verdict=[(Verdict.CLEAN, Verdict.RELABELED, Verdict.OOD)[k] for k in best],
        suggested=np.where(best == 1, others.argmax(1), -1),
        p_clean=p[0],
        p_id=p[1],
        p_ood=p[2],
        confidence=confidence,
        needs_review=opinion.unjudged | (confidence < 0.75),  # less than three to one
        flow=flow,
        noise=noise_rates(labels, opinion.share.shape[1], p[0]),
        reliability=of_people,
        reason=list(np.where(scores.verified == UNVERIFIED, reason, "verified by a person")),
    )


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

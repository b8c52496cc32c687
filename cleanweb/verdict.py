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

Takes Scores, gives a Decision. Time and memory n·c.
"""

import numpy as np

from cleanweb.labelnoise import TEMPERATURES, class_share, label_right, own_floor, surprise, typical_floor, warmed
from cleanweb.records import Decision, Scores, Verdict
from cleanweb.twogroups import density_ratio, null_probability

FEWEST = 10  # a class of fewer images is not judged: held out in folds, hardly one of it is left to learn from
_SIGNIFICANT = 6.9  # nats: χ² with two degrees of freedom (temperature, weight), p = 0.001
_WEIGHTS = np.linspace(0, 1, 11)


def decide(scores: Scores, rule: dict[str, float] | None = None) -> Decision:
    """Verdict, probabilities and suggestion for every scored sample; those of samples without a label mean nothing.

    rule: {'epsilon', 'tau'} decides as the paper prints it (`by_criteria`); None decides by the evidence.
    """
    return by_evidence(scores) if rule is None else by_criteria(scores, **rule)


def by_criteria(scores: Scores, epsilon: float, tau: float) -> Decision:
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
    return _conclude(scores.probs, labels, np.zeros(n, bool), p, best)


def by_evidence(scores: Scores) -> Decision:
    """The rule of this file: calibrated belief, noise floor, two groups, strays."""
    q, labels = belief(scores), np.maximum(scores.labels, 0)
    given = scores.labels >= 0
    own, typical = own_floor(q), typical_floor(q, given)
    share = class_share(q, np.maximum(own, typical))
    # An image that surely shows a class leaves no room for that class as a wrong label; one that shows none does. First
    # all images are taken to show one, which tells right from wrong well enough to see which do not.
    floor = np.maximum(own * (1 - share), typical)
    right = given & (label_right(q, floor, labels) > 0.5)
    wrong = given & ~right
    p_class, p_stray = np.ones(len(q)), np.zeros(len(q))
    if right.any() and wrong.any():
        entropy = -(q * np.log2(np.maximum(q, 1e-12))).sum(1)
        p_class = null_probability(entropy[wrong], entropy[right], at=entropy)
        p_stray[right] = stray_probability(q, floor, entropy, wrong, right, p_class)
    p_clean = label_right(q, np.maximum(own * (1 - share * p_class[:, None]), typical), labels)
    p_id, p_ood = (1 - p_clean) * p_class, (1 - p_clean) * (1 - p_class)
    excess = np.maximum(p_clean - (1 - p_stray), 0)
    p = np.stack([p_clean - excess, p_id, p_ood + excess])
    kept = given & ~known_classes(q[given], labels[given])[labels]
    judged = given & ~kept
    # of what cannot be judged no more is known than what holds on average; where nothing can, labels are believed
    p[:, kept] = p[:, judged].mean(1, keepdims=True) if judged.any() else [[1.0], [0.0], [0.0]]
    return _conclude(share, labels, kept, p, np.where(kept, 0, p.argmax(0)))


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


def stray_probability(
    q: np.ndarray, floor: np.ndarray, entropy: np.ndarray, wrong: np.ndarray, right: np.ndarray, p_class: np.ndarray
) -> np.ndarray:
    """P(the image belongs to no class | its label passes for right): (m,) for the m samples that `right` marks.

    An image of no class is given any label, so a share of its kind passes: that of the classes which would pass for it.
    How many images of its kind there are is known from those whose label did not.
    """
    c = q.shape[1]
    passing = (1 - floor / np.maximum(q, 1e-12) > 0.5).mean(1).clip(1 / c, 1 - 1 / c)[right]
    ratio = density_ratio(entropy[wrong], entropy[right], at=entropy[right])  # of wrong to right at that entropy
    strays = wrong.sum() / right.sum() * ratio * (1 - p_class[right]) * passing / (1 - passing)
    return np.clip(strays, 0, 1)


def _conclude(share: np.ndarray, labels: np.ndarray, kept: np.ndarray, p: np.ndarray, best: np.ndarray) -> Decision:
    """p (3, n) of clean, ID, OOD; best (n,) which of them is the verdict; kept (n,) whether it could not be judged."""
    rows = np.arange(len(labels))
    others = share.copy()
    others[rows, labels] = 0
    sure = others.max(1) / np.maximum(others.sum(1), 1e-12)
    confidence = p[best, rows] * np.where(best == 1, sure, 1)
    others[rows, labels] = -1  # never suggested, even where nothing else is believed at all
    words = np.array(["the label fits", "looks like another class", "looks like none of the classes"], dtype=object)
    return Decision(
        verdict=[(Verdict.CLEAN, Verdict.RELABELED, Verdict.OOD)[k] for k in best],
        suggested=np.where(best == 1, others.argmax(1), -1),
        p_clean=p[0],
        p_id=p[1],
        p_ood=p[2],
        confidence=confidence,
        needs_review=kept | (confidence < 0.75),  # less than three to one
        reason=list(np.where(kept, "kept: too little was learned of its class to judge it", words[best])),
    )

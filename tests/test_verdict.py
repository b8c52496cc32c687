"""Verdicts: consistent whatever is believed, and right on crawls whose truth is known."""

import tracemalloc
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score

from cleanweb import labelnoise, verdict
from cleanweb.belief import belief, company, vote
from cleanweb.labelnoise import surprise, warmed
from cleanweb.neighbours import nearest
from cleanweb.records import KEPT, LEFT_OUT, NO_CLASS, UNVERIFIED, Decision, Scores, Target, Verdict
from cleanweb.verdict import (
    FEWEST,
    Opinion,
    aimed,
    by_evidence,
    decide,
    noise_rates,
    set_right,
    strangeness,
)

KINDS = [Verdict.CLEAN, Verdict.RELABELED, Verdict.OOD]
PAPER = {"epsilon": 0.6, "tau": 0.95}


def make_scores(labels: np.ndarray, probs: np.ndarray, neighbours: np.ndarray, similarity: np.ndarray) -> Scores:
    none = np.zeros(len(labels), np.float32)
    unseen = np.full(len(labels), UNVERIFIED)
    return Scores(labels, probs.astype(np.float32), none, none, neighbours, similarity, unseen)


@cache
def crawl(
    seed: int, c: int, flips: float, ood: float, n: int = 1200, apart: float = 4
) -> tuple[Scores, np.ndarray, np.ndarray]:
    """Blobs around c centres; labels flipped to other classes; points of no class, with labels at random.

    Probabilities are those of a classifier fitted on the other folds' noisy labels. Gives scores, true class, and kind:
    0 clean, 1 flipped, 2 of no class.
    """
    rng, d = np.random.default_rng(seed), 8
    centres = rng.normal(0, apart, (c, d))
    truth, kind = rng.integers(0, c, n), rng.choice(3, n, p=[1 - flips - ood, flips, ood])
    x = np.where((kind == 2)[:, None], rng.normal(0, 4, (n, d)), centres[truth] + rng.normal(0, 1, (n, d)))
    labels = np.choose(kind, [truth, (truth + rng.integers(1, c, n)) % c, rng.integers(0, c, n)])
    probs, fold = np.zeros((n, c)), rng.integers(0, 5, n)
    for k in range(5):
        model = LinearDiscriminantAnalysis().fit(x[fold != k], labels[fold != k])
        probs[fold == k] = model.predict_proba(x[fold == k])
    return make_scores(labels, probs, *nearest(torch.as_tensor(x - x.mean(0)), 30)), truth, kind


def kinds(decision: Decision) -> np.ndarray:
    return np.array([KINDS.index(verdict) for verdict in decision.verdict])


@st.composite
def anything(draw) -> Scores:
    """Scores of any crawl: few or many samples, sure or unsure, labels missing, neighbours anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, c = draw(st.integers(2, 60)), draw(st.integers(2, 6))
    probs = rng.dirichlet(np.full(c, draw(st.sampled_from([0.02, 0.5, 20.0]))), n)
    if draw(st.booleans()):
        probs = np.eye(c)[probs.argmax(1)]
    labels = rng.integers(-1 if draw(st.booleans()) else 0, c, n)
    labels[0] = 0
    k = min(n - 1, draw(st.integers(0, 8)))
    neighbours = np.array([rng.choice(np.delete(np.arange(n), i), k, replace=False) for i in range(n)], np.int32)
    similarity = rng.uniform(-1, 1, (n, k)).astype(np.float32)
    scores = make_scores(labels, probs, neighbours.reshape(n, k), similarity)
    return replace(scores, view_disagreement=rng.random(n).astype(np.float32))


# --- whatever is believed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, PAPER], ids=["evidence", "paper"])
@given(scores=anything())
@settings(max_examples=60, deadline=None)
def test_a_decision_never_contradicts_itself(rule: dict | None, scores: Scores):
    n, given_labels = len(scores.labels), scores.labels >= 0
    d = decide(scores, rule)
    p = np.stack([d.p_clean, d.p_id, d.p_ood])
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-6)
    assert ((p >= -1e-6) & (p <= 1 + 1e-6)).all()
    assert ((d.confidence >= -1e-6) & (d.confidence <= 1 + 1e-6)).all()
    assert len(d.verdict) == len(d.reason) == len(d.needs_review) == len(d.suggested) == n
    assert all(d.reason)
    relabeled = np.array([verdict == Verdict.RELABELED for verdict in d.verdict])
    assert (relabeled == (d.suggested >= 0)).all()
    assert (d.suggested < scores.probs.shape[1]).all()
    assert (d.suggested[given_labels] != scores.labels[given_labels]).all()


@given(scores=anything(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_labels_that_are_set_right_are_probabilities_and_what_is_verified_is_certain(scores: Scores, seed: int):
    verified = np.where(np.random.default_rng(seed).random(len(scores.labels)) < 0.3, scores.labels, UNVERIFIED)
    targets = set_right(replace(scores, verified=np.where(scores.labels < 0, UNVERIFIED, verified)))
    labels = scores.labels
    assert targets.dtype == np.float32
    assert ((targets >= 0) & (targets <= 1 + 1e-5)).all()
    np.testing.assert_allclose(targets[labels >= 0].sum(1), 1, atol=1e-5)
    seen = (labels >= 0) & (verified != UNVERIFIED)
    np.testing.assert_array_equal(targets[seen], np.eye(targets.shape[1])[labels[seen]])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("seen", [0, 0.2])
def test_labels_that_are_set_right_are_nearer_to_the_truth(seed: int, seen: float):
    scores, truth, kind = crawl(seed, 6, 0.3, 0.2)
    looked = np.random.default_rng(seed).random(len(truth)) < seen
    verified = np.where(looked, np.where(kind == 2, NO_CLASS, truth), UNVERIFIED)
    scores, kind = replace(scores, verified=verified), np.where(looked, -1, kind)  # judged by the others
    targets, given = set_right(scores), np.eye(6)[scores.labels]
    true = np.where((kind == 2)[:, None], 1 / 6, np.eye(6)[truth])
    for k in range(3):
        distances = [np.abs(said - true)[kind == k].sum(1).mean() for said in (targets, given)]
        assert distances[0] < (0.2 if k == 0 else 0.5 * distances[1])


def test_a_sure_prediction_of_the_given_label_is_never_relabeled_to_it():
    """The paper's criterion rejects a prediction surer than its smoothed label; there is no second best to suggest."""
    probs = np.eye(3)[np.arange(30) % 3]
    scores = make_scores(np.arange(30) % 3, probs, np.zeros((30, 0), np.int32), np.zeros((30, 0), np.float32))
    d = decide(scores, PAPER)
    assert (d.suggested != scores.labels).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_samples_does_not_matter(seed: int):
    scores, _, _ = crawl(seed, 3, 0.2, 0.2)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(scores.labels))
    place = np.argsort(order)
    shuffled = make_scores(scores.labels[order], scores.probs[order], place[scores.neighbours[order]].astype(np.int32),
                           scores.similarity[order])  # fmt: skip
    same(decide(shuffled), decide(scores), order)


@pytest.mark.parametrize("seed", range(3))
def test_the_names_of_classes_do_not_matter(seed: int):
    scores, _, _ = crawl(seed, 10, 0.2, 0.2)
    names = np.random.default_rng(seed).permutation(10)
    place = np.argsort(names)
    renamed = decide(replace(scores, labels=place[scores.labels], probs=scores.probs[:, names]))
    suggested = np.where(renamed.suggested >= 0, names[renamed.suggested], -1)
    same(replace(renamed, suggested=suggested), decide(scores), np.arange(len(scores.labels)))


def same(found: Decision, expected: Decision, order: np.ndarray) -> None:
    for name in ("p_clean", "p_id", "p_ood", "confidence"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[order], atol=1e-6)
    top = np.sort(np.stack([expected.p_clean, expected.p_id, expected.p_ood]), axis=0)[:, order]
    clear = top[2] - top[1] > 1e-6
    assert (kinds(found) == kinds(expected)[order])[clear].all()
    assert (found.suggested == expected.suggested[order])[clear].all()


def test_samples_without_a_label_change_nothing_for_those_with_one():
    """But as neighbours; these here are nobody's."""
    scores, _, _ = crawl(0, 3, 0.2, 0.2)
    n, m = scores.neighbours.shape[0], 2000
    rng = np.random.default_rng(0)
    more = make_scores(
        np.concatenate([scores.labels, np.full(m, -1)]),
        np.concatenate([scores.probs, rng.dirichlet(np.ones(3), m)]),
        np.concatenate([scores.neighbours, rng.integers(0, n, (m, 30))]),
        np.concatenate([scores.similarity, np.full((m, 30), 0.1, np.float32)]),
    )
    alone, together = decide(scores), decide(more)
    np.testing.assert_allclose(together.p_clean[:n], alone.p_clean, atol=1e-9)
    assert together.verdict[:n] == alone.verdict
    assert (together.suggested[:n] == alone.suggested).all()


def test_a_class_of_few_images_is_kept_and_shown():
    scores, truth, _ = crawl(0, 3, 0.0, 0.0)
    labels = np.where(truth == 2, 1, truth)
    few = np.flatnonzero(truth == 0)[: FEWEST - 1]
    labels[few] = 2
    d = decide(replace(scores, labels=labels))
    assert all(d.verdict[i] == Verdict.CLEAN for i in few)
    assert d.needs_review[few].all()
    assert all(d.reason[i].startswith("kept") for i in few)
    labels[np.flatnonzero(truth == 0)[FEWEST - 1]] = 2  # one more, and they are judged
    d = decide(replace(scores, labels=labels))
    assert not any(str(FEWEST) in reason for reason in d.reason)


def test_two_samples_without_neighbours_are_decided():
    none = np.zeros((2, 0))
    d = decide(make_scores(np.array([0, 1]), np.eye(2), none.astype(np.int32), none.astype(np.float32)))
    assert d.verdict == [Verdict.CLEAN] * 2
    assert d.needs_review.all()
    assert np.isnan(d.noise).all()  # not "0 % of the labels are wrong": nothing was judged


@pytest.mark.parametrize("rule", [None, PAPER], ids=["evidence", "paper"])
def test_it_is_decided_in_blocks_and_in_little_memory(rule: dict | None, monkeypatch: pytest.MonkeyPatch):
    """Ten thousand labels: copies of the probabilities in double precision would not fit."""
    scores, _, _ = crawl(0, 10, 0.2, 0.2)
    whole = decide(scores, rule)
    monkeypatch.setattr(labelnoise, "_BLOCK", 10_000)
    same(decide(scores, rule), whole, np.arange(len(scores.labels)))
    n, c = 3000, 600
    rng = np.random.default_rng(0)
    probs, near = rng.dirichlet(np.full(c, 0.05), n), rng.integers(0, n, (n, 5), np.int32)
    scores = make_scores(np.arange(n) % c, probs, near, np.ones((n, 5), np.float32))
    monkeypatch.setattr(labelnoise, "_ENOUGH", 10_000)
    tracemalloc.start()
    decide(scores, rule)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2.5 * (n * c * 4 + c * c * 8)  # it was 6 and 11 times that


# --- belief ---------------------------------------------------------------------------------------------------------


def test_a_vote_is_the_mean_of_the_neighbours_by_similarity():
    labels = np.array([0, 1, 1, -1])
    neighbours = np.array([[1, 2], [0, 2], [3, 3], [0, 1]], np.int32)
    similarity = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 1.0], [0.4, -0.9]])
    np.testing.assert_allclose(vote(neighbours, similarity, labels, 2), [[0, 1], [0.75, 0.25], [0.5, 0.5], [1, 0]])


@given(scores=anything())
@settings(max_examples=30, deadline=None)
def test_belief_is_a_distribution(scores: Scores):
    q = belief(scores).q
    assert q.shape == scores.probs.shape
    assert (q >= 0).all()
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("c", [2, 3, 10])
def test_belief_predicts_the_given_labels_no_worse_than_its_parts(c: int):
    scores, _, _ = crawl(0, c, 0.2, 0.2)
    at = np.arange(len(scores.labels)), scores.labels
    best = surprise(belief(scores).q[at])
    assert best <= min(surprise(warmed(scores.probs, t)[at]) for t in (0.5, 1.0, 2.0)) + 1e-6
    votes = vote(scores.neighbours, scores.similarity, scores.labels, c)
    assert best <= surprise(votes[at]) + 1e-6


def test_belief_is_calibrated():
    """Of the images believed to be given a class with a probability of p, about p were given it."""
    scores, _, _ = crawl(0, 3, 0.2, 0.2, 4000)
    q, was = belief(scores).q.ravel(), np.eye(3)[scores.labels].ravel()
    bins = (q * 5).astype(int)
    gap = sum(abs((q - was)[bins == b].sum()) for b in np.unique(bins)) / len(q)  # expected calibration error
    assert gap < 0.04


# --- where the truth is known ---------------------------------------------------------------------------------------

CLASSES = [2, 3, 10]


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("seed", range(4))
def test_of_a_clean_crawl_almost_everything_is_kept(c: int, seed: int):
    scores, _, _ = crawl(seed, c, 0.0, 0.0)
    d = decide(scores)
    assert (kinds(d) == 0).mean() >= 0.97
    assert (1 - d.p_clean).mean() < 0.05
    assert d.needs_review.mean() < 0.05


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_are_found_and_corrected(c: int, seed: int):
    scores, truth, kind = crawl(seed, c, 0.2, 0.0)
    d = decide(scores)
    assert f1_score(kind != 0, kinds(d) != 0) > 0.94
    relabeled = (kinds(d) == 1) & (kind == 1)
    assert relabeled.sum() > 0.4 * (kind == 1).sum()
    assert (d.suggested == truth)[relabeled].mean() > 0.95


@pytest.mark.parametrize("c", CLASSES)
def test_a_noisy_crawl_is_told_apart(c: int):
    """A fifth flipped, a fifth of no class. By chance, or with everything called clean, macro-F1 would be 0.25–0.33."""
    found = []
    for seed in range(4):
        scores, truth, kind = crawl(seed, c, 0.2, 0.2)
        d = decide(scores)
        found.append([
            f1_score(kind, kinds(d), average="macro"),
            f1_score(kind == 0, kinds(d) == 0),
            (1 - d.p_clean).mean() - (kind != 0).mean(),
            d.p_ood.mean() - (kind == 2).mean(),
            (d.suggested == truth)[(kinds(d) == 1) & (kind == 1)].mean(),
        ])  # fmt: skip
    macro, clean, noise_rate, ood_rate, corrected = np.mean(found, axis=0)
    assert macro > 0.75
    assert clean > 0.92
    assert abs(noise_rate) < 0.05
    assert abs(ood_rate) < 0.12
    assert corrected > 0.95


@pytest.mark.parametrize("c", CLASSES)
def test_points_of_no_class_are_not_taken_for_another(c: int):
    scores, _, kind = crawl(0, c, 0.0, 0.3)
    d = decide(scores)
    assert f1_score(kind == 2, kinds(d) == 2) > 0.85
    assert (kinds(d) == 1).mean() < 0.05


@pytest.mark.parametrize("c", CLASSES)
def test_confidence_is_higher_where_the_verdict_is_right(c: int):
    scores, _, kind = crawl(1, c, 0.2, 0.2)
    d = decide(scores)
    right = kinds(d) == kind
    assert d.confidence[right].mean() > d.confidence[~right].mean() + 0.1
    assert abs(d.confidence.mean() - right.mean()) < 0.1


@pytest.mark.parametrize("c", [2, 3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_who_has_learned_nothing_judges_nothing(c: int, seed: int):
    """Labels drawn at random, features and predictions that know nothing of them: all is kept, all is to be seen."""
    rng = np.random.default_rng(seed)
    n = 70
    labels = rng.integers(0, c, n)
    neighbours = np.array([rng.permutation(np.delete(np.arange(n), i))[:20] for i in range(n)])
    scores = make_scores(labels, rng.dirichlet(np.full(c, 20.0), n), neighbours.astype(np.int32),
                         np.full(neighbours.shape, 0.5, np.float32))  # fmt: skip
    d = decide(scores)
    assert set(d.verdict) == {Verdict.CLEAN}
    assert d.needs_review.all()


def test_company_is_the_share_of_wrong_labels_among_the_nearest():
    neighbours = np.array([[1, 2], [0, 2], [3, 3], [0, 1]], np.int32)
    similarity = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 1.0], [0.4, -0.9]], np.float32)
    scores = make_scores(np.array([0, 1, 1, -1]), np.eye(2)[[0, 1, 1, 0]], neighbours, similarity)
    np.testing.assert_allclose(company(scores, np.array([1.0, 0.5, 0.0, 1.0])), [0.25, 0.75, 0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_of_two_signs_the_better_one_counts_more_and_a_backward_one_not_at_all(seed: int):
    rng = np.random.default_rng(seed)
    wrong = rng.random(2000) < 0.3
    good, poor, backward = (rng.normal(0, 1, 2000) + shift * wrong for shift in (3, 1, -2))
    strange = strangeness(np.stack([10 * good, poor]), ~wrong, wrong)  # units do not matter
    assert np.corrcoef(strange, good)[0, 1] > np.corrcoef(strange, poor)[0, 1]
    alone = strangeness(np.stack([good, backward]), ~wrong, wrong)
    assert np.corrcoef(alone, good)[0, 1] == pytest.approx(1)
    nothing = strangeness(np.stack([backward, backward]), ~wrong, wrong)
    assert np.isfinite(nothing).all()


@pytest.mark.parametrize("seed", range(3))
def test_foreign_images_that_look_like_each_other_are_found_by_their_company(seed: int):
    """A cloud of no class whose beliefs are as sure as any: its neighbours' labels are wrong, too."""
    rng, c, n = np.random.default_rng(seed), 4, 800
    truth = np.r_[np.arange(n) % c, np.full(n // 4, NO_CLASS)]
    given = np.where((truth == NO_CLASS) | (rng.random(len(truth)) < 0.2), rng.integers(0, c, len(truth)), truth)
    group = np.where(truth == NO_CLASS, c, truth)
    near = np.stack([rng.permutation(np.flatnonzero(group == g))[:20] for g in group])
    probs = 0.6 * np.eye(c)[np.where(truth == NO_CLASS, rng.integers(0, c, len(truth)), truth)] + 0.1
    scores = make_scores(given, probs, near.astype(np.int32), np.ones(near.shape, np.float32))
    d = decide(scores)
    assert f1_score(truth == NO_CLASS, kinds(d) == 2) > 0.75


@pytest.mark.parametrize("c", CLASSES)
def test_the_two_groups_are_read_off_some_of_many(c: int, monkeypatch: pytest.MonkeyPatch):
    scores, _, kind = crawl(0, c, 0.2, 0.2)
    whole = decide(scores)
    monkeypatch.setattr(verdict, "_NUMBERS", 3 * labelnoise._ENOUGH // len(kind))  # a third
    some = decide(scores)
    assert not np.array_equal(some.p_ood, whole.p_ood)
    assert (kinds(some) == kinds(whole)).mean() > 0.93
    assert f1_score(kind, kinds(some), average="macro") > f1_score(kind, kinds(whole), average="macro") - 0.05


# --- what is asked for, and what people have seen -------------------------------------------------------------------


@given(scores=anything(), keep=st.floats(0.01, 1))
@settings(max_examples=40, deadline=None)
def test_the_asked_share_is_kept_and_it_is_the_surest(scores: Scores, keep: float):
    opinion = by_evidence(scores)
    judged = ~opinion.unjudged & (scores.labels >= 0)
    best = aimed(opinion, Target(keep=keep), scores.labels)
    clean = judged & (best == 0)
    assert clean.sum() == round(keep * judged.sum())
    if clean.any() and (judged & ~clean).any():
        assert opinion.p[0, clean].min() >= opinion.p[0, judged & ~clean].max()
    assert (best[opinion.unjudged] == 0).all()


def test_where_labels_fit_no_better_than_chance_nothing_is_known_of_any():
    rng, n, c = np.random.default_rng(0), 400, 4
    near = np.array([rng.permutation(n)[:10] for _ in range(n)], np.int32)
    scores = make_scores(rng.integers(0, c, n), rng.dirichlet(np.ones(c), n), near, np.ones((n, 10), np.float32))
    d = decide(scores)
    assert set(d.verdict) == {Verdict.CLEAN}  # as they were given
    assert set(d.reason) == {KEPT}
    assert d.confidence.max() <= 0.5
    assert d.needs_review.all()
    assert np.isnan(d.noise[:, 0]).all()
    assert not d.flow.any()


@pytest.mark.parametrize("precision", [0.8, 0.9, 0.95, 0.99])
def test_the_asked_precision_is_met_with_as_many_as_it_allows(precision: float):
    scores, _, true_kind = crawl(0, 5, 0.2, 0.2)
    d = decide(scores, target=Target(min_precision=precision))
    clean = kinds(d) == 0
    assert d.p_clean[clean].mean() >= precision
    assert (true_kind[clean] == 0).mean() >= precision - 0.06  # as it is, not as it is believed
    one_more = np.flatnonzero(~clean)[d.p_clean[~clean].argmax()]
    assert d.p_clean[[*np.flatnonzero(clean), one_more]].mean() < precision


@pytest.mark.parametrize("target", [Target(keep=0.2), Target(min_precision=0.999)])
def test_what_is_likely_right_and_left_out_is_not_given_another_label(target: Target):
    """It was relabeled where p_id was above p_ood, however small both were."""
    scores, _, _ = crawl(0, 5, 0.2, 0.2)
    free, d = decide(scores), decide(scores, target=target)
    left_out = (kinds(free) == 0) & (kinds(d) != 0)
    assert left_out.sum() > 10
    assert (kinds(d)[left_out] == 2).all()
    assert (d.suggested[left_out] == -1).all()
    assert d.needs_review[left_out].all()
    assert [reason == LEFT_OUT for reason in d.reason] == left_out.tolist()
    assert (kinds(d)[~left_out] == kinds(free)[~left_out]).all()


@pytest.mark.parametrize("target", [Target(keep=0.5), Target(min_precision=0.97)])
def test_images_without_a_label_do_not_count_for_a_target(target: Target):
    scores, _, _ = crawl(0, 5, 0.2, 0.2)
    opinion, has_label = by_evidence(scores), np.arange(len(scores.labels)) % 3 > 0
    best = aimed(opinion, target, np.where(has_label, scores.labels, -1))
    p, share, *others = opinion.p, opinion.share, opinion.best, opinion.unjudged, opinion.unseen
    alone = Opinion(p[:, has_label], share[has_label], *(values[has_label] for values in others))
    assert np.array_equal(best[has_label], aimed(alone, target, scores.labels[has_label]))
    assert np.array_equal(best[~has_label], opinion.best[~has_label])


def test_an_easier_target_keeps_more():
    scores, _, _ = crawl(1, 5, 0.2, 0.2)
    counts = [(kinds(decide(scores, target=Target(min_precision=p))) == 0).sum() for p in (0.99, 0.95, 0.9, 0.8, 0.6)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.parametrize("rule", [None, PAPER], ids=["evidence", "paper"])
@given(scores=anything(), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_people_are_never_overruled(rule: dict | None, scores: Scores, seed: int):
    n, c = scores.probs.shape
    scores = replace(scores, verified=np.random.default_rng(seed).integers(UNVERIFIED, c, n))
    d = decide(scores, rule, Target(keep=0.5))
    for i in np.flatnonzero(scores.verified != UNVERIFIED):
        none, right = scores.verified[i] == NO_CLASS, scores.verified[i] == scores.labels[i]
        assert d.verdict[i] == (Verdict.OOD if none else Verdict.CLEAN if right else Verdict.RELABELED)
        assert d.suggested[i] == (-1 if none or right else scores.verified[i])
        assert d.confidence[i] == 1
        assert not d.needs_review[i]
    np.testing.assert_allclose(d.p_clean + d.p_id + d.p_ood, 1, atol=1e-6)


def test_what_people_saw_sets_the_other_probabilities_right():
    """A model that is far too sure, and 150 verified samples: the calibration of the rest improves."""
    scores, truth, true_kind = crawl(2, 5, 0.25, 0.25)
    rest = np.arange(len(truth)) >= 150
    verified = np.where(rest, UNVERIFIED, np.where(true_kind == 2, NO_CLASS, truth))

    def surprise_of(d: Decision) -> float:
        p = np.stack([d.p_clean, d.p_id, d.p_ood])
        return float(-np.log(np.clip(p[true_kind[rest], np.flatnonzero(rest)], 1e-3, 1)).mean())

    assert surprise_of(decide(replace(scores, verified=verified))) < surprise_of(decide(scores))


@given(scores=anything())
@settings(max_examples=30, deadline=None)
def test_the_flow_counts_every_labelled_sample_once_or_where_none_can_be_judged_none(scores: Scores):
    decision = decide(scores)
    flow = decision.flow
    n_classes = scores.probs.shape[1]
    assert flow.shape == (n_classes + 1, n_classes)
    assert (flow >= -1e-9).all()
    counts = np.bincount(scores.labels[scores.labels >= 0], minlength=n_classes)
    counts = counts * ~np.isnan(decision.noise[-1, 0])
    np.testing.assert_allclose(flow.sum(0), counts, atol=1e-6)


def test_the_flow_finds_who_was_flipped_to_whom():
    scores, truth, true_kind = crawl(0, 4, 0.25, 0.15)
    shown = np.where(true_kind == 2, 4, truth)
    true_flow = np.zeros((5, 4))
    np.add.at(true_flow, (shown, scores.labels), 1)
    found = decide(scores).flow
    assert np.abs(found - true_flow).sum() / len(truth) < 0.15


@pytest.mark.parametrize(("flips", "ood"), [(0.1, 0.0), (0.2, 0.2), (0.4, 0.1)])
@pytest.mark.parametrize("seed", range(2))
def test_the_interval_of_the_noise_rate_holds_the_truth(flips: float, ood: float, seed: int):
    scores, _, true_kind = crawl(seed, 5, flips, ood)
    rate, low, high = decide(scores).noise[-1]
    assert low <= rate <= high
    assert low <= (true_kind != 0).mean() <= high
    assert high - low < 0.4


@pytest.mark.parametrize("flips", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_of_two_classes_that_are_hard_to_tell_apart_it_holds_it_too(flips: float, seed: int):
    """What is not recognised looks surely wrong there."""
    scores, _, true_kind = crawl(seed, 2, flips, 0.0, apart=0.4)
    _, low, high = decide(scores).noise[-1]
    assert low <= (true_kind != 0).mean() <= high < 0.9


@given(scores=anything())
@settings(max_examples=30, deadline=None)
def test_noise_rates_are_shares_and_fit_the_probabilities(scores: Scores):
    d = decide(scores)
    labelled = scores.labels >= 0
    assert d.noise.shape == (scores.probs.shape[1] + 1, 3)
    if all(reason.startswith("kept") for reason in np.array(d.reason, object)[labelled]):
        assert np.isnan(d.noise).all()
        return
    assert d.noise[-1, 0] == pytest.approx(1 - d.p_clean[labelled].mean(), abs=1e-9)
    counted = np.bincount(scores.labels[labelled], minlength=scores.probs.shape[1]) > 0
    assert (np.isnan(d.noise[:-1]).all(1) == ~counted).all()
    rates = d.noise[~np.isnan(d.noise[:, 0])]
    assert ((rates >= -1e-9) & (rates <= 1 + 1e-9)).all()
    assert (rates[:, 1] <= rates[:, 0] + 1e-9).all()
    assert (rates[:, 0] <= rates[:, 2] + 1e-9).all()


def test_a_class_whose_labels_are_all_almost_surely_wrong_stays_within_its_interval():
    rate, low, high = noise_rates(np.zeros(400, int), 1, np.full(400, 0.05))[0]
    assert low <= rate <= high
    assert rate == pytest.approx(0.95)


def test_reliability_tells_what_people_found_before_their_labels_set_it_right():
    scores, truth, true_kind = crawl(2, 5, 0.25, 0.25)
    nobody = decide(scores)
    assert nobody.reliability.shape == (0, 4)
    seen = np.arange(len(truth)) < 400
    verified = np.where(seen, np.where(true_kind == 2, NO_CLASS, truth), UNVERIFIED)
    rows = decide(replace(scores, verified=verified)).reliability
    assert rows[:, 1].sum() == 400
    for low, images, p_clean, right in rows:
        tenth = seen & (nobody.p_clean >= low) & ((nobody.p_clean < low + 0.1) | (low == 0.9))
        assert images == tenth.sum()
        assert p_clean == pytest.approx(nobody.p_clean[tenth].mean())
        assert right == pytest.approx((true_kind[tenth] == 0).mean())

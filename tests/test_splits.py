"""Splits: every class is split as it was asked for, copies stay together, the same seed gives the same."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb.errors import UsageError
from cleanweb.splits import assign, parse, sizes_of

SHARES = st.sampled_from(["train=0.9,val=0.1", "train=0.8,val=0.1,test=0.1", "a=0.5,b=0.5", "train=1", "a=0.01,b=0.99"])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 500), SHARES)
def test_sizes_are_the_shares_rounded(n, text):
    shares = list(parse(text).values())
    sizes = sizes_of(n, shares)
    assert sum(sizes) == n
    if n >= len(shares):
        assert all(size >= 1 for size in sizes)
    if all(n * share >= 1 for share in shares):
        assert all(abs(size - n * share) < 1 for size, share in zip(sizes, shares, strict=True))


@pytest.mark.parametrize(
    ("n", "expected"), [(0, [0, 0]), (1, [1, 0]), (2, [1, 1]), (4, [3, 1]), (7, [6, 1]), (14, [13, 1]), (100, [90, 10])]
)
def test_how_rare_classes_round(n, expected):
    assert sizes_of(n, [0.9, 0.1]) == expected


CROWD = st.lists(st.tuples(st.sampled_from(["cat", "dog", "rare", None]), st.integers(0, 40)), max_size=80)


@settings(max_examples=200, deadline=None)
@given(CROWD, SHARES, st.integers(0, 3))
def test_copies_stay_together_and_classes_are_split_alike(rows, text, seed):
    labels, groups = [label for label, _ in rows], [f"{n}.jpg" for _, n in rows]
    shares = parse(text)
    drawn = assign(labels, groups, shares, seed)
    where = defaultdict(set)
    for group, split in zip(groups, drawn, strict=True):
        where[group].add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert assign(labels, groups, shares, seed) == drawn
    first = dict(reversed([*zip(groups, labels, strict=True)]))
    for label in set(first.values()):
        members = [group for group in first if first[group] == label]
        counts = Counter(next(iter(where[group])) for group in members)
        assert [counts[name] for name in shares] == sizes_of(len(members), list(shares.values()))


def test_the_order_of_the_rows_does_not_matter_but_the_seed_does():
    groups = [f"{n}.jpg" for n in range(200)]
    labels = ["cat"] * 200
    shares = parse("train=0.5,val=0.5")
    one = dict(zip(groups, assign(labels, groups, shares, 0), strict=True))
    other = dict(zip(groups[::-1], assign(labels, groups[::-1], shares, 0), strict=True))
    assert one == other
    assert one != dict(zip(groups, assign(labels, groups, shares, 1), strict=True))


@pytest.mark.parametrize(("text", "words"), [
    ("", "no name"), ("train", "no number"), ("train=x,val=1", "'x' is no number"), ("train=0.9", "add up to 0.9"),
    ("train=0.9,val=0.2", "add up to 1.1"), ("train=0.5,train=0.5", "twice"), ("train=0.5,TRAIN=0.5", "twice"),
    ("../x=1", "no name"), ("a b=1", "no name"), ("con=1", "no name"), ("train=1,val=0", "above 0"),
    ("train=nan", "above 0"), ("train=inf", "above 0"), ("train=-1,val=2", "above 0"),
])  # fmt: skip
def test_what_is_no_split_is_explained(text, words):
    with pytest.raises(UsageError, match=words):
        parse(text)

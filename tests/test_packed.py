"""What is kept in columns comes out as it went in, and takes little memory."""

import sys
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cleanweb.packed import Facts, Samples
from cleanweb.records import ImageFacts, Sample, Status

TEXT = st.text("aé/#\udcff\n😀", max_size=6)  # file names need not be text
SHA256, DIGEST = (st.just("") | st.binary(min_size=n, max_size=n).filter(any).map(bytes.hex) for n in (32, 16))
SAMPLES = st.builds(Sample, TEXT, TEXT, TEXT, st.none() | st.integers(0, 2**40), st.none() | TEXT,
                    st.sampled_from(Status), TEXT, TEXT, TEXT)  # fmt: skip
FACTS = st.builds(ImageFacts, st.sampled_from(Status), TEXT, TEXT, st.integers(0, 2**31 - 1), st.integers(0, 9),
                  st.integers(0, 2**40), SHA256, DIGEST, st.integers(0, 2**64 - 1), TEXT)  # fmt: skip


@given(samples=st.lists(SAMPLES, max_size=30))
@settings(max_examples=25, deadline=None)
def test_samples_come_out_as_they_went_in(samples: list[Sample]):
    kept = Samples(samples)
    assert len(kept) == len(samples)
    assert list(kept) == samples
    assert kept == samples == kept
    assert kept[1:] == samples[1:]
    assert [kept[-i - 1] for i in range(len(samples))] == samples[::-1]
    with pytest.raises(IndexError):
        kept[len(samples)]


@given(samples=st.lists(SAMPLES, max_size=30), rows=st.lists(st.integers(0, 29), max_size=9))
@example(samples=[Sample("", "", "", None, None)], rows=[0])
@settings(max_examples=25, deadline=None)
def test_columns_of_samples_say_what_samples_say(samples: list[Sample], rows: list[int]):
    kept, rows = Samples(samples), [row for row in rows if row < len(samples)]
    columns = kept.columns(np.array(rows, int))
    for name, values in columns.items():
        wanted = [getattr(samples[row], name) for row in rows]
        if name == "row":
            wanted = [-1 if number is None else number for number in wanted]
        elif name not in ("sample_id", "path"):  # those are texts whatever is in them
            wanted = [text or None for text in wanted]
        assert values.tolist() == wanted, name
    assert {*columns} == {field.name for field in fields(Sample)}
    labels, given = kept.labels()
    assert [None if place < 0 else labels[place] for place in given] == [sample.given_label for sample in samples]
    assert {*labels} == {sample.given_label for sample in samples} - {None}


@given(facts=st.dictionaries(st.integers(0, 9), FACTS, max_size=9), order=st.lists(st.integers(0, 2000), max_size=9))
@settings(max_examples=25, deadline=None)
def test_columns_of_facts_say_what_facts_say(facts: dict[int, ImageFacts], order: list[int]):
    kept = Facts()
    kept.update(facts)
    found = kept.of(np.array(order, int))
    columns = found.columns(np.arange(len(order)))
    for name, values in columns.items():
        wanted = [getattr(fact, name) for fact in found]
        assert values.tolist() == [text or None if isinstance(text, str) else text for text in wanted], name
    assert {*columns} == {field.name for field in fields(ImageFacts)}


@given(facts=st.dictionaries(st.integers(0, 3000), FACTS, max_size=30), other=FACTS)
@settings(max_examples=25, deadline=None)
def test_facts_come_out_as_they_went_in(facts: dict[int, ImageFacts], other: ImageFacts):
    kept = Facts()
    for i, fact in facts.items():
        kept[i] = fact
    assert kept == facts
    assert sorted(kept) == sorted(facts)
    for i in list(facts)[:3]:
        kept[i] = other
        assert kept[i] == other
        del kept[i]
        assert i not in kept
        assert kept.get(i) is None
    assert len(kept) == max(0, len(facts) - 3)


def test_an_order_of_facts_has_missing_ones_where_there_are_none():
    kept, fact = Facts(), ImageFacts(Status.OK, width=3)
    kept[4] = fact
    found = kept.of(np.array([4, 0, 4]))
    assert list(found) == [fact, ImageFacts(Status.MISSING), fact]
    assert found[1:] == [ImageFacts(Status.MISSING), fact]


def test_a_sample_and_its_facts_take_less_than_150_bytes():
    n = 20_000
    samples = Samples(Sample(f"{i:07d}.jpg", f"{i:07d}.jpg", f"/crawl/{i:07d}.jpg", None, f"class {i % 9}", Status.OK)
                      for i in range(n))  # fmt: skip
    facts = Facts()
    for i in range(n):
        facts[i] = ImageFacts(Status.OK, "", "JPEG", 32, 32, 900, f"{i:064x}", f"{i:032x}", i)
    held = samples._rows.nbytes + sys.getsizeof(samples._paths) + facts._rows[:n].nbytes
    assert held / n < 150
